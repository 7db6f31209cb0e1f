// Draws one word of 32 inputs as bits.

#include "../packing.h"
#include "../philox.h"
#include "kernel.h"

namespace spikefuse::cpu::SF_ISA {

// Draws word w of sample b at step t. A word whose rates are all 0 is skipped.
inline uint32_t poisson_word(const uint64_t* thresholds, bool silent, int64_t w, int64_t b, int64_t t, uint64_t seed,
                             uint32_t offset) {
  if (silent) return 0;
  constexpr int kQuads = kWordBits / 4;
  uint32_t draws[4][kQuads];
  for (int q = 0; q < kQuads; ++q) {
    const PhiloxResult r = poisson_draws(uint32_t(w) * kQuads + q, uint32_t(b), uint32_t(t), seed, offset);
    for (int j = 0; j < 4; ++j) draws[j][q] = r.x[j];
  }
  uint32_t word = 0;
  for (int q = 0; q < kQuads; ++q)
    for (int j = 0; j < 4; ++j) word |= uint32_t(draws[j][q] < thresholds[4 * q + j]) << (4 * q + j);
  return word;
}

// Draws all steps of one word of one sample; computes the thresholds once for all T steps.
inline void poisson_column(const double* rates, int64_t count, int64_t w, int64_t b, int64_t T, uint64_t seed,
                           uint32_t offset, uint32_t* words, int64_t stride_t) {
  uint64_t thresholds[kWordBits];
  bool silent = true;
  for (int64_t i = 0; i < kWordBits; ++i) {
    thresholds[i] = i < count ? poisson_threshold(rates[i]) : 0;
    silent = silent && thresholds[i] == 0;
  }
  for (int64_t t = 0; t < T; ++t) words[t * stride_t] = poisson_word(thresholds, silent, w, b, t, seed, offset);
}

}  // namespace spikefuse::cpu::SF_ISA
