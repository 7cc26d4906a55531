#ifndef CUSTOM_OPS_CORE_NEURON_SAMPLES_H_
#define CUSTOM_OPS_CORE_NEURON_SAMPLES_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "custom_ops/core/parallel.h"
#include "custom_ops/core/status.h"

namespace keras_lsh {

// Which neurons each sample of a batch computes.
struct ActiveIds {
  const int32_t* ids;  // [batch, active]; kNoId marks an unused place
  int64_t batch;
  int64_t active;
};

// The sample of a place in `ids`, quicker than by a division.
class SampleOfPlace {
 public:
  // active: at least 1, or there are no places.
  explicit SampleOfPlace(int64_t active) {
    while (shift_ < 62 && int64_t{1} << (shift_ - 31) < active) ++shift_;
    inverse_ = ((uint64_t{1} << shift_) - 1) / std::max<int64_t>(active, 1) + 1;
  }
  // For places below 2^31 exact: `inverse` is too large by less than one part
  // in 2^31 of it (Granlund & Montgomery 1994, "Division by Invariant Integers
  // using Multiplication", theorem 4.2).
  int32_t operator()(int32_t place) const {
    return static_cast<int32_t>(static_cast<uint64_t>(place) * inverse_ >>
                                shift_);
  }

 private:
  int shift_ = 31;
  uint64_t inverse_;
};

// A hint which neurons are likely to be chosen by the same samples: those with
// equal keys, e.g. neurons of one bucket. It changes speed, not results.
struct NeuronKeys {
  const int32_t* keys =
      nullptr;  // neuron n has keys[n * stride]; null: no hint
  int64_t stride = 1;
};

// The same sets turned round: for each neuron that some sample chose, where in
// `ids` it stands. Working neuron by neuron reads a row of the kernel once for
// all its samples, and makes the gradient's rows unique.
struct NeuronSamples {
  std::vector<int32_t> neurons;  // the chosen neurons by (key, id) ascending
  std::vector<int64_t> starts;   // [neurons + 1], into `places`
  std::vector<int32_t> places;   // sample * active + slot, ascending a neuron
  // Where tiles start, [tiles + 1], into `neurons`: runs of neurons of one key,
  // of any without keys, short enough to be multiplied together.
  std::vector<int64_t> tiles;
};

// Turns active sets round. Errors if an id is out of [0, units), kNoId apart,
// or if batch * active does not fit 31 bits. The time depends on
// batch * active and little on `units`. Quickest, and in parallel, where the
// ids of each sample ascend.
Status GroupByNeuron(const ActiveIds& ids, int64_t units,
                     const NeuronKeys& keys, const ParallelFor& parallel_for,
                     NeuronSamples* out);

// Errors if an id is out of [0, units), kNoId apart. `name`: what ids are
// called.
Status CheckIds(const ActiveIds& ids, int64_t units, const char* name = "ids");

// Errors unless the groups, made elsewhere, can be worked with: neurons that
// ascend in [0, units), each with places, all of `ids`. That the places hold
// the neurons is not looked at, which would take as long as to group them.
Status CheckGroups(const NeuronSamples& groups, const ActiveIds& ids,
                   int64_t units);

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_NEURON_SAMPLES_H_
