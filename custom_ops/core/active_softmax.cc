#include "custom_ops/core/active_softmax.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <string>
#include <vector>

#include "custom_ops/core/active_set.h"

namespace keras_lsh {
namespace {

// Cycles of a place, with AVX2.
constexpr int64_t kPlaceCost = 4;

// Where the unused places begin, if they are the last.
int64_t CountUsed(const int32_t* ids, int64_t n) {
  const auto is_used = [](int32_t id) { return id != kNoId; };
  return std::partition_point(ids, ids + n, is_used) - ids;
}

bool Ascend(const int32_t* ids, int64_t n) {
  const int64_t used = CountUsed(ids, n);
  // In a form that compilers turn into vector instructions.
  int32_t wrong = used > 0 && ids[0] < 0;
  for (int64_t i = 1; i < used; ++i) wrong |= ids[i] <= ids[i - 1];
  for (int64_t i = used; i < n; ++i) wrong |= ids[i] != kNoId;
  return wrong == 0;
}

// What is known of a sample without its values. Use one object a thread.
class Sample {
 public:
  explicit Sample(const ActiveLogits& logits) : logits_(logits) {}

  void Read(int64_t b) {
    const int64_t active = logits_.active;
    values_ = logits_.values + b * active;
    const int32_t* ids = logits_.ids + (logits_.same_ids ? 0 : b * active);
    used_ = CountUsed(ids, active);
    places_.clear();
    num_labels_ = 0;
    for (int64_t i = 0; i < logits_.num_labels; ++i) {
      const int32_t label = logits_.labels[b * logits_.num_labels + i];
      if (label < 0) continue;
      ++num_labels_;
      const int64_t place = std::lower_bound(ids, ids + used_, label) - ids;
      if (place < used_ && ids[place] == label) places_.push_back(place);
    }
    if (logits_.drawn != nullptr) Weigh(b);
  }

  const float* values() const { return values_; }
  int64_t used() const { return used_; }
  // Null: 1.
  const float* weights() const {
    return logits_.drawn == nullptr ? nullptr : weights_.data();
  }
  // Of the labels that are active, so many as there are.
  const std::vector<int64_t>& places() const { return places_; }
  int64_t num_labels() const { return num_labels_; }
  int64_t missing() const {
    return num_labels_ - static_cast<int64_t>(places_.size());
  }
  // The number of classes that the active ones stand for, with missing labels.
  double Classes() const {
    double sum = static_cast<double>(missing());
    if (weights() == nullptr) return sum + static_cast<double>(used_);
    for (int64_t i = 0; i < used_; ++i) sum += static_cast<double>(weights_[i]);
    return sum;
  }

 private:
  void Weigh(int64_t b) {
    const bool* drawn =
        logits_.drawn + (logits_.same_drawn ? 0 : b * logits_.active);
    weights_.resize(logits_.active);
    float* weights = weights_.data();
    for (int64_t i = 0; i < used_; ++i) weights[i] = drawn[i];
    for (const int64_t place : places_) weights[place] = 0.0f;
    // In a form that compilers turn into vector instructions.
    int32_t number = 0;
    for (int64_t i = 0; i < used_; ++i) number += weights[i] > 0.0f;
    const int64_t certain = used_ - number + missing();
    const float each =
        static_cast<float>(static_cast<double>(logits_.units - certain) /
                           static_cast<double>(std::max(number, 1)));
    for (int64_t i = 0; i < used_; ++i) {
      weights[i] = weights[i] * each + (1.0f - weights[i]);
    }
  }

  const ActiveLogits& logits_;
  const float* values_ = nullptr;
  int64_t used_ = 0, num_labels_ = 0;
  std::vector<int64_t> places_;
  std::vector<float> weights_;
};

// The mean of z - largest that the loss subtracts.
double Target(const ActiveLogits& logits, const Sample& sample, double largest,
              double of_missing) {
  double sum = of_missing;
  for (const int64_t place : sample.places()) {
    sum += static_cast<double>(sample.values()[place]) - largest;
  }
  const double target = sum / static_cast<double>(sample.num_labels());
  if (logits.label_smoothing == 0.0) return target;
  double of_all = of_missing;
  const float* weights = sample.weights();
  for (int64_t i = 0; i < sample.used(); ++i) {
    const double z = static_cast<double>(sample.values()[i]) - largest;
    of_all += weights == nullptr ? z : static_cast<double>(weights[i]) * z;
  }
  return target + logits.label_smoothing * (of_all / sample.Classes() - target);
}

Status CheckLabels(const ActiveLogits& logits) {
  constexpr int64_t kMostNamed = 10;
  std::string samples;
  int64_t without = 0;
  for (int64_t b = 0; b < logits.batch; ++b) {
    const int32_t* labels = logits.labels + b * logits.num_labels;
    if (std::any_of(labels, labels + logits.num_labels,
                    [](int32_t label) { return label >= 0; })) {
      continue;
    }
    if (++without > kMostNamed) continue;
    samples += (without > 1 ? " " : "") + std::to_string(b);
  }
  if (without == 0) return Status();
  return Status::Invalid(
      "A softmax needs at least one label a sample. Drop samples without "
      "labels, or use `ActiveSigmoidCrossentropy`. Without labels are the "
      "samples of the batch at [" +
      samples + (without > kMostNamed ? "...]" : "]"));
}

}  // namespace

Status ActiveSoftmaxCrossentropy(const ActiveLogits& logits,
                                 const ParallelFor& parallel_for,
                                 const VectorKernels& vector_kernels,
                                 float* losses, float* largest, float* totals) {
  Status status = CheckLabels(logits);
  if (!status.ok()) return status;
  const int64_t active = logits.active;
  std::atomic<bool> ascend = !logits.same_ids || Ascend(logits.ids, active);
  parallel_for(
      logits.batch, active * kPlaceCost + 200, [&](int64_t begin, int64_t end) {
        Sample sample(logits);
        for (int64_t b = begin; b < end; ++b) {
          if (!logits.same_ids && !Ascend(logits.ids + b * active, active)) {
            ascend = false;
          }
          sample.Read(b);
          if (sample.used() == 0) {
            largest[b] = 0.0f;
            totals[b] = static_cast<float>(logits.units);
            losses[b] =
                static_cast<float>(std::log(static_cast<double>(logits.units)));
            continue;
          }
          float least;
          vector_kernels.find_range(sample.values(), sample.used(), &least,
                                    &largest[b]);
          totals[b] = vector_kernels.sum_exp(sample.values(), sample.weights(),
                                             largest[b], sample.used());
          double of_missing = 0.0;
          if (sample.missing() > 0) {
            const double missing = static_cast<double>(sample.missing());
            const double z = static_cast<double>(least) - largest[b];
            of_missing = missing * z;
            totals[b] = static_cast<float>(totals[b] + missing * std::exp(z));
          }
          losses[b] = static_cast<float>(
              std::log(static_cast<double>(totals[b])) -
              Target(logits, sample, largest[b], of_missing));
        }
      });
  if (ascend) return Status();
  return Status::Invalid(
      "`ids` must ascend strictly in a row, with -1 in unused places at the "
      "end");
}

void ActiveSoftmaxCrossentropyGrad(const ActiveLogits& logits,
                                   const float* upstream, const float* largest,
                                   const float* totals, bool softmax_only,
                                   const ParallelFor& parallel_for,
                                   const VectorKernels& vector_kernels,
                                   float* gradient) {
  parallel_for(
      logits.batch, logits.active * kPlaceCost + 200,
      [&](int64_t begin, int64_t end) {
        Sample sample(logits);
        for (int64_t b = begin; b < end; ++b) {
          sample.Read(b);
          float* row = gradient + b * logits.active;
          vector_kernels.scale_exp(sample.values(), sample.weights(),
                                   largest[b], upstream[b] / totals[b],
                                   sample.used(), row);
          std::fill(row + sample.used(), row + logits.active, 0.0f);
          if (softmax_only) continue;
          const double smoothing = logits.label_smoothing;
          const auto share =
              static_cast<float>(upstream[b] * (1.0 - smoothing) /
                                 static_cast<double>(sample.num_labels()));
          for (const int64_t place : sample.places()) row[place] -= share;
          if (smoothing == 0.0) continue;
          const auto rest =
              static_cast<float>(upstream[b] * smoothing / sample.Classes());
          for (int64_t i = 0; i < sample.used(); ++i) {
            row[i] -=
                sample.weights() == nullptr ? rest : rest * sample.weights()[i];
          }
        }
      });
}

}  // namespace keras_lsh
