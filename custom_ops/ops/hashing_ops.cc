// Declarations of the ops that hash, probe and select: inputs, outputs, shapes
// and documentation. The kernels are in custom_ops/kernels.
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace keras_lsh {
namespace {

using ::tensorflow::shape_inference::DimensionHandle;
using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

// [n, tables * bits] margins; sets *n.
absl::Status MarginsShape(InferenceContext* c, DimensionHandle* n,
                          int64_t* tables, int64_t* bits) {
  TF_RETURN_IF_ERROR(c->GetAttr("tables", tables));
  TF_RETURN_IF_ERROR(c->GetAttr("bits", bits));
  ShapeHandle margins;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &margins));
  DimensionHandle width;
  TF_RETURN_IF_ERROR(c->WithValue(c->Dim(margins, 1), *tables * *bits, &width));
  *n = c->Dim(margins, 0);
  return absl::OkStatus();
}

// The inputs of LshCellWorth, [batch, input_dim] and what belongs to them; sets
// *batch and *cells.
absl::Status CellQueriesShape(InferenceContext* c, DimensionHandle* batch,
                              DimensionHandle* cells) {
  ShapeHandle inputs, center, basis, scales, centroids;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &inputs));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 1, &center));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 2, &basis));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(3), 1, &scales));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(4), 2, &centroids));
  DimensionHandle merged;
  const DimensionHandle input_dim = c->Dim(inputs, 1);
  TF_RETURN_IF_ERROR(c->Merge(input_dim, c->Dim(center, 0), &merged));
  TF_RETURN_IF_ERROR(c->Merge(input_dim, c->Dim(basis, 0), &merged));
  TF_RETURN_IF_ERROR(c->Merge(c->Dim(basis, 1), c->Dim(scales, 0), &merged));
  *batch = c->Dim(inputs, 0);
  *cells = c->Dim(centroids, 0);
  return absl::OkStatus();
}

// [tables, buckets + 1] offsets, [tables, units] ids and [batch, any] forced
// ones, the inputs from `first` on; sets the output, [batch, active].
absl::Status SelectionShape(InferenceContext* c, int first,
                            DimensionHandle batch) {
  ShapeHandle offsets, table_ids, forced;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(first), 2, &offsets));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(first + 1), 2, &table_ids));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(first + 2), 2, &forced));
  DimensionHandle unused;
  TF_RETURN_IF_ERROR(c->Merge(batch, c->Dim(forced, 0), &batch));
  TF_RETURN_IF_ERROR(
      c->Merge(c->Dim(offsets, 0), c->Dim(table_ids, 0), &unused));
  int64_t active;
  TF_RETURN_IF_ERROR(c->GetAttr("active", &active));
  c->set_output(0, c->MakeShape({batch, c->MakeDim(active)}));
  return absl::OkStatus();
}

}  // namespace

REGISTER_OP("LshMatmul")
    .Input("a: float")
    .Input("b: float")
    .Output("product: float")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle a, b;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &a));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &b));
      DimensionHandle inner;
      TF_RETURN_IF_ERROR(c->Merge(c->Dim(a, 1), c->Dim(b, 0), &inner));
      c->set_output(0, c->Matrix(c->Dim(a, 0), c->Dim(b, 1)));
      return absl::OkStatus();
    })
    .Doc(R"doc(
The product of two matrices, the same bits whatever the number of threads.

TensorFlow's own may change with it, which moves neurons between buckets.

a: [n, inner].
b: [inner, m], of few columns or rows: it is read for every few rows of `a`.
product: [n, m], each element summed over `inner` in ascending order, fused.
)doc");

REGISTER_OP("LshCoordinates")
    .Input("vectors: float")
    .Input("directions: float")
    .Input("addend: float")
    .Output("coordinates: float")
    .Attr("largest: float")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle vectors, directions, addend;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &vectors));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &directions));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 1, &addend));
      DimensionHandle inner;
      TF_RETURN_IF_ERROR(
          c->Merge(c->Dim(vectors, 1), c->Dim(directions, 0), &inner));
      c->set_output(0, c->Matrix(c->Dim(vectors, 0), c->Dim(directions, 1)));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Products of vectors with some directions, as LshMatmul gives them, made finite.

vectors: [n, inner].
directions: [inner, m].
addend: [n] or [0], what the last column is raised by.
largest: what coordinates are cut to, on either side of 0; NaN becomes 0.
coordinates: [n, m].
)doc");

REGISTER_OP("LshRowDigests")
    .Input("rows: float")
    .Output("digests: int32")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle rows;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &rows));
      c->set_output(0, c->Vector(c->Dim(rows, 0)));
      return absl::OkStatus();
    })
    .Doc(R"doc(
A number for each row that tells whether the row has changed.

rows: [n, inner].
digests: [n], the sum of the elements' bits, modulo 2^32, element j times
  (2 j + 1) * 0x9E3779B1.
)doc");

REGISTER_OP("LshHashCodes")
    .Input("margins: float")
    .Output("codes: int32")
    .Attr("tables: int >= 1")
    .Attr("bits: int >= 1")
    .SetShapeFn([](InferenceContext* c) {
      DimensionHandle n;
      int64_t tables, bits;
      TF_RETURN_IF_ERROR(MarginsShape(c, &n, &tables, &bits));
      c->set_output(0, c->MakeShape({n, c->MakeDim(tables)}));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Packs the signs of margins into bucket codes.

margins: [n, tables * bits], inner products with the hash directions.
codes: [n, tables]; bit j of code t is margins[:, t * bits + j] > 0.
)doc");

REGISTER_OP("LshBuildTables")
    .Input("codes: int32")
    .Output("offsets: int32")
    .Output("ids: int32")
    .Attr("buckets: int >= 1")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle codes;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &codes));
      int64_t buckets;
      TF_RETURN_IF_ERROR(c->GetAttr("buckets", &buckets));
      const DimensionHandle units = c->Dim(codes, 0);
      const DimensionHandle tables = c->Dim(codes, 1);
      c->set_output(0, c->MakeShape({tables, c->MakeDim(buckets + 1)}));
      c->set_output(1, c->MakeShape({tables, units}));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Sorts neurons into the buckets of each table (compressed sparse rows).

codes: [units, tables], each in [0, buckets).
offsets: [tables, buckets + 1]; bucket c of table t is
  ids[t, offsets[t, c] : offsets[t, c + 1]].
ids: [tables, units], ascending within a bucket.
)doc");

REGISTER_OP("LshProbeSequence")
    .Input("margins: float")
    .Output("buckets: int32")
    .Output("weights: int32")
    .Attr("tables: int >= 1")
    .Attr("bits: int >= 1")
    .Attr("probes: int >= 1")
    .SetShapeFn([](InferenceContext* c) {
      DimensionHandle n;
      int64_t tables, bits, probes;
      TF_RETURN_IF_ERROR(MarginsShape(c, &n, &tables, &bits));
      TF_RETURN_IF_ERROR(c->GetAttr("probes", &probes));
      const ShapeHandle out = c->MakeShape({n, c->MakeDim(tables * probes)});
      c->set_output(0, out);
      c->set_output(1, out);
      return absl::OkStatus();
    })
    .Doc(R"doc(
The buckets to look into (Lv et al. 2007, multi-probe LSH).

margins: [batch, tables * bits].
buckets: [batch, tables * probes], global numbers table * 2^bits + code: the
  initial bucket of each table, then the cheapest perturbations over all tables,
  a cost being the sum of the squared margins of the flipped bits; these table by
  table.
weights: [batch, tables * probes], 65536 / (1 + cost), truncated.
)doc");

REGISTER_OP("LshProbeDigits")
    .Input("scores: float")
    .Output("buckets: int32")
    .Output("weights: int32")
    .Attr("probes: int >= 1")
    .Attr("negatives: bool")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle scores;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 4, &scores));
      int64_t probes;
      TF_RETURN_IF_ERROR(c->GetAttr("probes", &probes));
      DimensionHandle count;
      TF_RETURN_IF_ERROR(c->Multiply(c->Dim(scores, 1), probes, &count));
      c->set_output(0, c->Matrix(c->Dim(scores, 0), count));
      c->set_output(1, c->Matrix(c->Dim(scores, 0), count));
      return absl::OkStatus();
    })
    .Doc(R"doc(
The buckets to look into, of codes whose digits are the values of largest score.

scores: [batch, tables, functions, n], of the values of each digit, the first digit
  being the most significant.
buckets: [batch, tables * probes], global numbers table * values^functions + code: the
  own bucket of each table, then the cheapest others of all tables, table by table. A
  digit costs the square of how much its score is smaller than the largest.
weights: [batch, tables * probes], 65536 / (1 + cost), truncated.
negatives: whether there are 2 n values, the latter n with the negative scores.
)doc");

REGISTER_OP("LshNearestCells")
    .Input("points: float")
    .Input("centroids: float")
    .Input("middles: float")
    .Input("group_of: int32")
    .Output("nearest: int32")
    .Attr("groups: int >= 0 = 0")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle points, centroids;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &points));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 3, &centroids));
      c->set_output(0, c->Matrix(c->Dim(points, 0), c->Dim(centroids, 0)));
      return absl::OkStatus();
    })
    .Doc(R"doc(
The nearest centroid of each table, by Euclidean distance; of equal ones the first.

points: [count, width].
centroids: [tables, cells, width].
middles: [tables, any, width], of groups of cells.
group_of: [tables, cells], the group of each cell.
groups: if positive, a point looks only at the cells of so many groups: those whose
  middles are nearest to it. If not, `middles` and `group_of` do not matter.
nearest: [count, tables].
)doc");

REGISTER_OP("LshCellMeans")
    .Input("points: float")
    .Input("members: int32")
    .Output("means: float")
    .Output("sizes: int32")
    .Attr("cells: int >= 1")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle points, members;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &points));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &members));
      int64_t cells;
      TF_RETURN_IF_ERROR(c->GetAttr("cells", &cells));
      const auto tables = c->Dim(members, 1);
      c->set_output(
          0, c->MakeShape({tables, c->MakeDim(cells), c->Dim(points, 1)}));
      c->set_output(1, c->Matrix(tables, cells));
      return absl::OkStatus();
    })
    .Doc(R"doc(
The mean of each cell's points, 0 without points, and their number.

points: [count, width].
members: [count, tables], the cell of each point; -1: none.
cells: cells of a table.
means: [tables, cells, width].
sizes: [tables, cells].
)doc");

REGISTER_OP("LshCellWorth")
    .Input("inputs: float")
    .Input("center: float")
    .Input("basis: float")
    .Input("scales: float")
    .Input("centroids: float")
    .Output("worth: float")
    .Attr("largest: float")
    .SetShapeFn([](InferenceContext* c) {
      DimensionHandle batch, cells;
      TF_RETURN_IF_ERROR(CellQueriesShape(c, &batch, &cells));
      c->set_output(0, c->Matrix(batch, cells));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Products of centroids with the coordinates of inputs, and a 1 after these.

inputs: [batch, input_dim].
center: [input_dim].
basis: [input_dim, rank].
scales: [rank]. Coordinates are basis' (x - center) / scales, 0 where these are 0.
centroids: [cells, rank + 1].
worth: [batch, cells].
largest: what coordinates are cut to, on either side of 0; NaN becomes 0.
)doc");

REGISTER_OP("LshRankCells")
    .Input("worth: float")
    .Output("buckets: int32")
    .Output("weights: int32")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle worth;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &worth));
      c->set_output(0, worth);
      c->set_output(1, worth);
      return absl::OkStatus();
    })
    .Doc(R"doc(
All cells as buckets to look into, weighted by their worth.

worth: [batch, cells].
buckets: [batch, cells], each row 0, 1, ..., cells - 1.
weights: [batch, cells], linear in the worth, from 1 for the least of a sample to
  65536 for the largest; truncated. 1 where all are equal.
)doc");

REGISTER_OP("LshObserveInputs")
    .Input("inputs: float")
    .Input("center: float")
    .Input("basis: float")
    .Input("mean: float")
    .Input("moments: float")
    .Input("count: float")
    .Output("new_mean: float")
    .Output("new_moments: float")
    .Output("new_count: float")
    .Attr("rows: int >= 1")
    .Attr("largest: float")
    .Attr("window: float")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle inputs, mean, moments, count;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &inputs));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(3), 1, &mean));
      TF_RETURN_IF_ERROR(c->Merge(mean, c->input(1), &mean));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(4), 2, &moments));
      TF_RETURN_IF_ERROR(c->Merge(moments, c->input(2), &moments));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(5), 0, &count));
      DimensionHandle unused;
      TF_RETURN_IF_ERROR(c->Merge(c->Dim(inputs, 1), c->Dim(mean, 0), &unused));
      TF_RETURN_IF_ERROR(
          c->Merge(c->Dim(inputs, 1), c->Dim(moments, 0), &unused));
      c->set_output(0, mean);
      c->set_output(1, moments);
      c->set_output(2, count);
      return absl::OkStatus();
    })
    .Doc(R"doc(
Adds inputs to the averages of x - center and (x - center) (x - center)' basis.

inputs: [batch, input_dim].
center: [input_dim].
basis: [input_dim, rank].
mean: [input_dim], average of x - center so far.
moments: [input_dim, rank], likewise.
count: scalar, the number of inputs in the averages.
rows: of the batch, at most so many inputs are added, evenly spaced.
largest: an input with an element of this size or more, or NaN, is left out.
window: new_count is at most this.
)doc");

REGISTER_OP("LshSelectActive")
    .Input("buckets: int32")
    .Input("weights: int32")
    .Input("offsets: int32")
    .Input("table_ids: int32")
    .Input("forced: int32")
    .Input("fill_seeds: int32")
    .Output("ids: int32")
    .Attr("active: int >= 1")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle buckets, unused;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &buckets));
      TF_RETURN_IF_ERROR(c->Merge(buckets, c->input(1), &unused));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(5), 1, &unused));
      return SelectionShape(c, 2, c->Dim(buckets, 0));
    })
    .Doc(R"doc(
Chooses the active neurons of each sample from the buckets it probes.

buckets: [batch, num_probes], global bucket numbers.
weights: [batch, num_probes], in [1, 65536]. A neuron's score is the sum of the weights of
  the probed buckets that contain it.
offsets: [tables, buckets per table + 1].
table_ids: [tables, units].
forced: [batch, num_forced], neurons that are active in any case; -1 for none.
fill_seeds: [batch], seeds of the choice that fills up a set that is too small, or
  [0] to leave it small.
ids: [batch, active], ascending, unused places last and -1. Chosen are the forced
  neurons, then the others by (score descending, id ascending), then the fill.
)doc");

REGISTER_OP("LshSelectFromCells")
    .Input("inputs: float")
    .Input("center: float")
    .Input("basis: float")
    .Input("scales: float")
    .Input("centroids: float")
    .Input("offsets: int32")
    .Input("table_ids: int32")
    .Input("forced: int32")
    .Output("ids: int32")
    .Attr("active: int >= 1")
    .Attr("largest: float")
    .SetShapeFn([](InferenceContext* c) {
      DimensionHandle batch, cells;
      TF_RETURN_IF_ERROR(CellQueriesShape(c, &batch, &cells));
      return SelectionShape(c, 5, batch);
    })
    .Doc(R"doc(
Chooses the active neurons of each input from the cells of one table.

What LshCellWorth, LshRankCells and LshSelectActive give one after the other, the sum of
the buckets being the seed of the fill.

inputs: [batch, input_dim].
center: [input_dim].
basis: [input_dim, rank].
scales: [rank].
centroids: [cells, rank + 1].
offsets: [1, cells + 1].
table_ids: [1, units].
forced: [batch, num_forced], neurons that are active in any case; -1 for none.
largest: what coordinates are cut to.
ids: [batch, active], ascending, unused places last and -1.
)doc");

}  // namespace keras_lsh
