// The two steps of k-means: the nearest cell of each point, and cells' means.
#ifndef CUSTOM_OPS_CORE_KMEANS_H_
#define CUSTOM_OPS_CORE_KMEANS_H_

#include <cstdint>

#include "custom_ops/core/parallel.h"
#include "custom_ops/core/status.h"
#include "custom_ops/core/vector_kernels.h"

namespace keras_lsh {

// Points and the cells that they belong to: those with the nearest centroid.
struct CellPoints {
  const float* points;  // [count, width]
  int64_t count;
  int64_t width;
  const float* centroids;  // [tables, cells, width]
  int64_t tables;
  int64_t cells;
};

// Cells in groups, so that a point need not look at all of them.
struct CellGroups {
  const float* middles = nullptr;     // [tables, count, width]
  int64_t count = 0;                  // groups of a table
  const int32_t* group_of = nullptr;  // [tables, cells], in [0, count)
  int64_t near = 0;                   // groups that a point looks at; 0: all
};

// The nearest centroid of each table, by Euclidean distance, for each point; of
// equal ones the first.
//
// With `groups.near` > 0, a point looks only at the cells of the `near` groups
// whose middles are nearest to it (of equally near ones the first); groups
// without cells do not count. Should all cells be in `near` groups, or a
// coordinate of a centroid or middle be NaN, it looks at all.
//
//   nearest     [count, tables], written
void NearestCells(const CellPoints& points, const CellGroups& groups,
                  const ParallelFor& parallel_for,
                  const VectorKernels& vector_kernels, int32_t* nearest);

// The mean of each cell's points, 0 without points. Sums go through the points
// in order.
//
//   points    [count, width]
//   members   [count, tables], the cell of each point; -1: none
//   means     [tables, cells, width], written
//   sizes     [tables, cells], written: points of each cell
// Errors if a member is out of [-1, cells).
struct CellMembers {
  const float* points;
  int64_t count;
  int64_t width;
  const int32_t* members;
  int64_t tables;
  int64_t cells;
};
Status CellMeans(const CellMembers& members, const ParallelFor& parallel_for,
                 const VectorKernels& vector_kernels, float* means,
                 int32_t* sizes);

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_KMEANS_H_
