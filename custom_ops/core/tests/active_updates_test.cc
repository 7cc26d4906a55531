// Updates that work out the gradient by the kernel as they go: ActiveRowAdam
// and SubtractActiveRows beside the gradient and the update one after the
// other. And groups that were made elsewhere.
#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "custom_ops/core/active_gradients.h"
#include "custom_ops/core/active_set.h"
#include "custom_ops/core/neuron_samples.h"
#include "custom_ops/core/row_adam.h"
#include "custom_ops/core/row_subtract.h"
#include "custom_ops/core/tests/check.h"
#include "custom_ops/core/tests/variants.h"

namespace keras_lsh {
namespace testing {
namespace {

using Ints = std::vector<int32_t>;
using Floats = std::vector<float>;

struct Case {
  int64_t batch, active, units, input_dim;
  double zeros;  // share of the inputs

  ActiveIds view() const { return {ids.data(), batch, active}; }

  Ints ids = {};
  Floats inputs = {}, gradient = {};
  NeuronSamples groups = {};
};

// Every way of working: by slabs, several neurons at a time; two blocks of
// rows; of sparse inputs; nothing to do.
std::vector<Case> Cases() {
  std::vector<Case> cases = {{40, 9, 30, 50, 0.0},   {130, 4, 700, 70, 0.0},
                             {2, 9, 90, 70000, 0.0}, {6, 5, 40, 300, 0.97},
                             {3, 2, 20, 90, 1.0},    {0, 3, 20, 7, 0.0},
                             {4, 0, 20, 7, 0.0}};
  Random random(1);
  for (Case& c : cases) {
    for (int64_t b = 0; b < c.batch; ++b) {
      std::set<int32_t> chosen;
      while (static_cast<int64_t>(chosen.size()) < c.active) {
        chosen.insert(static_cast<int32_t>(random.Below(c.units)));
      }
      c.ids.insert(c.ids.end(), chosen.begin(), chosen.end());
      if (c.active > 0 && b % 3 == 1) c.ids.back() = kNoId;
    }
    c.inputs = random.Floats(c.batch * c.input_dim);
    for (float& input : c.inputs) {
      if (random.Chance(c.zeros)) input = 0.0f;
    }
    c.gradient = random.Floats(c.batch * c.active);
    CHECK_OK(GroupByNeuron(c.view(), c.units, {}, SerialFor, &c.groups));
  }
  return cases;
}

Floats Gradient(const Case& c) {
  Floats rows(c.groups.neurons.size() * c.input_dim, kNan);
  ActiveMatmulGradKernel(c.view(), c.groups, c.gradient.data(), c.inputs.data(),
                         c.input_dim, SerialFor, GetVectorKernels(),
                         rows.data());
  return rows;
}

TEST(RowsAreHandedOnOnce) {
  for (const Case& c : Cases()) {
    const Context context("input_dim=", c.input_dim, " zeros=", c.zeros);
    Floats rows(c.groups.neurons.size() * c.input_dim, kNan);
    ActiveMatmulGradKernelRows(
        c.view(), c.groups, c.gradient.data(), c.inputs.data(), c.input_dim,
        SerialFor, GetVectorKernels(),
        [&](int64_t first, int64_t last, const float* of_rows) {
          for (int64_t i = 0; i < (last - first) * c.input_dim; ++i) {
            float& row = rows[first * c.input_dim + i];
            CHECK(std::isnan(row));
            row = of_rows[i];
          }
        });
    CHECK_EQ(rows, Gradient(c));
  }
}

TEST(AdamOfRowsAsTheyCome) {
  for (const Case& c : Cases()) {
    const Context context("input_dim=", c.input_dim, " zeros=", c.zeros);
    Random random(2);
    const Floats before = random.Floats(c.units * c.input_dim);
    Ints last_step(c.units);
    for (int32_t& last : last_step) {
      last = static_cast<int32_t>(random.Below(5));
    }
    const AdamOptions options = {0.01f, 0.9, 0.999, 1e-7f, 6};
    // Variable, moments and steps, all in one.
    const auto run = [&](const auto& update) {
      Floats variable = before, momentum = before, velocity = before;
      for (float& v : velocity) v *= v;
      Ints last = last_step;
      AdamRows state = {variable.data(), momentum.data(), velocity.data(),
                        last.data(),     c.units,         c.input_dim};
      CHECK_OK(update(&state));
      variable.insert(variable.end(), momentum.begin(), momentum.end());
      variable.insert(variable.end(), velocity.begin(), velocity.end());
      variable.insert(variable.end(), last.begin(), last.end());
      return variable;
    };
    const Floats gradient = Gradient(c);
    const Floats expected = run([&](AdamRows* state) {
      return RowAdam(options, c.groups.neurons.data(),
                     static_cast<int64_t>(c.groups.neurons.size()),
                     gradient.data(), SerialFor, GetVectorKernels(), state);
    });
    CHECK_EQ(InEveryVariant(
                 [&](const VectorKernels& kernels, const ParallelFor& split) {
                   return run([&](AdamRows* state) {
                     return ActiveRowAdam(options, c.view(), c.groups,
                                          c.gradient.data(), c.inputs.data(),
                                          split, kernels, state);
                   });
                 }),
             expected);
  }
}

TEST(SubtractsRowsAsTheyCome) {
  for (const Case& c : Cases()) {
    const Context context("input_dim=", c.input_dim, " zeros=", c.zeros);
    const Floats before = Random(3).Floats(c.units * c.input_dim);
    Floats values = Gradient(c), expected = before;
    for (float& value : values) value = 0.3f * value;
    CHECK_OK(SubtractRows(
        c.groups.neurons.data(), static_cast<int64_t>(c.groups.neurons.size()),
        values.data(), SerialFor, c.units, c.input_dim, expected.data()));
    CHECK_EQ(InEveryVariant([&](const VectorKernels& kernels,
                                const ParallelFor& split) {
               Floats variable = before;
               CHECK_OK(SubtractActiveRows(
                   0.3f, c.view(), c.groups, c.gradient.data(), c.inputs.data(),
                   split, kernels, c.units, c.input_dim, variable.data()));
               return variable;
             }),
             expected);
  }
}

TEST(RowsOutOfRangeChangeNothing) {
  const Case c = Cases()[0];
  Floats variable(c.units * c.input_dim, 5.0f), same = variable;
  Ints last(c.units);
  const int64_t too_few = c.groups.neurons.back();
  AdamRows state = {variable.data(), variable.data(), variable.data(),
                    last.data(),     too_few,         c.input_dim};
  CHECK_ERROR(ActiveRowAdam({0.01f, 0.9, 0.999, 1e-7f, 1}, c.view(), c.groups,
                            c.gradient.data(), c.inputs.data(), SerialFor,
                            GetVectorKernels(), &state),
              "`rows` must lie in [0, " + std::to_string(too_few) + ")");
  CHECK_ERROR(SubtractActiveRows(1.0f, c.view(), c.groups, c.gradient.data(),
                                 c.inputs.data(), SerialFor, GetVectorKernels(),
                                 too_few, c.input_dim, variable.data()),
              "`rows` must lie in [0, " + std::to_string(too_few) + ")");
  CHECK_EQ(variable, same);
}

TEST(GroupsMadeElsewhere) {
  for (const Case& c : Cases())
    CHECK_OK(CheckGroups(c.groups, c.view(), c.units));
  const Case c = Cases()[0];
  const auto fails = [&](const auto& spoil, int64_t units) {
    NeuronSamples groups = c.groups;
    spoil(&groups);
    CHECK_ERROR(CheckGroups(groups, c.view(), units), "LshGroupByNeuron");
  };
  fails([](NeuronSamples*) {}, c.groups.neurons.back());
  fails([](NeuronSamples* g) { g->starts.clear(); }, c.units);
  fails([](NeuronSamples* g) { g->starts[0] = 1; }, c.units);
  fails([](NeuronSamples* g) { g->starts[1] = 1 << 30; }, c.units);
  fails([](NeuronSamples* g) { g->starts[1] = -1; }, c.units);
  fails([](NeuronSamples* g) { ++g->starts.back(); }, c.units);
  fails([](NeuronSamples* g) { g->neurons.pop_back(); }, c.units);
  fails([](NeuronSamples* g) { g->neurons[0] = -1; }, c.units);
  fails([](NeuronSamples* g) { g->neurons[1] = g->neurons[0]; }, c.units);
  fails([](NeuronSamples* g) { g->places[0] = -1; }, c.units);
  fails([](NeuronSamples* g) { g->places.back() = 360; }, c.units);
}

}  // namespace
}  // namespace testing
}  // namespace keras_lsh
