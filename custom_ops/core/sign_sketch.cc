#include "custom_ops/core/sign_sketch.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <numeric>
#include <vector>

#include "custom_ops/core/ranking_key.h"

namespace keras_lsh {
namespace {

constexpr int64_t kLanes = 16;           // neurons rotated at once
constexpr int64_t kRowsOfSum = 4096;     // added up before these sums are
constexpr int64_t kBytesAtOnce = 65536;  // of codes, to stay in the cache
constexpr int64_t kMostAtOnce = 4096;    // neurons
constexpr int64_t kSamplesAtOnce = 16;
constexpr int64_t kSamplesInMemory = 256;  // each has its best neurons
constexpr int64_t kShareTried = 64;        // of the neurons, one
constexpr int64_t kPlacesTried = 16;       // where these are

int64_t Blocks(int64_t units) {
  return (units + kSketchBlock - 1) / kSketchBlock;
}

// Rotates `lanes` vectors, `columns` [features, lanes], in place.
void Rotate(const Rotation& rotation, int64_t lanes, float* columns) {
  const int64_t features = rotation.features;
  for (int diagonal = 0; diagonal < 3; ++diagonal) {
    const float* signs = rotation.signs + diagonal * features;
    const float scale =
        diagonal == 0 ? 1.0f / static_cast<float>(features) : 1.0f;
    for (int64_t i = 0; i < features; ++i) {
      const float factor = scale * signs[i];
      for (int64_t l = 0; l < lanes; ++l) columns[i * lanes + l] *= factor;
    }
    for (int64_t half = lanes; half < features * lanes; half *= 2) {
      for (int64_t begin = 0; begin < features * lanes; begin += 2 * half) {
        float* a = columns + begin;
        float* b = a + half;
        for (int64_t i = 0; i < half; ++i) {
          const float sum = a[i] + b[i], difference = a[i] - b[i];
          a[i] = sum;
          b[i] = difference;
        }
      }
    }
  }
}

template <typename T>
bool IsFinite(const T* row, int64_t n) {
  bool finite = true;
  for (int64_t j = 0; j < n; ++j) {
    finite &= std::fabs(ToFloat(row[j])) <= std::numeric_limits<float>::max();
  }
  return finite;
}

// The mean of the finite rows; 0 where it is not finite itself.
template <typename T>
std::vector<float> MeanRow(const T* kernel, int64_t units, int64_t n,
                           const ParallelFor& parallel_for) {
  const int64_t pieces = (units + kRowsOfSum - 1) / kRowsOfSum;
  std::vector<double> sums(pieces * n);
  std::vector<int64_t> counts(pieces);
  parallel_for(pieces, kRowsOfSum * n, [&](int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t last = std::min((piece + 1) * kRowsOfSum, units);
      double* sum = sums.data() + piece * n;
      for (int64_t row = piece * kRowsOfSum; row < last; ++row) {
        const T* weights = kernel + row * n;
        if (!IsFinite(weights, n)) continue;
        ++counts[piece];
        for (int64_t j = 0; j < n; ++j) sum[j] += ToFloat(weights[j]);
      }
    }
  });
  int64_t count = 0;
  for (int64_t c : counts) count += c;
  std::vector<float> mean(n);
  for (int64_t j = 0; j < n && count > 0; ++j) {
    double sum = 0.0;
    for (int64_t piece = 0; piece < pieces; ++piece) sum += sums[piece * n + j];
    const auto value = static_cast<float>(sum / static_cast<double>(count));
    mean[j] = std::isfinite(value) ? value : 0.0f;
  }
  return mean;
}

// The signs of kLanes rotated neurons, `columns` [features, kLanes], and their
// scales.
void Sketch(int64_t features, const std::vector<float>& columns, int shift,
            std::vector<float>* sizes, uint8_t* codes,
            float (&scales)[kLanes]) {
  for (int64_t i = 0; i < features * kLanes; ++i) {
    (*sizes)[i] = std::fabs(columns[i]);
  }
  for (int64_t half = features / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half * kLanes; ++i) {
      (*sizes)[i] += (*sizes)[i + half * kLanes];
    }
  }
  const float squared = static_cast<float>(features) * features;
  bool finite[kLanes];
  for (int64_t l = 0; l < kLanes; ++l) {
    finite[l] = std::isfinite((*sizes)[l]);
    const float scale = (*sizes)[l] / squared;
    scales[l] = scale < kLeastSketched ? 0.0f : scale;
    if (!finite[l]) scales[l] = std::numeric_limits<float>::quiet_NaN();
  }
  for (int64_t g = 0; g < features / 4; ++g) {
    for (int64_t l = 0; l < kLanes; ++l) {
      int nibble = 0;
      for (int j = 0; j < 4; ++j) {
        nibble |= (columns[(4 * g + j) * kLanes + l] > 0.0f) << j;
      }
      codes[16 * g + l] |= finite[l] ? nibble << shift : 0;
    }
  }
}

// What a rotated input asks of a sketch.
struct Query {
  float step;
  int32_t base;
};

Query MakeTables(const float* rotated, int64_t groups, uint8_t* tables) {
  float largest = 0.0f;
  bool finite = true;
  for (int64_t i = 0; i < 4 * groups; ++i) {
    const float size = std::fabs(rotated[i]);
    finite &= size <= std::numeric_limits<float>::max();
    largest = size > largest ? size : largest;
  }
  if (!finite || !(largest >= kLeastSketched)) {
    std::fill_n(tables, 16 * groups, uint8_t{0});
    return {0.0f, 0};
  }
  const float per_step = kMostSketchLevel / largest;
  int32_t base = 0;
  for (int64_t g = 0; g < groups; ++g) {
    int level[4], least = 0;  // the least sum of any of the four
    for (int j = 0; j < 4; ++j) {
      level[j] =
          static_cast<int>(std::nearbyint(rotated[4 * g + j] * per_step));
      least += std::min(level[j], 0);
      base += std::abs(level[j]);
    }
    for (int nibble = 0; nibble < 16; ++nibble) {
      int sum = -least;
      for (int j = 0; j < 4; ++j) sum += (nibble >> j & 1) * level[j];
      tables[16 * g + nibble] = static_cast<uint8_t>(sum);
    }
  }
  return {largest / kMostSketchLevel, base};
}

// The best neurons of a sample that were found so far, by any thread.
class Best {
 public:
  explicit Best(int64_t count) : count_(count) {}

  // Leaves out the neurons of lower scores than the worst of others: a guess,
  // to be withdrawn if too few are left.
  void GuessLimit(Best* others) {
    others->Cut();
    limit_ = others->limit() & ~uint64_t{std::numeric_limits<uint32_t>::max()};
  }
  void WithdrawGuess() {
    limit_ = 0;
    keys_.clear();
  }
  bool Enough() const { return static_cast<int64_t>(keys_.size()) >= count_; }

  // No neuron below the first is among the best, which is the score of
  // the second.
  uint64_t limit() const { return limit_.load(std::memory_order_relaxed); }
  static float Score(uint64_t key) {
    return key == 0 ? -std::numeric_limits<float>::infinity()
                    : RankedValue(static_cast<int32_t>(
                          static_cast<uint32_t>(key >> 32) ^ kSign));
  }
  // Orders by score, then by id.
  static uint64_t Key(float score, int64_t id) {
    const uint32_t order = static_cast<uint32_t>(RankingKey(score)) ^ kSign;
    return uint64_t{order} << 32 | ~static_cast<uint32_t>(id);
  }

  void Add(const std::vector<uint64_t>& keys) {
    if (keys.empty()) return;
    std::lock_guard<std::mutex> lock(mutex_);
    keys_.insert(keys_.end(), keys.begin(), keys.end());
    const auto size = static_cast<int64_t>(keys_.size());
    if (size >= 2 * count_ + kMostAtOnce || limit() == 0) Cut();
  }

  void Write(int32_t* ids) {
    Cut();
    for (int64_t i = 0; i < count_; ++i) {
      ids[i] = static_cast<int32_t>(~static_cast<uint32_t>(keys_[i]));
    }
    std::sort(ids, ids + count_);
  }

 private:
  static constexpr uint32_t kSign = uint32_t{1} << 31;

  void Cut() {
    if (!Enough()) return;
    const auto last = keys_.begin() + (count_ - 1);
    std::nth_element(keys_.begin(), last, keys_.end(), std::greater<>());
    limit_.store(*last, std::memory_order_relaxed);
    keys_.resize(count_);
  }

  const int64_t count_;
  std::mutex mutex_;
  std::vector<uint64_t> keys_;
  std::atomic<uint64_t> limit_{0};
};

// Scores some neurons, in the cache, for one sample after the other.
class Scanner {
 public:
  Scanner(const SketchQueries& queries, int64_t at_once,
          const VectorKernels& vector_kernels)
      : queries_(queries),
        vector_kernels_(vector_kernels),
        found_(at_once),
        scores_(at_once) {}

  // At most `units` neurons from `first` on, no more than there is room for.
  void Scan(int64_t first, int64_t units, const Query& query,
            const uint8_t* tables, Best* best) {
    const SketchQueries& q = queries_;
    const SketchScan scan = {q.codes + first * q.groups / 2,
                             q.scales + first,
                             q.bias == nullptr ? nullptr : q.bias + first,
                             std::min(units, q.units - first),
                             q.groups,
                             tables,
                             query.step,
                             query.base};
    const uint64_t limit = best->limit();
    const int64_t count = vector_kernels_.scan_sketch(
        scan, Best::Score(limit), found_.data(), scores_.data());
    keys_.clear();
    for (int64_t i = 0; i < count; ++i) {
      const uint64_t key = Best::Key(scores_[i], first + found_[i]);
      if (key > limit) keys_.push_back(key);
    }
    best->Add(keys_);
  }

  // Guesses a limit from some neurons, here and there.
  void Guess(const Query& query, const uint8_t* tables, int64_t count,
             Best* best) {
    const int64_t blocks = queries_.units / kSketchBlock;
    const int64_t each =
        std::min(blocks / (kShareTried * kPlacesTried) * kSketchBlock,
                 static_cast<int64_t>(found_.size()));
    const int64_t tried = kPlacesTried * each;
    // So many of these may be among the best, but seldom more.
    const double mean = static_cast<double>(count) *
                        static_cast<double>(tried) /
                        static_cast<double>(queries_.units);
    const auto rank = static_cast<int64_t>(mean + 3 * std::sqrt(mean) + 3);
    if (rank > tried) return;
    Best of_these(rank);
    for (int64_t place = 0; place < kPlacesTried; ++place) {
      const int64_t block = (2 * place + 1) * blocks / (2 * kPlacesTried);
      Scan(block * kSketchBlock, each, query, tables, &of_these);
    }
    best->GuessLimit(&of_these);
  }

 private:
  const SketchQueries& queries_;
  const VectorKernels& vector_kernels_;
  std::vector<int32_t> found_;
  std::vector<float> scores_;
  std::vector<uint64_t> keys_;
};

// SelectBySketch for samples that are few enough for the memory.
void SelectForSome(const SketchQueries& q, int64_t count,
                   const ParallelFor& parallel_for,
                   const VectorKernels& vector_kernels, int32_t* ids) {
  const int64_t at_once =
      kSketchBlock *
      std::clamp<int64_t>(kBytesAtOnce / (q.groups / 2) / kSketchBlock, 1,
                          kMostAtOnce / kSketchBlock);
  const int64_t cost_of_each = q.groups / 16 + 2;
  std::vector<uint8_t> tables(q.batch * q.groups * 16);
  std::vector<Query> queries(q.batch);
  std::vector<std::unique_ptr<Best>> best(q.batch);
  const auto tables_of = [&](int64_t b) {
    return tables.data() + b * q.groups * 16;
  };
  const int64_t cost_of_guess = q.units / kShareTried * cost_of_each;
  parallel_for(
      q.batch, 100 * q.groups + cost_of_guess, [&](int64_t begin, int64_t end) {
        Scanner scanner(q, at_once, vector_kernels);
        for (int64_t b = begin; b < end; ++b) {
          queries[b] =
              MakeTables(q.rotated + b * 4 * q.groups, q.groups, tables_of(b));
          best[b] = std::make_unique<Best>(count);
          scanner.Guess(queries[b], tables_of(b), count, best[b].get());
        }
      });
  std::vector<int64_t> samples(q.batch);
  std::iota(samples.begin(), samples.end(), 0);
  const int64_t pieces = (q.units + at_once - 1) / at_once;
  while (!samples.empty()) {
    const auto batch = static_cast<int64_t>(samples.size());
    const int64_t parts = (batch + kSamplesAtOnce - 1) / kSamplesAtOnce;
    const int64_t cost = std::min(batch, kSamplesAtOnce) *
                         std::min(at_once, q.units) * cost_of_each;
    parallel_for(pieces * parts, cost, [&](int64_t begin, int64_t end) {
      Scanner scanner(q, at_once, vector_kernels);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t part = i % parts * kSamplesAtOnce;
        const int64_t last = std::min(part + kSamplesAtOnce, batch);
        for (int64_t s = part; s < last; ++s) {
          const int64_t b = samples[s];
          scanner.Scan(i / parts * at_once, at_once, queries[b], tables_of(b),
                       best[b].get());
        }
      }
    });
    // Once more, and without, where the guess was wrong.
    samples.erase(std::remove_if(samples.begin(), samples.end(),
                                 [&](int64_t b) { return best[b]->Enough(); }),
                  samples.end());
    for (int64_t b : samples) best[b]->WithdrawGuess();
  }
  parallel_for(q.batch, 100 * count, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) best[b]->Write(ids + b * count);
  });
}

}  // namespace

void RotateVectors(const Rotation& rotation, const float* vectors,
                   int64_t count, int64_t dim, const ParallelFor& parallel_for,
                   float* rotated) {
  const int64_t features = rotation.features;
  parallel_for(count, 30 * features, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float* out = rotated + i * features;
      std::copy_n(vectors + i * dim, dim, out);
      std::fill(out + dim, out + features, 0.0f);
      Rotate(rotation, 1, out);
    }
  });
}

template <typename T>
void SketchNeurons(const Rotation& rotation, const T* kernel, int64_t units,
                   int64_t input_dim, const ParallelFor& parallel_for,
                   uint8_t* codes, float* scales) {
  const std::vector<float> mean =
      MeanRow(kernel, units, input_dim, parallel_for);
  const int64_t features = rotation.features;
  const int64_t bytes = features / 4 * 16;  // of a block
  const int64_t cost = kSketchBlock * features * 30;
  parallel_for(Blocks(units), cost, [&](int64_t begin, int64_t end) {
    std::vector<float> columns(features * kLanes), sizes(features * kLanes);
    for (int64_t block = begin; block < end; ++block) {
      std::fill_n(codes + block * bytes, bytes, uint8_t{0});
      for (int half = 0; half < 2; ++half) {
        const int64_t first = block * kSketchBlock + half * kLanes;
        const int64_t rows = std::clamp<int64_t>(units - first, 0, kLanes);
        if (rows == 0) break;
        std::fill(columns.begin(), columns.end(), 0.0f);
        for (int64_t r = 0; r < rows; ++r) {
          const T* row = kernel + (first + r) * input_dim;
          for (int64_t j = 0; j < input_dim; ++j) {
            columns[j * kLanes + r] = ToFloat(row[j]) - mean[j];
          }
        }
        Rotate(rotation, kLanes, columns.data());
        float of_lanes[kLanes];
        Sketch(features, columns, 4 * half, &sizes, codes + block * bytes,
               of_lanes);
        std::copy_n(of_lanes, rows, scales + first);
      }
    }
  });
}

template void SketchNeurons(const Rotation&, const float*, int64_t, int64_t,
                            const ParallelFor&, uint8_t*, float*);
template void SketchNeurons(const Rotation&, const Bfloat16*, int64_t, int64_t,
                            const ParallelFor&, uint8_t*, float*);

void SelectBySketch(const SketchQueries& queries, int64_t count,
                    const ParallelFor& parallel_for,
                    const VectorKernels& vector_kernels, int32_t* ids) {
  for (int64_t first = 0; first < queries.batch; first += kSamplesInMemory) {
    SketchQueries some = queries;
    some.rotated += first * 4 * queries.groups;
    some.batch = std::min(kSamplesInMemory, queries.batch - first);
    SelectForSome(some, count, parallel_for, vector_kernels,
                  ids + first * count);
  }
}

}  // namespace keras_lsh
