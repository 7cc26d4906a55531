// Tests of simd.h and vector_kernels.h.
#include "custom_ops/core/vector_kernels.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "custom_ops/core/simd.h"
#include "custom_ops/core/tests/bfloat16s.h"
#include "custom_ops/core/tests/check.h"
#include "custom_ops/core/tests/variants.h"

namespace keras_lsh {
namespace testing {
namespace {

// Around each multiple of a vector and of an unrolled block of vectors.
std::vector<int64_t> Sizes() {
  std::vector<int64_t> sizes;
  for (int64_t n = 0; n <= 34; ++n) sizes.push_back(n);
  for (int64_t n : {47, 48, 49, 63, 64, 65, 111, 127, 128, 129, 143, 144, 145,
                    160, 255, 256, 257, 413}) {
    sizes.push_back(n);
  }
  return sizes;
}

// `n` floats, not aligned, with something on both sides that shows if it is
// read (NaN spoils the result) or written.
class Fenced {
 public:
  static constexpr int64_t kBefore = 3, kAfter = 33;

  explicit Fenced(const std::vector<float>& values)
      : n_(static_cast<int64_t>(values.size())),
        memory_(kBefore + n_ + kAfter, kNan) {
    std::copy(values.begin(), values.end(), data());
  }
  float* data() { return memory_.data() + kBefore; }
  const float* data() const { return memory_.data() + kBefore; }
  std::vector<float> values() const { return {data(), data() + n_}; }
  bool FencesStand() const {
    for (int64_t i = 0; i < static_cast<int64_t>(memory_.size()); ++i) {
      const bool outside = i < kBefore || i >= kBefore + n_;
      if (outside && !std::isnan(memory_[i])) return false;
    }
    return true;
  }

 private:
  int64_t n_;
  std::vector<float> memory_;
};

std::vector<Fenced> FencedRows(Random* random, int64_t count, int64_t n,
                               double special) {
  std::vector<Fenced> rows;
  for (int64_t i = 0; i < count; ++i) {
    std::vector<float> values = random->Floats(n);
    AddSpecialValues(random, special, &values);
    rows.emplace_back(values);
  }
  return rows;
}

std::vector<const float*> Pointers(const std::vector<Fenced>& rows) {
  std::vector<const float*> pointers;
  for (const Fenced& row : rows) pointers.push_back(row.data());
  return pointers;
}

// The documented sum: 16 lanes, fused, added as a tree.
float LaneDot(const float* a, const float* b, int64_t n) {
  std::array<float, 16> lanes{};
  for (int64_t j = 0; j < n; ++j) {
    lanes[j % 16] = std::fma(a[j], b[j], lanes[j % 16]);
  }
  for (int half : {8, 4, 2, 1}) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// Runs `fn` in a process of its own, as the level is read once per process.
bool HoldsInChild(const std::function<bool()>& fn) {
  const pid_t child = fork();
  if (child == 0) _exit(fn() ? 0 : 1);
  int status = 0;
  return child > 0 && waitpid(child, &status, 0) == child &&
         WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// What ActiveSimdLevel() should give for a value of the variable.
SimdLevel ExpectedLevel(const std::string& value) {
  for (SimdLevel level : Levels()) {
    if (value == SimdLevelName(level)) return level;
  }
  return BestSimdLevel();
}

TEST(EnvironmentForcesLevel) {
  for (const char* value : {"scalar", "avx2", "avx512", "", "AVX2", "sse"}) {
    const Context context("KERAS_LSH_SIMD=", value);
    CHECK(HoldsInChild([value] {
      setenv("KERAS_LSH_SIMD", value, 1);
      const SimdLevel level = ExpectedLevel(value);
      if (ActiveSimdLevel() != level) return false;
      if (&GetVectorKernels() != &GetVectorKernels(level)) return false;
      setenv("KERAS_LSH_SIMD", "scalar", 1);  // comes too late
      return ActiveSimdLevel() == level;
    }));
  }
  CHECK(HoldsInChild([] {
    unsetenv("KERAS_LSH_SIMD");
    return ActiveSimdLevel() == BestSimdLevel();
  }));
}

TEST(LevelsHaveNamesAndKernelsOfTheirOwn) {
  CHECK_EQ(std::string(SimdLevelName(SimdLevel::kScalar)), "scalar");
  CHECK_EQ(std::string(SimdLevelName(SimdLevel::kAvx2)), "avx2");
  CHECK_EQ(std::string(SimdLevelName(SimdLevel::kAvx512)), "avx512");
  // Otherwise comparing the levels would show nothing.
  for (SimdLevel a : Levels()) {
    for (SimdLevel b : Levels()) {
      CHECK_EQ(GetVectorKernels(a).float_rows.dots ==
                   GetVectorKernels(b).float_rows.dots,
               a == b);
      CHECK_EQ(GetVectorKernels(a).bfloat16_rows.dots ==
                   GetVectorKernels(b).bfloat16_rows.dots,
               a == b);
    }
  }
}

void CheckDots(double special) {
  Random random(1);
  for (int64_t n : Sizes()) {
    for (int64_t count : {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 31}) {
      const std::vector<Fenced> vectors =
          FencedRows(&random, count, n, special);
      const Fenced row = FencedRows(&random, 1, n, special)[0];
      std::vector<float> expected;
      for (const Fenced& vector : vectors) {
        expected.push_back(LaneDot(row.data(), vector.data(), n));
      }
      for (SimdLevel level : Levels()) {
        const Context context("n=", n, " count=", count, " ",
                              SimdLevelName(level));
        Fenced out(std::vector<float>(count, 7.0f));
        GetVectorKernels(level).float_rows.dots(
            row.data(), Pointers(vectors).data(), count, n, out.data());
        CHECK_EQ(out.values(), expected);
        CHECK(out.FencesStand());
      }
    }
  }
}

TEST(DotsAddInTheDocumentedOrder) { CheckDots(0.0); }
TEST(DotsOfSpecialValues) { CheckDots(0.03); }

// Rows so long, too, that they are asked for ahead of their use.
TEST(PairDotsAreDots) {
  Random random(5);
  std::vector<int64_t> sizes = Sizes();
  for (int64_t n : {527, 528, 529, 700, 1111}) sizes.push_back(n);
  for (int64_t n : sizes) {
    for (int64_t count : {0, 1, 2, 3, 4, 5, 8, 9, 13}) {
      const std::vector<Fenced> rows = FencedRows(&random, count, n, 0.01);
      const std::vector<Fenced> vectors = FencedRows(&random, count, n, 0.01);
      std::vector<float> expected;
      for (int64_t i = 0; i < count; ++i) {
        expected.push_back(LaneDot(rows[i].data(), vectors[i].data(), n));
      }
      for (SimdLevel level : Levels()) {
        for (bool once : {false, true}) {
          const Context context("n=", n, " count=", count, " once=", once, " ",
                                SimdLevelName(level));
          Fenced out(std::vector<float>(count, 7.0f));
          GetVectorKernels(level).float_rows.pair_dots(
              Pointers(rows).data(), Pointers(vectors).data(), count, n, once,
              out.data());
          CHECK_EQ(out.values(), expected);
          CHECK(out.FencesStand());
        }
      }
    }
  }
}

TEST(DotsOfTheSameVectorAreTheSame) {
  Random random(2);
  const std::vector<float> row = random.Floats(77), vector = random.Floats(77);
  for (SimdLevel level : Levels()) {
    for (int64_t count = 1; count <= 17; ++count) {
      const std::vector<const float*> vectors(count, vector.data());
      std::vector<float> out(count);
      GetVectorKernels(level).float_rows.dots(row.data(), vectors.data(), count,
                                              77, out.data());
      CHECK_EQ(out, std::vector<float>(count,
                                       LaneDot(row.data(), vector.data(), 77)));
    }
  }
}

TEST(DotsAreAsExactAsAPlainLoop) {
  Random random(3);
  for (int64_t n : {1, 2, 5, 16, 17, 100, 784, 1000}) {
    const Context context("n=", n);
    std::vector<float> values, plain;
    std::vector<double> exact;
    for (int repeat = 0; repeat < 300; ++repeat) {
      const std::vector<float> a = random.Floats(n), b = random.Floats(n);
      const float* vector = b.data();
      values.push_back(0.0f);
      GetVectorKernels(BestSimdLevel())
          .float_rows.dots(a.data(), &vector, 1, n, &values.back());
      float sum = 0.0f;
      double exact_sum = 0.0;
      for (int64_t j = 0; j < n; ++j) {
        sum += a[j] * b[j];
        exact_sum += static_cast<double>(a[j]) * b[j];
      }
      plain.push_back(sum);
      exact.push_back(exact_sum);
    }
    CHECK_LE(Error(values, exact), 2 * Error(plain, exact));
  }
}

// The documented sum of a vector of few elements: 4 lanes, fused, a tree.
float SparseDot(const float* row, const std::vector<int32_t>& columns,
                const std::vector<float>& values) {
  std::array<float, 4> lanes{};
  for (size_t k = 0; k < columns.size(); ++k) {
    lanes[k % 4] = std::fma(values[k], row[columns[k]], lanes[k % 4]);
  }
  return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
}

TEST(SparseDotsAddInTheDocumentedOrder) {
  Random random(8);
  for (int64_t n : {1, 5, 16, 100}) {
    for (int64_t count : {0, 1, 2, 3, 4, 5, 7, 8, 30}) {
      std::vector<int32_t> columns;
      for (int64_t k = 0; k < count; ++k) {
        columns.push_back(static_cast<int32_t>(random.Below(n)));
      }
      const std::vector<float> values = random.Floats(count);
      // Padded as documented, and behind that what would spoil the sum.
      std::vector<int32_t> padded_columns = columns;
      std::vector<float> padded = values;
      while (padded.size() % 4 != 0) {
        padded_columns.push_back(0);
        padded.push_back(0.0f);
      }
      padded_columns.resize(padded.size() + 4, 0);
      padded.resize(padded.size() + 4, kNan);
      for (int64_t num_rows = 0; num_rows <= VectorKernels::kMaxTileRows;
           ++num_rows) {
        const std::vector<Fenced> rows = FencedRows(&random, num_rows, n, 0.01);
        std::vector<float> expected;
        for (const Fenced& row : rows) {
          // What 0 times infinity makes of the padding.
          float sum = SparseDot(row.data(), columns, values);
          if (count % 4 != 0 && !std::isfinite(row.data()[0])) sum = kNan;
          expected.push_back(sum);
        }
        for (SimdLevel level : Levels()) {
          for (bool ask : {false, true}) {
            const Context context("n=", n, " count=", count, " rows=", num_rows,
                                  " ", SimdLevelName(level));
            Fenced out(std::vector<float>(num_rows, 7.0f));
            const std::vector<const float*> pointers = Pointers(rows);
            GetVectorKernels(level).float_rows.sparse_dots(
                pointers.data(), num_rows,
                ask && num_rows > 0 ? pointers[0] : nullptr,
                padded_columns.data(), padded.data(), count, out.data());
            CHECK_EQ(out.values(), expected);
            CHECK(out.FencesStand());
          }
        }
      }
    }
  }
}

// ---- Rows of Bfloat16 ----------------------------------------------------

TEST(WideningIsExact) {
  for (int bits = 0; bits < 1 << 16; ++bits) {
    const Bfloat16 value = {static_cast<uint16_t>(bits)};
    CHECK_EQ(ToFloat(value), Worth(value));
  }
}

// Rows that end where memory does: to read behind one ends the process.
class RowAtTheEnd {
 public:
  explicit RowAtTheEnd(const std::vector<Bfloat16>& values)
      : page_(sysconf(_SC_PAGESIZE)),
        bytes_(values.size() * sizeof(Bfloat16)),
        room_((bytes_ + page_ - 1) / page_ * page_),
        values_(values) {
    void* memory = mmap(nullptr, room_ + page_, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    memory_ = static_cast<char*>(memory);
    std::copy(values.begin(), values.end(),
              reinterpret_cast<Bfloat16*>(memory_ + room_ - bytes_));
    CHECK_EQ(mprotect(memory_ + room_, page_, PROT_NONE), 0);
  }
  ~RowAtTheEnd() { munmap(memory_, room_ + page_); }
  RowAtTheEnd(const RowAtTheEnd&) = delete;
  RowAtTheEnd& operator=(const RowAtTheEnd&) = delete;

  const Bfloat16* data() const {
    return reinterpret_cast<const Bfloat16*>(memory_ + room_ - bytes_);
  }
  std::vector<float> worth() const { return Worth(values_); }

 private:
  const size_t page_, bytes_, room_;
  const std::vector<Bfloat16> values_;
  char* memory_;
};

// All of them, and long ones that are asked for ahead of their use.
std::vector<int64_t> RowSizes() {
  std::vector<int64_t> sizes;
  for (int64_t n = 0; n <= 70; ++n) sizes.push_back(n);
  for (int64_t n : {129, 413, 1023, 1040, 1055, 1056, 1057, 1089, 2500}) {
    sizes.push_back(n);
  }
  return sizes;
}

// Some rows, what they are worth, and vectors to multiply them by.
struct Bfloat16Case {
  std::vector<std::unique_ptr<RowAtTheEnd>> rows;
  std::vector<const Bfloat16*> row_pointers;
  std::vector<std::vector<float>> worth;
  std::vector<Fenced> vectors;
  std::vector<const float*> vector_pointers;

  Bfloat16Case(Random* random, int64_t num_rows, int64_t count, int64_t n) {
    for (int64_t r = 0; r < num_rows; ++r) {
      rows.push_back(
          std::make_unique<RowAtTheEnd>(RandomBfloat16s(random, n, 0.002)));
      row_pointers.push_back(rows.back()->data());
      worth.push_back(rows.back()->worth());
    }
    vectors = FencedRows(random, count, n, 0.001);
    vector_pointers = Pointers(vectors);
  }
  float Dot(int64_t row, int64_t vector) const {
    return LaneDot(worth[row].data(), vectors[vector].data(),
                   static_cast<int64_t>(worth[row].size()));
  }
};

TEST(Bfloat16DotsAreThoseOfTheWidenedRows) {
  Random random(20);
  for (int64_t n : RowSizes()) {
    for (int64_t count : {0, 1, 2, 3, 7, 8, 9, 13}) {
      const Bfloat16Case c(&random, count + 1, count + 1, n);
      std::vector<float> of_row, of_vector, of_pairs;
      for (int64_t i = 0; i < count; ++i) {
        of_row.push_back(c.Dot(count, i));
        of_vector.push_back(c.Dot(i, count));
        of_pairs.push_back(c.Dot(i, i));
      }
      for (SimdLevel level : Levels()) {
        const Context context("n=", n, " count=", count, " ",
                              SimdLevelName(level));
        const RowProducts<Bfloat16>& products =
            GetVectorKernels(level).bfloat16_rows;
        Fenced out(std::vector<float>(count, 7.0f));
        products.dots(c.row_pointers[count], c.vector_pointers.data(), count, n,
                      out.data());
        CHECK_EQ(out.values(), of_row);
        products.row_dots(c.vector_pointers[count], c.row_pointers.data(),
                          count, n, out.data());
        CHECK_EQ(out.values(), of_vector);
        for (bool once : {false, true}) {
          products.pair_dots(c.row_pointers.data(), c.vector_pointers.data(),
                             count, n, once, out.data());
          CHECK_EQ(out.values(), of_pairs);
        }
        CHECK(out.FencesStand());
      }
    }
  }
}

TEST(Bfloat16TilesAreThoseOfTheWidenedRows) {
  Random random(21);
  for (int64_t n : RowSizes()) {
    for (int64_t num_rows = 1; num_rows <= VectorKernels::kMaxTileRows;
         ++num_rows) {
      for (int64_t count : {0, 1, 4, 7}) {
        const Bfloat16Case c(&random, num_rows, count, n);
        std::vector<float> expected;
        for (int64_t r = 0; r < num_rows; ++r) {
          for (int64_t i = 0; i < count; ++i) expected.push_back(c.Dot(r, i));
        }
        for (SimdLevel level : Levels()) {
          const Context context("n=", n, " rows=", num_rows, " count=", count,
                                " ", SimdLevelName(level));
          Fenced out(std::vector<float>(num_rows * count, 7.0f));
          GetVectorKernels(level).bfloat16_rows.dot_tile(
              c.row_pointers.data(), num_rows, c.vector_pointers.data(), count,
              n, out.data());
          CHECK_EQ(out.values(), expected);
          CHECK(out.FencesStand());
        }
      }
    }
  }
}

TEST(Bfloat16SparseDotsAreThoseOfTheWidenedRows) {
  Random random(22);
  for (int64_t n : {1, 5, 16, 70, 1000}) {
    for (int64_t count : {0, 4, 8, 32}) {
      std::vector<int32_t> columns;
      for (int64_t k = 0; k < count; ++k) {
        columns.push_back(static_cast<int32_t>(random.Below(n)));
      }
      if (count > 0) columns[0] = static_cast<int32_t>(n - 1);
      const std::vector<float> values = random.Floats(count);
      for (int64_t num_rows = 0; num_rows <= VectorKernels::kMaxTileRows;
           ++num_rows) {
        const Bfloat16Case c(&random, num_rows, 0, n);
        std::vector<float> expected;
        for (const std::vector<float>& row : c.worth) {
          expected.push_back(SparseDot(row.data(), columns, values));
        }
        for (SimdLevel level : Levels()) {
          for (bool ask : {false, true}) {
            const Context context("n=", n, " count=", count, " rows=", num_rows,
                                  " ", SimdLevelName(level));
            Fenced out(std::vector<float>(num_rows, 7.0f));
            GetVectorKernels(level).bfloat16_rows.sparse_dots(
                c.row_pointers.data(), num_rows,
                ask && num_rows > 0 ? c.row_pointers[0] : nullptr,
                columns.data(), values.data(), count, out.data());
            CHECK_EQ(out.values(), expected);
            CHECK(out.FencesStand());
          }
        }
      }
    }
  }
}

TEST(RowsAreToldApartByTheirType) {
  const VectorKernels& kernels = GetVectorKernels();
  CHECK(&kernels.Rows<float>() == &kernels.float_rows);
  CHECK(&kernels.Rows<Bfloat16>() == &kernels.bfloat16_rows);
  CHECK(kernels.float_rows.dots == kernels.float_rows.row_dots);
}

TEST(AddsAtColumns) {
  Random random(9);
  for (int64_t n : {1, 5, 100}) {
    for (int64_t count : {0, 1, 3, 8, 21}) {
      if (count > n) continue;
      std::vector<int32_t> columns;
      for (int64_t k = 0; k < count; ++k) {
        columns.push_back(static_cast<int32_t>((7 * k + 2) % n));
      }
      const Fenced values = FencedRows(&random, 1, count, 0.1)[0];
      const Fenced wide = FencedRows(&random, 1, n, 0.1)[0];
      const float scale = random.Float();
      std::vector<float> scattered = wide.values(), gathered = values.values();
      for (int64_t k = 0; k < count; ++k) {
        float& target = scattered[columns[k]];
        target = std::fma(scale, values.data()[k], target);
        gathered[k] = std::fma(scale, wide.data()[columns[k]], gathered[k]);
      }
      for (SimdLevel level : Levels()) {
        const Context context("n=", n, " count=", count, " ",
                              SimdLevelName(level));
        Fenced target = wide, sums = values;
        GetVectorKernels(level).add_sparse(scale, columns.data(), values.data(),
                                           count, target.data());
        GetVectorKernels(level).add_gathered(scale, wide.data(), columns.data(),
                                             count, sums.data());
        CHECK_EQ(target.values(), scattered);
        CHECK_EQ(sums.values(), gathered);
        CHECK(target.FencesStand() && sums.FencesStand());
      }
    }
  }
}

void CheckWeightedSum(double special) {
  Random random(4);
  for (int64_t n : Sizes()) {
    for (int64_t count : {0, 1, 2, 3, 20}) {
      const std::vector<Fenced> rows = FencedRows(&random, count, n, special);
      const Fenced scales = FencedRows(&random, 1, count, special)[0];
      std::vector<float> expected(n, 0.0f);
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          expected[j] =
              std::fma(scales.data()[i], rows[i].data()[j], expected[j]);
        }
      }
      for (SimdLevel level : Levels()) {
        const Context context("n=", n, " count=", count, " ",
                              SimdLevelName(level));
        Fenced out(std::vector<float>(n, 7.0f));
        std::vector<const float*> pointers = Pointers(rows);
        for (const float*& row : pointers) row -= count;
        GetVectorKernels(level).weighted_sum(pointers.data(), scales.data(),
                                             count, /*first=*/count, n,
                                             out.data());
        CHECK_EQ(out.values(), expected);
        CHECK(out.FencesStand());
      }
    }
  }
}

void CheckAddScaled(double special) {
  Random random(6);
  for (int64_t n : Sizes()) {
    for (int64_t count : {0, 1, 2, 3, 20}) {
      const Fenced row = FencedRows(&random, 1, n, special)[0];
      const Fenced scales = FencedRows(&random, 1, count, special)[0];
      const std::vector<Fenced> before = FencedRows(&random, 3, n, special);
      std::vector<std::vector<float>> expected;
      for (const Fenced& target : before) expected.push_back(target.values());
      for (int64_t i = 0; i < count; ++i) {  // every target several times
        for (int64_t j = 0; j < n; ++j) {
          float& value = expected[i % 3][j];
          value = std::fma(scales.data()[i], row.data()[j], value);
        }
      }
      for (SimdLevel level : Levels()) {
        const Context context("n=", n, " count=", count, " ",
                              SimdLevelName(level));
        std::vector<Fenced> targets = before;
        std::vector<float*> pointers;
        for (int64_t i = 0; i < count; ++i) {
          pointers.push_back(targets[i % 3].data() - count);
        }
        GetVectorKernels(level).add_scaled(row.data(), scales.data(),
                                           pointers.data(), count,
                                           /*first=*/count, n);
        for (int t = 0; t < 3; ++t) {
          CHECK_EQ(targets[t].values(), expected[t]);
          CHECK(targets[t].FencesStand());
        }
      }
    }
  }
}

TEST(AddScaledAddsInTheDocumentedOrder) { CheckAddScaled(0.0); }
TEST(AddScaledOfSpecialValues) { CheckAddScaled(0.03); }

TEST(WeightedSumAddsInTheDocumentedOrder) { CheckWeightedSum(0.0); }
TEST(WeightedSumOfSpecialValues) { CheckWeightedSum(0.03); }

TEST(WeightedSumIsAsExactAsAPlainLoop) {
  Random random(5);
  constexpr int64_t kN = 300;
  for (int64_t count : {1, 2, 10, 200}) {
    const Context context("count=", count);
    std::vector<std::vector<float>> rows;
    std::vector<const float*> pointers;
    const std::vector<float> scales = random.Floats(count);
    std::vector<float> values(kN), plain(kN);
    std::vector<double> exact(kN);
    for (int64_t i = 0; i < count; ++i) {
      rows.push_back(random.Floats(kN));
      pointers.push_back(rows.back().data());
      for (int64_t j = 0; j < kN; ++j) {
        plain[j] += scales[i] * rows[i][j];
        exact[j] += static_cast<double>(scales[i]) * rows[i][j];
      }
    }
    GetVectorKernels(BestSimdLevel())
        .weighted_sum(pointers.data(), scales.data(), count, 0, kN,
                      values.data());
    CHECK_LE(Error(values, exact), 2 * Error(plain, exact));
  }
}

struct AdamState {
  Fenced variable, momentum, velocity;
};

AdamState RandomAdamState(Random* random, int64_t n, double special) {
  std::vector<float> velocity = random->Floats(n);
  for (float& v : velocity) v = v * v;
  AddSpecialValues(random, special, &velocity);
  return {FencedRows(random, 1, n, special)[0],
          FencedRows(random, 1, n, special)[0], Fenced(velocity)};
}

void CheckAdamRow(double special) {
  Random random(6);
  for (int64_t n : Sizes()) {
    const AdamRowStep step = {0.73f, 0.97f, 0.1f, 0.01f, 0.003f, 1e-7f};
    const Fenced gradient = FencedRows(&random, 1, n, special)[0];
    const AdamState before = RandomAdamState(&random, n, special);
    AdamState expected = before;
    for (int64_t j = 0; j < n; ++j) {
      float& m = expected.momentum.data()[j];
      float& v = expected.velocity.data()[j];
      const float g = gradient.data()[j];
      m *= step.momentum_decay;
      v *= step.velocity_decay;
      m += (g - m) * step.one_minus_beta_1;
      v += (g * g - v) * step.one_minus_beta_2;
      expected.variable.data()[j] -=
          m * step.alpha / (std::sqrt(v) + step.epsilon);
    }
    for (SimdLevel level : Levels()) {
      const Context context("n=", n, " ", SimdLevelName(level));
      AdamState state = before;
      GetVectorKernels(level).adam_row(
          step, gradient.data(), n, state.variable.data(),
          state.momentum.data(), state.velocity.data());
      CHECK_EQ(state.variable.values(), expected.variable.values());
      CHECK_EQ(state.momentum.values(), expected.momentum.values());
      CHECK_EQ(state.velocity.values(), expected.velocity.values());
      CHECK(state.variable.FencesStand());
      CHECK(state.momentum.FencesStand());
      CHECK(state.velocity.FencesStand());
    }
  }
}

TEST(AdamRowFollowsTheFormula) { CheckAdamRow(0.0); }
TEST(AdamRowOfSpecialValues) { CheckAdamRow(0.1); }

TEST(AdamRowWithoutEpsilonLeavesOtherElementsAlone) {
  // 0 / 0 in the lanes past the end must not show.
  const AdamRowStep step = {1.0f, 1.0f, 0.1f, 0.001f, 0.001f, 0.0f};
  for (SimdLevel level : Levels()) {
    const std::vector<float> gradient = {0.0f, 1.0f, -2.0f};
    std::vector<float> variable = {1.0f, 2.0f, 3.0f}, momentum(3), velocity(3);
    GetVectorKernels(level).adam_row(step, gradient.data(), 3, variable.data(),
                                     momentum.data(), velocity.data());
    CHECK(std::isnan(variable[0]));
    CHECK_NEAR(variable[1], 2.0 - 0.0001 / std::sqrt(0.001), 1e-6);
    CHECK_NEAR(variable[2], 3.0 + 0.0002 / std::sqrt(0.004), 1e-6);
  }
}

TEST(FindsTheLeastDifference) {
  Random random(12);
  for (int64_t n : {0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 100, 519}) {
    for (int kind = 0; kind < 4; ++kind) {
      const Context context("n=", n, " kind=", kind);
      std::vector<float> minuends = random.Floats(n), values = random.Floats(n);
      if (kind == 1) {  // ties
        for (float& value : values) value = std::round(2 * value);
        for (float& value : minuends) value = std::round(2 * value);
      } else if (kind == 2) {
        AddSpecialValues(&random, 0.5, &values);
        AddSpecialValues(&random, 0.2, &minuends);
      } else if (kind == 3) {  // nothing that is less than infinity
        std::fill(minuends.begin(), minuends.end(),
                  std::numeric_limits<float>::infinity());
      }
      float least = std::numeric_limits<float>::infinity();
      int64_t expected = 0;
      for (int64_t i = 0; i < n; ++i) {
        if (minuends[i] - values[i] < least) {
          least = minuends[i] - values[i];
          expected = i;
        }
      }
      const Fenced from(minuends), subtracted(values);
      CHECK_EQ(GetVectorKernels().find_least(from.data(), subtracted.data(), n),
               expected);
    }
  }
}

TEST(MultiplySumsInOrder) {
  Random random(11);
  for (int64_t rows : {0, 1, 2, 7, 8, 9, 17}) {
    for (int64_t inner : {0, 1, 3, 40}) {
      for (int64_t columns : {0, 1, 15, 16, 17, 47, 48, 49, 70, 128, 185}) {
        const Context context("rows=", rows, " inner=", inner,
                              " columns=", columns);
        std::vector<float> a = random.Floats(rows * inner);
        std::vector<float> b = random.Floats(inner * columns);
        AddSpecialValues(&random, 0.01, &a);
        AddSpecialValues(&random, 0.01, &b);
        std::vector<float> expected(rows * columns, 0.0f);
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t i = 0; i < inner; ++i) {
            for (int64_t j = 0; j < columns; ++j) {
              float& sum = expected[r * columns + j];
              sum = std::fma(a[r * inner + i], b[i * columns + j], sum);
            }
          }
        }
        const Fenced left(a), right(b);
        Fenced out(std::vector<float>(rows * columns, 1.0f));
        GetVectorKernels().multiply(left.data(), right.data(), rows, inner,
                                    columns, out.data());
        CHECK_EQ(out.values(), expected);
        CHECK(out.FencesStand());
      }
    }
  }
}

TEST(RangeIsOfWhatIsANumber) {
  Random random(12);
  for (int64_t n : Sizes()) {
    for (double special : {0.0, 0.3, 1.0}) {
      std::vector<float> values = random.Floats(n);
      AddSpecialValues(&random, special, &values);
      float smallest = kInf, most = -kInf;
      for (float value : values) {
        if (value < smallest) smallest = value;
        if (value > most) most = value;
      }
      const Fenced fenced(values);
      for (SimdLevel level : Levels()) {
        const Context context("n=", n, " ", SimdLevelName(level));
        float least, largest;
        GetVectorKernels(level).find_range(fenced.data(), n, &least, &largest);
        CHECK(least == smallest && largest == most);
      }
    }
  }
}

// exp of each, as the kernels have it.
std::vector<float> Exp(const std::vector<float>& x) {
  std::vector<float> result(x.size());
  GetVectorKernels(SimdLevel::kScalar)
      .scale_exp(x.data(), nullptr, 0.0f, 1.0f, static_cast<int64_t>(x.size()),
                 result.data());
  return result;
}

TEST(ExponentialsAreExactToTwoUnits) {
  std::vector<float> x;
  for (float value = 0.0f; value > -87.3f; value -= 1e-4f) x.push_back(value);
  for (float value = -87.3f; value < -1e-37f; value *= 0.99f) {
    x.push_back(value);
  }
  const std::vector<float> result = Exp(x);
  for (size_t i = 0; i < x.size(); ++i) {
    const Context context("x=", x[i]);
    const double exact = std::exp(static_cast<double>(x[i]));
    const double unit = std::nextafter(static_cast<float>(exact), kInf) -
                        static_cast<double>(static_cast<float>(exact));
    CHECK_NEAR(result[i], exact, 2.0 * unit);
  }
  CHECK_EQ(Exp({0.0f, -0.0f}), (std::vector<float>{1.0f, 1.0f}));
  CHECK_EQ(Exp({-87.8f, -88.0f, -1e30f, -kInf}), std::vector<float>(4, 0.0f));
}

TEST(ExponentialOfNanIsNan) {
  for (uint32_t bits :
       {0x7fc00000u, 0x7fc00001u, 0xffffffffu, 0x7f800001u, 0xffc000ffu}) {
    float nan;
    std::memcpy(&nan, &bits, sizeof nan);
    for (SimdLevel level : Levels()) {
      for (int64_t n : {1, 16, 17}) {
        const std::vector<float> values(n, nan);
        std::vector<float> out(n);
        GetVectorKernels(level).scale_exp(values.data(), nullptr, 0.0f, 1.0f, n,
                                          out.data());
        CHECK_EQ(out, std::vector<float>(n, kNan));
        CHECK(std::isnan(
            GetVectorKernels(level).sum_exp(values.data(), nullptr, 0.0f, n)));
      }
    }
  }
}

void CheckExponentials(double special) {
  Random random(13);
  for (int64_t n : Sizes()) {
    for (bool weighted : {false, true}) {
      std::vector<float> values = random.Floats(n), weights = random.Floats(n);
      for (float& value : values) value *= 30.0f;
      AddSpecialValues(&random, special, &values);
      float largest = -kInf;
      for (float value : values) {
        if (value > largest) largest = value;
      }
      std::vector<float> differences = values;
      for (float& difference : differences) difference -= largest;
      std::vector<float> expected = Exp(differences);
      std::array<float, 16> lanes{};
      for (int64_t i = 0; i < n; ++i) {
        lanes[i % 16] += weighted ? expected[i] * weights[i] : expected[i];
        expected[i] *= 0.3f;
        if (weighted) expected[i] *= weights[i];
      }
      for (int half : {8, 4, 2, 1}) {
        for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
      }
      const Fenced fenced(values), fenced_weights(weights);
      const float* weight = weighted ? fenced_weights.data() : nullptr;
      for (SimdLevel level : Levels()) {
        const Context context("n=", n, " ", SimdLevelName(level));
        Fenced out(std::vector<float>(n, 7.0f));
        GetVectorKernels(level).scale_exp(fenced.data(), weight, largest, 0.3f,
                                          n, out.data());
        CHECK_EQ(out.values(), expected);
        CHECK(out.FencesStand());
        CHECK_EQ(
            GetVectorKernels(level).sum_exp(fenced.data(), weight, largest, n),
            lanes[0]);
      }
    }
  }
}

TEST(SumsOfExponentials) { CheckExponentials(0.0); }
TEST(SumsOfExponentialsOfSpecialValues) { CheckExponentials(0.05); }

}  // namespace
}  // namespace testing
}  // namespace keras_lsh
