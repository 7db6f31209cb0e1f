// Packed spikes: neuron n is bit n % 32 of word n / 32. The padding bits of a row's last word are 0.
#pragma once

#include "macros.h"

namespace spikefuse {

constexpr int64_t kWordBits = 32;

SF_HD int64_t words_for(int64_t neurons) { return (neurons + kWordBits - 1) / kWordBits; }

// Mask of the bits of word w that are neurons, not padding.
SF_HD uint32_t neurons_of_word(int64_t w, int64_t neurons) {
  const int64_t rest = neurons - w * kWordBits;
  return rest >= kWordBits ? ~0u : (1u << rest) - 1;
}

SF_HD bool spike_at(const uint32_t* row, int64_t neuron) {
  return row[neuron / kWordBits] >> (neuron % kWordBits) & 1u;
}

}  // namespace spikefuse
