#include "custom_ops/core/digit_probes.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace keras_lsh {
namespace {

constexpr float kMostCost = 1e9f;

float Cost(float largest, float score) {
  const float gap = largest - score, square = gap * gap;
  if (!(square < kMostCost)) return kMostCost;
  return square < std::numeric_limits<float>::min() ? 0.0f : square;
}

}  // namespace

int64_t DigitShape::codes() const {
  int64_t codes = 1;
  for (int f = 0; f < functions; ++f) codes *= values();
  return codes;
}

DigitProber::DigitProber(const DigitShape& shape,
                         const VectorKernels& vector_kernels)
    : shape_(shape),
      codes_(static_cast<int32_t>(shape.codes())),
      probes_(vector_kernels),
      largest_(num_functions()),
      own_(num_functions()),
      digits_(shape.values() + 1) {}

void DigitProber::FindOwn(const float* scores) {
  for (int64_t function = 0; function < num_functions(); ++function) {
    const float* score = scores + function * shape_.scores;
    float least = std::numeric_limits<float>::infinity(), largest = -least;
    for (int v = 0; v < shape_.scores; ++v) {  // NaN is passed over
      largest = score[v] > largest ? score[v] : largest;
      least = score[v] < least ? score[v] : least;
    }
    if (shape_.negatives) largest = std::max(largest, -least);
    int32_t own = 0;
    for (int v = shape_.values(); v-- > 0;) {
      const float value =
          v < shape_.scores ? score[v] : -score[v - shape_.scores];
      own = Cost(largest, value) == 0.0f ? v : own;
    }
    largest_[function] = largest;
    own_[function] = own;
  }
}

void DigitProber::SortDigits(const float* scores, int64_t function) {
  const float* score = scores + function * shape_.scores;
  const float largest = largest_[function], limit = probes_.limit();
  digits_.resize(shape_.values() + 1);  // one for unneeded writes
  digits_[0] = {0.0f, own_[function]};
  int64_t count = 1;
  const auto add = [&](float value_score, int32_t value) {
    const float cost = Cost(largest, value_score);
    digits_[count] = {cost, value};
    count += (cost <= limit) & (value != own_[function]);
  };
  for (int v = 0; v < shape_.scores; ++v) add(score[v], v);
  for (int v = 0; shape_.negatives && v < shape_.scores; ++v) {
    add(-score[v], shape_.scores + v);
  }
  digits_.resize(count);
  std::sort(digits_.begin() + 1, digits_.end(),
            [](const Digits& a, const Digits& b) {
              return a.cost != b.cost ? a.cost < b.cost : a.value < b.value;
            });
}

void DigitProber::Lengthen(int32_t weight, int64_t most_ties) {
  const float limit = probes_.limit();
  // As of whole codes, of equal costs only so many can be wanted.
  int64_t ties_left = most_ties;
  longer_.clear();
  for (const Digits& prefix : prefixes_) {
    for (const Digits& digit : digits_) {
      const float cost = prefix.cost + digit.cost;
      if (cost > limit || (cost == limit && ties_left-- <= 0)) break;
      longer_.push_back({cost, prefix.value + digit.value * weight});
    }
    // Each makes a code that costs the same.
    if (static_cast<int64_t>(longer_.size()) > probes_.most()) return;
  }
}

void DigitProber::List(const float* scores, int64_t most_ties) {
  for (int32_t table = 0; table < shape_.tables; ++table) {
    prefixes_.assign(1, {0.0f, table * codes_});
    int32_t weight = codes_;  // of a digit
    int64_t function = int64_t{table} * shape_.functions;
    for (int f = 0; f + 1 < shape_.functions; ++f) {
      weight /= shape_.values();
      SortDigits(scores, function++);
      Lengthen(weight, most_ties);
      if (static_cast<int64_t>(longer_.size()) > probes_.most()) {
        probes_.Overflow();
        return;
      }
      std::swap(prefixes_, longer_);
    }
    SortDigits(scores, function);
    bool own = true;  // the first
    for (const Digits& prefix : prefixes_) {
      if (probes_.Overflows(static_cast<int64_t>(digits_.size()))) return;
      for (const Digits& digit : digits_) {
        const float cost = prefix.cost + digit.cost;
        if (!own && !probes_.Add(cost, prefix.value + digit.value)) break;
        own = false;
      }
    }
  }
}

void DigitProber::Run(const float* scores, int64_t count, int32_t* buckets,
                      float* costs) {
  FindOwn(scores);
  for (int32_t table = 0; table < shape_.tables; ++table) {
    int32_t code = 0;
    for (int f = 0; f < shape_.functions; ++f) {
      code = code * shape_.values() + own_[table * shape_.functions + f];
    }
    buckets[table] = table * codes_ + code;
    costs[table] = 0.0f;
  }
  const int64_t further = count - shape_.tables;
  probes_.Run(
      further, [&] { List(scores, further + 1); }, buckets + shape_.tables,
      costs + shape_.tables);
}

}  // namespace keras_lsh
