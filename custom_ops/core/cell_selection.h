#ifndef CUSTOM_OPS_CORE_CELL_SELECTION_H_
#define CUSTOM_OPS_CORE_CELL_SELECTION_H_

#include <cstdint>
#include <vector>

#include "custom_ops/core/active_set.h"
#include "custom_ops/core/bucket_tables.h"
#include "custom_ops/core/cells.h"
#include "custom_ops/core/parallel.h"
#include "custom_ops/core/shared.h"
#include "custom_ops/core/status.h"
#include "custom_ops/core/vector_kernels.h"

namespace keras_lsh {

// Chooses the active neurons of inputs from the cells of one table, all of them
// ranked by their worth: what CellWorth, RankCells and an ActiveSetSelector do
// one after the other, done for a few inputs at a time. Several threads may use
// one object, which keeps its scratch memory from one call to the next.
class CellSelector {
 public:
  // tables.tables = 1, tables.buckets = queries.cells, active <= tables.units.
  //
  //   forced  [batch, num_forced], as in ActiveSetQuery
  //   ids     [batch, active], written: ascending, kNoId last
  // A sample that lacks neurons, which takes a corrupt table, is filled up with
  // the sum of the cells' numbers as its seed. Errors are those of
  // ActiveSetSelector; `ids` is then undefined.
  Status Select(const CellQueries& queries, const BucketTables& tables,
                const int32_t* forced, int64_t num_forced, int64_t active,
                const ParallelFor& parallel_for,
                const VectorKernels& vector_kernels, int32_t* ids);

 private:
  struct Scratch {
    CellProductsScratch products;
    std::vector<float> worth;      // of a sample's cells
    std::vector<int32_t> weights;  // likewise
    ActiveSetScratch active_set;
  };

  Pool<Scratch> scratch_;
  Pool<std::vector<float>> columns_;
};

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_CELL_SELECTION_H_
