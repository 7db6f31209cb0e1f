// Philox4x32-10 (Salmon, Moraes, Dror & Shaw, SC 2011): maps a counter to four independent uniform 32-bit numbers. It
// has no state, so any thread can draw any element, and the result does not depend on how the work is split.
#pragma once

#include "macros.h"

namespace spikefuse {

struct PhiloxResult {
  uint32_t x[4];
};

SF_HD PhiloxResult philox4x32(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t(0xD2511F53u) * c0;
    const uint64_t p1 = uint64_t(0xCD9E8D57u) * c2;
    c0 = uint32_t(p1 >> 32) ^ c1 ^ k0;
    c1 = uint32_t(p1);
    c2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
    c3 = uint32_t(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Draws for the four inputs 4 * quad ... 4 * quad + 3 of sample b at time step t. A draw depends only on these
// coordinates: not on T, B or N, nor on the thread.
SF_HD PhiloxResult poisson_draws(uint32_t quad, uint32_t b, uint32_t t, uint64_t seed, uint32_t offset) {
  return philox4x32(quad, b, t, offset, uint32_t(seed), uint32_t(seed >> 32));
}

// An input spikes if its 32-bit draw is below this threshold: never at rate 0, always at rate 1. The product is exact
// in double for a rate in fp32.
SF_HD uint64_t poisson_threshold(double rate) {
  const double scaled = rate * 4294967296.0;
  return scaled >= 4294967296.0 ? 4294967296ull : scaled > 0.0 ? uint64_t(scaled) : 0ull;
}

}  // namespace spikefuse
