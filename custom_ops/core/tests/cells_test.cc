#include "custom_ops/core/cells.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "custom_ops/core/tests/check.h"
#include "custom_ops/core/tests/variants.h"

namespace keras_lsh {
namespace testing {
namespace {

using Ints = std::vector<int32_t>;
using Floats = std::vector<float>;

Ints Weights(const Floats& worth, int64_t batch, int64_t cells,
             const ParallelFor& parallel_for = SerialFor,
             const VectorKernels& kernels = GetVectorKernels()) {
  Ints buckets(worth.size(), -1), weights(worth.size(), -1);
  RankCells(worth.data(), batch, cells, parallel_for, kernels, buckets.data(),
            weights.data());
  for (size_t i = 0; i < buckets.size(); ++i) {
    CHECK_EQ(buckets[i], static_cast<int32_t>(i % cells));
  }
  return weights;
}

TEST(WeightsByExample) {
  CHECK_EQ(Weights({2, 1, 1.5, 2}, 1, 4, SerialFor),
           (Ints{65536, 1, 32768, 65536}));
  CHECK_EQ(Weights({7, 7, 7}, 1, 3, SerialFor), (Ints{1, 1, 1}));
  CHECK_EQ(Weights({-1e34f, 1e34f}, 1, 2, SerialFor), (Ints{1, 65536}));
  CHECK_EQ(Weights({-3}, 1, 1, SerialFor), (Ints{1}));
  CHECK_EQ(Weights({}, 0, 5, SerialFor), Ints());
}

TEST(WhatIsNoNumberWeighsLeast) {
  for (size_t at : {0, 3, 30, 39}) {
    Floats worth = Random(2).Floats(40);
    worth[at] = kNan;
    const Ints weights = InEveryVariant(
        [&](const VectorKernels& kernels, const ParallelFor& split) {
          return Weights(worth, 1, 40, split, kernels);
        });
    CHECK_EQ(weights[at], 1);
    const int32_t largest = *std::max_element(weights.begin(), weights.end());
    CHECK_EQ(largest, at == 0 ? 1 : 65536);  // the first is compared with all
  }
}

TEST(WorthIsAProductOfCoordinatesAndCentroids) {
  Random random(4);
  struct Shape {
    int64_t batch, input_dim, rank, cells;
  };
  for (const Shape& s : {Shape{0, 4, 2, 3}, Shape{1, 1, 1, 1},
                         Shape{9, 33, 5, 40}, Shape{21, 100, 17, 7}}) {
    const Context context(s.batch, " inputs of ", s.input_dim);
    const Floats inputs = random.Floats(s.batch * s.input_dim);
    const Floats center = random.Floats(s.input_dim);
    const Floats basis = random.Floats(s.input_dim * s.rank);
    Floats scales = random.Floats(s.rank);
    scales[0] = 0;
    const Floats centroids = random.Floats(s.cells * (s.rank + 1));
    const float largest = 3;
    const Floats worth = InEveryVariant(
        [&](const VectorKernels& kernels, const ParallelFor& split) {
          Floats out(s.batch * s.cells, kNan);
          CellWorth(
              {inputs.data(), s.batch, s.input_dim, center.data(), basis.data(),
               scales.data(), s.rank, largest, centroids.data(), s.cells},
              split, kernels, out.data());
          return out;
        });
    for (int64_t b = 0; b < s.batch; ++b) {
      std::vector<double> z(s.rank + 1, 1.0);
      for (int64_t k = 0; k < s.rank; ++k) {
        double sum = 0;
        for (int64_t j = 0; j < s.input_dim; ++j) {
          sum += static_cast<double>(inputs[b * s.input_dim + j] - center[j]) *
                 basis[j * s.rank + k];
        }
        z[k] =
            scales[k] == 0 ? 0 : std::min(std::max(sum / scales[k], -3.0), 3.0);
      }
      for (int64_t c = 0; c < s.cells; ++c) {
        double expected = 0;
        for (int64_t k = 0; k <= s.rank; ++k) {
          expected += z[k] * centroids[c * (s.rank + 1) + k];
        }
        CHECK_NEAR(worth[b * s.cells + c], expected, 1e-3);
      }
    }
  }
}

TEST(WeightsFollowTheWorth) {
  Random random(1);
  for (int64_t cells : {2, 17, 200}) {
    const int64_t batch = 9;
    const Floats worth = random.Floats(batch * cells);
    const Ints weights = InEveryVariant(
        [&](const VectorKernels& kernels, const ParallelFor& split) {
          return Weights(worth, batch, cells, split, kernels);
        });
    for (int64_t b = 0; b < batch; ++b) {
      const float* w = worth.data() + b * cells;
      const double least = *std::min_element(w, w + cells);
      const double range = *std::max_element(w, w + cells) - least;
      for (int64_t c = 0; c < cells; ++c) {
        CHECK_NEAR(weights[b * cells + c], 1 + 65535 * (w[c] - least) / range,
                   1.01);
      }
    }
  }
}

struct Observation {
  int64_t batch, input_dim, rank;
  Floats inputs, center, basis, mean, moments;
  float count;
};

// The new mean, moments and count, one after the other.
Floats Observe(const Observation& o, const ObservationOptions& options,
               const VectorKernels& kernels, const ParallelFor& parallel_for) {
  const int64_t size = o.input_dim * (1 + o.rank);
  Floats result(size + 1, kNan);
  ObserveInputs(options, o.inputs.data(), o.batch, o.input_dim, o.center.data(),
                o.basis.data(), o.rank,
                {o.mean.data(), o.moments.data(), o.count}, parallel_for,
                kernels, result.data(), result.data() + o.input_dim,
                result.data() + size);
  return result;
}

std::vector<double> PlainObserve(const Observation& o,
                                 const ObservationOptions& options) {
  const int64_t d = o.input_dim, r = o.rank;
  const int64_t stride =
      std::max<int64_t>(1, (o.batch + options.rows - 1) / options.rows);
  std::vector<double> sums(d + d * r);
  double added = 0;
  for (int64_t b = 0; b < o.batch; b += stride) {
    const float* row = o.inputs.data() + b * d;
    if (!std::all_of(row, row + d,
                     [&](float x) { return std::fabs(x) < options.largest; })) {
      continue;
    }
    added += 1;
    for (int64_t k = 0; k < r; ++k) {
      double projected = 0;
      for (int64_t j = 0; j < d; ++j) {
        projected += (double{row[j]} - o.center[j]) * o.basis[j * r + k];
      }
      for (int64_t j = 0; j < d; ++j) {
        sums[d + j * r + k] += (double{row[j]} - o.center[j]) * projected;
      }
    }
    for (int64_t j = 0; j < d; ++j) sums[j] += double{row[j]} - o.center[j];
  }
  const double total = o.count + added;
  for (int64_t i = 0; i < d + d * r; ++i) {
    const double old = i < d ? o.mean[i] : o.moments[i - d];
    sums[i] = total == 0 ? old : (o.count * old + sums[i]) / total;
  }
  sums.push_back(std::min<double>(total, options.window));
  return sums;
}

TEST(AveragesOfInputs) {
  Random random(2);
  for (int64_t batch : {0, 1, 5, 32, 33, 100}) {
    for (int64_t input_dim : {1, 18, 70}) {
      for (int64_t rank : {1, 16, 21}) {
        for (float count : {0.0f, 3.0f, 40.0f}) {
          const Context context("batch=", batch, " input_dim=", input_dim,
                                " rank=", rank, " count=", count);
          Observation o = {batch,
                           input_dim,
                           rank,
                           random.Floats(batch * input_dim),
                           random.Floats(input_dim),
                           random.Floats(input_dim * rank),
                           random.Floats(input_dim),
                           random.Floats(input_dim * rank),
                           count};
          if (batch > 1) o.inputs[input_dim] = kNan;  // row 1
          if (batch > 4) o.inputs[4 * input_dim] = 1e6f;
          const ObservationOptions options = {32, 1e6f, 50.0f};
          const Floats values = InEveryVariant([&](const auto&... variant) {
            return Observe(o, options, variant...);
          });
          const std::vector<double> exact = PlainObserve(o, options);
          for (size_t i = 0; i < exact.size(); ++i) {
            CHECK_NEAR(values[i], exact[i], 1e-4);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace testing
}  // namespace keras_lsh
