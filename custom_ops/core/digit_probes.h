#ifndef CUSTOM_OPS_CORE_DIGIT_PROBES_H_
#define CUSTOM_OPS_CORE_DIGIT_PROBES_H_

#include <cstdint>
#include <vector>

#include "custom_ops/core/cheapest_probes.h"
#include "custom_ops/core/vector_kernels.h"

namespace keras_lsh {

// The codes of a table have a digit for each hash function, the first one being
// the most significant; a digit is the value whose score is the largest.
struct DigitShape {
  int tables;
  int functions;
  int scores;      // of a function
  bool negatives;  // the score of value scores + v is the negative of value v's

  int values() const { return negatives ? 2 * scores : scores; }
  // values ^ functions
  int64_t codes() const;
};

// What ProbeSequencer does for bits, for digits of any number of values.
//
// A value costs the square of how much its score is smaller than the largest of
// its function. A square that is not below 1e9 (that of NaN is not) counts as
// 1e9, a subnormal one as zero. Values are sorted by (cost, value) ascending;
// the first costs nothing in any case. A code costs the sum of its digits,
// added in float32 from the first to the last.
//
// Chosen are each table's own bucket, of the first values, in table order, and
// the first others by (cost, table, places) ascending, where `places` are those
// of the digits in their sortings, the first digit being the most significant.
// These come by (table, places).
class DigitProber {
 public:
  // tables * codes is below 2^31.
  DigitProber(const DigitShape& shape, const VectorKernels& vector_kernels);

  // Writes the chosen `count` buckets of one sample.
  //
  //   scores   [tables, functions, shape.scores]
  //   count    in [tables, tables * codes]
  //   buckets  [count]: table * codes + code
  //   costs    [count]
  //
  // Not thread-safe: the object holds the scratch memory.
  void Run(const float* scores, int64_t count, int32_t* buckets, float* costs);

 private:
  struct Digits {  // one of a function, or the first ones of a code
    float cost;
    int32_t value;
  };

  void FindOwn(const float* scores);
  // Sorts the values of a function that cost no more than the limit.
  void SortDigits(const float* scores, int64_t function);
  // Appends to the first digits of codes, in longer_, those of digits_.
  void Lengthen(int32_t weight, int64_t most_ties);
  // Adds all tables' buckets but their own to probes_.
  void List(const float* scores, int64_t most_ties);
  // All tables' functions, one after the other.
  int64_t num_functions() const {
    return int64_t{shape_.tables} * shape_.functions;
  }

  const DigitShape shape_;
  const int32_t codes_;
  CheapestProbes probes_;
  std::vector<float> largest_;             // [tables * functions], scores
  std::vector<int32_t> own_;               // [tables * functions], values
  std::vector<Digits> digits_;             // of one function, sorted
  std::vector<Digits> prefixes_, longer_;  // of one table
};

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_DIGIT_PROBES_H_
