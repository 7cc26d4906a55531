#include "custom_ops/core/row_adam.h"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "custom_ops/core/tests/check.h"
#include "custom_ops/core/tests/variants.h"

namespace keras_lsh {
namespace testing {
namespace {

using Ints = std::vector<int32_t>;

template <typename T>
struct Rows {
  int64_t total_rows, width;
  std::vector<T> variable, momentum, velocity;
  Ints last_step;

  // For comparing all of it at once.
  std::vector<T> All() const {
    std::vector<T> all = variable;
    all.insert(all.end(), momentum.begin(), momentum.end());
    all.insert(all.end(), velocity.begin(), velocity.end());
    return all;
  }
};

Rows<double> ToDouble(const Rows<float>& rows) {
  return {rows.total_rows,
          rows.width,
          {rows.variable.begin(), rows.variable.end()},
          {rows.momentum.begin(), rows.momentum.end()},
          {rows.velocity.begin(), rows.velocity.end()},
          rows.last_step};
}

Rows<float> RandomRows(Random* random, int64_t total_rows, int64_t width,
                       int64_t step) {
  Rows<float> rows = {total_rows,
                      width,
                      random->Floats(total_rows * width),
                      random->Floats(total_rows * width),
                      random->Floats(total_rows * width),
                      Ints(total_rows)};
  for (float& v : rows.velocity) v = v * v;
  for (int32_t& last : rows.last_step) {
    last = static_cast<int32_t>(random->Below(step));
  }
  return rows;
}

Rows<float> NewRows(Random* random, int64_t total_rows, int64_t width) {
  return {total_rows,
          width,
          random->Floats(total_rows * width),
          std::vector<float>(total_rows * width),
          std::vector<float>(total_rows * width),
          Ints(total_rows)};
}

Status Run(const AdamOptions& options, const Ints& rows,
           const std::vector<float>& gradient, Rows<float>* state,
           const VectorKernels& vector_kernels = GetVectorKernels(),
           const ParallelFor& parallel_for = SerialFor) {
  AdamRows view = {state->variable.data(), state->momentum.data(),
                   state->velocity.data(), state->last_step.data(),
                   state->total_rows,      state->width};
  return RowAdam(options, rows.data(), static_cast<int64_t>(rows.size()),
                 gradient.data(), parallel_for, vector_kernels, &view);
}

AdamOptions Options(int64_t step, float learning_rate = 0.01f,
                    float beta_1 = 0.9f, float beta_2 = 0.99f) {
  const double correction =
      std::sqrt(1 - std::pow(static_cast<double>(beta_2), step)) /
      (1 - std::pow(static_cast<double>(beta_1), step));
  return {static_cast<float>(learning_rate * correction), beta_1, beta_2, 1e-7f,
          step};
}

// The documented step in the precision of `T`.
template <typename T>
void PlainStep(const AdamOptions& options, const Ints& rows,
               const std::vector<float>& gradient, Rows<T>* state) {
  const T beta_1 = options.beta_1, beta_2 = options.beta_2;
  for (size_t i = 0; i < rows.size(); ++i) {
    const T skipped =
        static_cast<T>(options.step - 1 - state->last_step[rows[i]]);
    for (int64_t j = 0; j < state->width; ++j) {
      const T g = gradient[i * state->width + j];
      T& m = state->momentum[rows[i] * state->width + j];
      T& v = state->velocity[rows[i] * state->width + j];
      m *= std::pow(beta_1, skipped);
      v *= std::pow(beta_2, skipped);
      m += (g - m) * (1 - beta_1);
      v += (g * g - v) * (1 - beta_2);
      state->variable[rows[i] * state->width + j] -=
          m * static_cast<T>(options.alpha) /
          (std::sqrt(v) + static_cast<T>(options.epsilon));
    }
    state->last_step[rows[i]] = static_cast<int32_t>(options.step);
  }
}

Ints SomeRows(Random* random, int64_t total_rows, double probability) {
  Ints rows;
  for (int64_t row = 0; row < total_rows; ++row) {
    if (random->Chance(probability)) rows.push_back(static_cast<int32_t>(row));
  }
  return rows;
}

TEST(FollowsTheFormula) {
  Random random(1);
  for (int64_t width : {0, 1, 2, 15, 16, 17, 33, 128}) {
    for (int64_t total_rows : {1, 3, 50}) {
      for (double probability : {0.0, 0.4, 1.0}) {
        for (int64_t step : {1, 2, 40}) {
          const Context context("width=", width, " total_rows=", total_rows,
                                " probability=", probability, " step=", step);
          const Rows<float> before =
              RandomRows(&random, total_rows, width, step);
          const Ints rows = SomeRows(&random, total_rows, probability);
          const std::vector<float> gradient =
              random.Floats(static_cast<int64_t>(rows.size()) * width);
          const AdamOptions options = Options(step);

          Ints last_step;
          const std::vector<float> values =
              InEveryVariant([&](const VectorKernels& vector_kernels,
                                 const ParallelFor& parallel_for) {
                Rows<float> state = before;
                CHECK_OK(Run(options, rows, gradient, &state, vector_kernels,
                             parallel_for));
                last_step = state.last_step;
                return state.All();
              });
          Rows<float> plain = before;
          PlainStep(options, rows, gradient, &plain);
          Rows<double> exact = ToDouble(before);
          PlainStep(options, rows, gradient, &exact);
          CHECK_EQ(last_step, exact.last_step);
          CHECK_LE(Error(values, exact.All()),
                   2 * Error(plain.All(), exact.All()));

          // The other rows, bit for bit as they were.
          std::vector<bool> touched(total_rows);
          for (int32_t row : rows) touched[row] = true;
          const std::vector<float> old = before.All();
          for (size_t i = 0; i < old.size(); ++i) {
            const int64_t row = static_cast<int64_t>(i) / width % total_rows;
            if (!touched[row]) CHECK_EQ(values[i], old[i]);
          }
        }
      }
    }
  }
}

TEST(CatchesUpWithStepsOfZeroGradient) {
  // Against an Adam that lets the moments of all rows decay at every step, and
  // moves the variable only in rows with a gradient.
  Random random(2);
  constexpr int64_t kRows = 40, kWidth = 5, kSteps = 80;
  Rows<float> state = NewRows(&random, kRows, kWidth);
  Rows<double> exact = ToDouble(state);
  Rows<float> plain = state;
  const auto dense_step = [](const AdamOptions& options, const Ints& rows,
                             const std::vector<float>& gradient, auto* dense) {
    size_t next = 0;
    for (int64_t row = 0; row < kRows; ++row) {
      dense->last_step[row] = static_cast<int32_t>(options.step - 1);
      if (next < rows.size() && rows[next] == row) {
        PlainStep(options, {rows[next]},
                  {gradient.begin() + next * kWidth,
                   gradient.begin() + (next + 1) * kWidth},
                  dense);
        ++next;
        continue;
      }
      for (int64_t j = 0; j < kWidth; ++j) {
        dense->momentum[row * kWidth + j] *= options.beta_1;
        dense->velocity[row * kWidth + j] *= options.beta_2;
      }
    }
  };
  for (int64_t step = 1; step <= kSteps; ++step) {
    const AdamOptions options = Options(step);
    const Ints rows = SomeRows(&random, kRows, step == kSteps ? 1.0 : 0.1);
    const std::vector<float> gradient =
        random.Floats(static_cast<int64_t>(rows.size()) * kWidth);
    CHECK_OK(Run(options, rows, gradient, &state));
    dense_step(options, rows, gradient, &exact);
    dense_step(options, rows, gradient, &plain);
  }
  CHECK_LE(Error(state.variable, exact.variable),
           2 * Error(plain.variable, exact.variable));
  CHECK_LE(Error(state.momentum, exact.momentum),
           2 * Error(plain.momentum, exact.momentum));
  CHECK_LE(Error(state.velocity, exact.velocity),
           2 * Error(plain.velocity, exact.velocity));
}

TEST(FirstStepMovesByTheLearningRate) {
  // Adam's first step is the learning rate against the sign of the gradient.
  Rows<float> state = {1, 3, {5, 5, 5}, {0, 0, 0}, {0, 0, 0}, {0}};
  CHECK_OK(Run(Options(1, 0.5f), {0}, {1e-2f, -7.0f, 300.0f}, &state));
  CHECK_NEAR(state.variable[0], 4.5, 1e-4);
  CHECK_NEAR(state.variable[1], 5.5, 1e-4);
  CHECK_NEAR(state.variable[2], 4.5, 1e-4);
  CHECK_EQ(state.last_step, (Ints{1}));
}

TEST(LongAbsenceAndNoMemory) {
  constexpr int64_t kStep = 2000000000;
  for (float beta : {0.0f, 0.9f}) {
    Rows<float> state = {2, 1, {1, 1}, {8, 8}, {8, 8}, {0, kStep - 1}};
    const AdamOptions options = {0.1f, beta, beta, 1e-7f, kStep};
    CHECK_OK(Run(options, {0, 1}, {1.0f, 1.0f}, &state));
    // Row 0 has forgotten its moments, row 1 has skipped nothing.
    CHECK_NEAR(state.momentum[0], 1 - beta, 1e-6);
    CHECK_NEAR(state.velocity[0], 1 - beta, 1e-6);
    CHECK_NEAR(state.momentum[1], 8 * beta + 1 - beta, 1e-5);
    CHECK_NEAR(state.velocity[1], 8 * beta + 1 - beta, 1e-5);
    CHECK_EQ(state.last_step, (Ints{kStep, kStep}));
  }
}

TEST(RowsOfALaterStepDoNotGrow) {
  // As when `iterations` was set back: nothing is skipped, nothing is scaled
  // up.
  Rows<float> state = {1, 1, {1}, {2}, {2}, {100}};
  CHECK_OK(Run(Options(3), {0}, {2.0f}, &state));
  CHECK_EQ(state.momentum[0], 2.0f);
  CHECK_NEAR(state.velocity[0], 2.02, 1e-6);
  CHECK_EQ(state.last_step, (Ints{3}));
}

TEST(NoRows) {
  Random random(3);
  Rows<float> state = RandomRows(&random, 4, 5, 9);
  const std::vector<float> before = state.All();
  CHECK_OK(Run(Options(9), {}, {}, &state));
  CHECK_EQ(state.All(), before);
  Rows<float> empty = {0, 5, {}, {}, {}, {}};
  CHECK_OK(Run(Options(9), {}, {}, &empty));
}

TEST(ManyRowsFewTouched) {
  Random random(4);
  constexpr int64_t kRows = 1000000;
  Rows<float> state = NewRows(&random, kRows, 2);
  Rows<float> expected = state;
  const Ints rows = {0, 123456, kRows - 1};
  const std::vector<float> gradient = random.Floats(6);
  CHECK_OK(Run(Options(5), rows, gradient, &state));
  PlainStep(Options(5), rows, gradient, &expected);
  for (size_t i = 0; i < state.variable.size(); ++i) {
    CHECK_NEAR(state.variable[i], expected.variable[i], 1e-6);
  }
  CHECK_EQ(state.last_step, expected.last_step);
}

TEST(NanStaysInItsElement) {
  Random random(5);
  constexpr int64_t kWidth = 19;
  const Rows<float> before = RandomRows(&random, 3, kWidth, 4);
  std::vector<float> gradient = random.Floats(2 * kWidth);
  gradient[kWidth + 18] = kNan;  // row 2
  gradient[3] = kInf;            // row 0
  const std::vector<float> values =
      InEveryVariant([&](const VectorKernels& vector_kernels,
                         const ParallelFor& parallel_for) {
        Rows<float> state = before;
        CHECK_OK(Run(Options(4), {0, 2}, gradient, &state, vector_kernels,
                     parallel_for));
        return state.variable;
      });
  for (int64_t i = 0; i < 3 * kWidth; ++i) {
    CHECK_EQ(std::isnan(values[i]), i == 3 || i == 2 * kWidth + 18);
  }
}

TEST(BadRowsChangeNothing) {
  Random random(6);
  struct Case {
    Ints rows;
    std::string part;
  };
  const std::vector<Case> cases = {
      {{-1}, "`rows` must lie in [0, 10). Received: rows[0]=-1"},
      {{0, 3, 10}, "`rows` must lie in [0, 10). Received: rows[2]=10"},
      {{0, std::numeric_limits<int32_t>::max()}, "rows[1]=2147483647"},
      {{0, std::numeric_limits<int32_t>::min()}, "rows[1]=-2147483648"},
      {{0, 3, 3, 5}, "`rows` must be strictly ascending. Received: 3 before 3"},
      {{0, 3, 5, 4}, "`rows` must be strictly ascending. Received: 5 before 4"},
  };
  for (const Case& c : cases) {
    const Context context("expected: ", c.part);
    Rows<float> state = RandomRows(&random, 10, 7, 5);
    const std::vector<float> before = state.All();
    const Ints last_step = state.last_step;
    CHECK_ERROR(Run(Options(5), c.rows, random.Floats(7 * 4), &state), c.part);
    CHECK_EQ(state.All(), before);
    CHECK_EQ(state.last_step, last_step);
  }
}

}  // namespace
}  // namespace testing
}  // namespace keras_lsh
