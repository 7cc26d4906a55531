#include "custom_ops/core/cell_selection.h"

#include <algorithm>
#include <utility>

namespace keras_lsh {

Status CellSelector::Select(const CellQueries& queries,
                            const BucketTables& tables, const int32_t* forced,
                            int64_t num_forced, int64_t active,
                            const ParallelFor& parallel_for,
                            const VectorKernels& vector_kernels, int32_t* ids) {
  const int64_t batch = queries.batch, cells = queries.cells;
  const auto seed = static_cast<int32_t>(
      static_cast<uint32_t>(cells * (cells - 1) / 2));  // of all, and so a sum
  std::vector<float> columns = columns_.Take();
  const CellProducts products(queries, parallel_for, vector_kernels, &columns);
  constexpr int64_t kAtOnce = CellProducts::kInputsAtOnce;
  // Roughly, in cycles: the products, a few passes over the cells, the choice.
  const int64_t cost = (queries.input_dim + cells) * (queries.rank / 8 + 1) +
                       4 * cells + 30 * active;
  FirstError error;
  parallel_for((batch + kAtOnce - 1) / kAtOnce, kAtOnce * cost,
               [&](int64_t begin, int64_t end) {
                 Scratch scratch = scratch_.Take();
                 scratch.worth.resize(cells);
                 scratch.weights.resize(cells);
                 ActiveSetSelector selector(tables, active, vector_kernels,
                                            &scratch.active_set);
                 const int64_t last = std::min(end * kAtOnce, batch);
                 Status status;
                 for (int64_t first = begin * kAtOnce;
                      first < last && status.ok(); first += kAtOnce) {
                   const int64_t count = std::min(kAtOnce, last - first);
                   products.Multiply(first, count, &scratch.products);
                   for (int64_t i = 0; i < count && status.ok(); ++i) {
                     products.Worth(scratch.products, i, scratch.worth.data());
                     vector_kernels.weigh(scratch.worth.data(), cells,
                                          scratch.weights.data());
                     const int64_t b = first + i;
                     status = selector.Select(
                         {nullptr, scratch.weights.data(), cells,
                          forced + b * num_forced, num_forced, true, seed},
                         ids + b * active);
                   }
                 }
                 error.Update(status);
                 scratch_.Return(std::move(scratch));
               });
  columns_.Return(std::move(columns));
  return error.status();
}

}  // namespace keras_lsh
