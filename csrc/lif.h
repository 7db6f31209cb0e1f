// One step of a leaky integrate-and-fire neuron and of its reverse scan (Roy, Panda & Roy 2019, eqs 1-2 and 5-8).
#pragma once

#include "macros.h"

namespace spikefuse {

// Same values as spikefuse.functional.RESETS.
enum class Reset : int { zero = 0, subtract = 1, none = 2 };

// v[t] = decay * v'[t-1] + z[t]                                                                              (eq 1)
template <class acc_t>
SF_HD acc_t lif_integrate(acc_t decay, acc_t v_after_reset, acc_t z) {
  return fused_multiply_add(decay, v_after_reset, z);
}

// s[t] = 1 where v[t] >= threshold; false for NaN                                                            (eq 2)
template <class acc_t>
SF_HD bool lif_fires(acc_t v, acc_t threshold) {
  return v >= threshold;
}

// v'[t]. Selects instead of multiplying: a neuron at +inf resets to 0, not to NaN.
template <class acc_t>
SF_HD acc_t lif_reset(Reset reset, acc_t v, bool spike, acc_t threshold) {
  const acc_t on_spike = reset == Reset::zero ? acc_t(0) : reset == Reset::subtract ? v - threshold : v;
  return spike ? on_spike : v;
}

// E[t] = (y XOR s) * (threshold * y - v)                                                                 (eqs 5-7)
template <class acc_t>
SF_HD acc_t masked_error(bool target, bool spike, acc_t v, acc_t threshold) {
  const acc_t error = (target ? threshold : acc_t(0)) - v;
  return target != spike ? error : acc_t(0);
}

// Gradient of v[t] through v'[t] at a fixed spike: d v' / d v.
template <class acc_t>
SF_HD acc_t lif_reset_backward(Reset reset, acc_t grad_after_reset, bool spike) {
  return spike && reset == Reset::zero ? acc_t(0) : grad_after_reset;
}

// Gradient of s[t] through v'[t] if the reset is not detached: d v' / d s.
template <class acc_t>
SF_HD acc_t lif_reset_spike_backward(Reset reset, acc_t grad_after_reset, acc_t v, acc_t threshold) {
  const acc_t scale = reset == Reset::zero ? v : reset == Reset::subtract ? threshold : acc_t(0);
  return -grad_after_reset * scale;
}

}  // namespace spikefuse
