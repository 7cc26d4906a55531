#ifndef CUSTOM_OPS_CORE_TESTS_CHECK_H_
#define CUSTOM_OPS_CORE_TESTS_CHECK_H_

// A test program in one header that needs nothing but the compiler. It defines
// main(), so a program includes it in one source file.
//
//   TEST(SumsAreExact) {
//     const Context context("n=", n);           // printed with failures
//     CHECK_EQ(Sum({1, 2}), 3);
//   }
//
// A failed check is printed and the test goes on. The program prints
// "N passed, M failed" and fails if a test did, or if there were none.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <sstream>
#include <string>
#include <vector>

namespace keras_lsh {
namespace testing {

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kInf = std::numeric_limits<float>::infinity();

// ---- Tests ---------------------------------------------------------------

struct Test {
  const char* name;
  void (*run)();
};

struct State {
  std::vector<Test> tests;
  std::vector<std::string> context;
  int failures = 0;  // of the test that runs
};

inline State& GetState() {
  static State state;
  return state;
}

struct Registration {
  Registration(const char* name, void (*run)()) {
    GetState().tests.push_back({name, run});
  }
};

// Says where a test is, from here to the end of the scope.
class Context {
 public:
  template <typename... Parts>
  explicit Context(const Parts&... parts) {
    std::ostringstream text;
    (text << ... << parts);
    GetState().context.push_back(text.str());
  }
  ~Context() { GetState().context.pop_back(); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
};

inline void Fail(const char* file, int line, const std::string& message) {
  constexpr int kMostPrinted = 5;  // a broken loop need not fill the screen
  State& state = GetState();
  if (++state.failures > kMostPrinted) return;
  std::printf("%s:%d: %s\n", file, line, message.c_str());
  for (const std::string& context : state.context) {
    std::printf("    with %s\n", context.c_str());
  }
}

// ---- Comparisons ---------------------------------------------------------

// Floats are the same if their bits are, or if both are NaN (which bits a NaN
// has, no instruction set promises).
inline bool Same(float a, float b) {
  return std::memcmp(&a, &b, sizeof a) == 0 || (std::isnan(a) && std::isnan(b));
}
template <typename A, typename B>
bool Same(const A& a, const B& b) {
  return a == b;
}

template <typename T>
std::string Show(const T& value) {
  std::ostringstream text;
  text.precision(17);
  text << value;
  return text.str();
}

inline void CheckTrue(bool condition, const char* what, const char* file,
                      int line) {
  if (!condition) Fail(file, line, what);
}

template <typename A, typename B>
void CheckEqual(const A& a, const B& b, const std::string& what,
                const char* file, int line) {
  if (!Same(a, b)) Fail(file, line, what + ": " + Show(a) + " != " + Show(b));
}

// Of two vectors, the first difference is shown.
template <typename T>
void CheckEqual(const std::vector<T>& a, const std::vector<T>& b,
                const std::string& what, const char* file, int line) {
  if (a.size() != b.size()) {
    Fail(file, line,
         what + ": sizes " + Show(a.size()) + " != " + Show(b.size()));
    return;
  }
  for (size_t i = 0; i < a.size(); ++i) {
    if (Same(a[i], b[i])) continue;
    Fail(file, line,
         what + " at " + Show(i) + ": " + Show(a[i]) + " != " + Show(b[i]));
    return;
  }
}

inline void CheckAtMost(double a, double b, const char* what, const char* file,
                        int line) {
  if (!(a <= b)) {  // so that NaN fails
    Fail(file, line, std::string(what) + ": " + Show(a) + " > " + Show(b));
  }
}

// `Status` is any type with ok() and message().
template <typename Status>
void CheckOk(const Status& status, const char* what, const char* file,
             int line) {
  if (!status.ok()) {
    Fail(file, line, std::string(what) + " failed: " + status.message());
  }
}

template <typename Status>
void CheckError(const Status& status, const std::string& part, const char* what,
                const char* file, int line) {
  if (status.ok()) {
    Fail(file, line, std::string(what) + " succeeded; expected: " + part);
  } else if (status.message().find(part) == std::string::npos) {
    Fail(file, line,
         std::string(what) + ": \"" + status.message() +
             "\" does not contain: " + part);
  }
}

// The root of the mean square error.
inline double Error(const std::vector<float>& values,
                    const std::vector<double>& exact) {
  if (values.size() != exact.size()) return kInf;
  if (values.empty()) return 0.0;
  double sum = 0.0;
  for (size_t i = 0; i < values.size(); ++i) {
    sum += (values[i] - exact[i]) * (values[i] - exact[i]);
  }
  return std::sqrt(sum / static_cast<double>(values.size()));
}

#define TEST(name)                                                             \
  static void name();                                                          \
  static const ::keras_lsh::testing::Registration name##Registration(#name,    \
                                                                     &(name)); \
  static void name()

#define CHECK(condition) \
  ::keras_lsh::testing::CheckTrue((condition), #condition, __FILE__, __LINE__)
#define CHECK_EQ(a, b) \
  ::keras_lsh::testing::CheckEqual((a), (b), #a " == " #b, __FILE__, __LINE__)
#define CHECK_LE(a, b) \
  ::keras_lsh::testing::CheckAtMost((a), (b), #a " <= " #b, __FILE__, __LINE__)
#define CHECK_NEAR(a, b, tolerance)                                           \
  ::keras_lsh::testing::CheckAtMost(                                          \
      std::abs(static_cast<double>(a) - static_cast<double>(b)), (tolerance), \
      "|" #a " - " #b "|", __FILE__, __LINE__)
#define CHECK_OK(status) \
  ::keras_lsh::testing::CheckOk((status), #status, __FILE__, __LINE__)
#define CHECK_ERROR(status, part)                                       \
  ::keras_lsh::testing::CheckError((status), (part), #status, __FILE__, \
                                   __LINE__)

// ---- Random input --------------------------------------------------------

// The same numbers on every machine, which std's distributions do not promise.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}

  // In [0, end); end >= 1.
  int64_t Below(int64_t end) {
    return static_cast<int64_t>(engine_() % static_cast<uint64_t>(end));
  }
  int32_t Int32() { return static_cast<int32_t>(engine_()); }
  bool Chance(double probability) {
    return static_cast<double>(Below(1 << 24)) < probability * (1 << 24);
  }
  // In [-1, 1).
  float Float() {
    return static_cast<float>(Below(1 << 24)) / static_cast<float>(1 << 23) -
           1.0f;
  }
  std::vector<float> Floats(int64_t n) {
    std::vector<float> values(n);
    for (float& value : values) value = Float();
    return values;
  }

 private:
  std::mt19937_64 engine_;
};

// Makes some of the values NaN, infinite, zero of either sign, denormal, or as
// large as floats are.
inline void AddSpecialValues(Random* random, double probability,
                             std::vector<float>* values) {
  constexpr float kSpecial[] = {
      kNan,
      kInf,
      -kInf,
      0.0f,
      -0.0f,
      std::numeric_limits<float>::denorm_min(),
      std::numeric_limits<float>::max(),
      std::numeric_limits<float>::lowest(),
  };
  for (float& value : *values) {
    if (random->Chance(probability)) value = kSpecial[random->Below(8)];
  }
}

}  // namespace testing
}  // namespace keras_lsh

int main() {
  keras_lsh::testing::State& state = keras_lsh::testing::GetState();
  int passed = 0, failed = 0;
  for (const keras_lsh::testing::Test& test : state.tests) {
    state.failures = 0;
    test.run();
    if (state.failures == 0) {
      ++passed;
    } else {
      ++failed;
      std::printf("FAILED: %s (%d checks)\n", test.name, state.failures);
    }
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed > 0 || passed == 0 ? 1 : 0;
}

#endif  // CUSTOM_OPS_CORE_TESTS_CHECK_H_
