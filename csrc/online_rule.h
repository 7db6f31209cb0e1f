// Settings of the online rule, as in spikefuse.online.OnlineRule. Its arithmetic is here, in lif.h, surrogate.h and
// adam.h.
#pragma once

#include "adam.h"
#include "surrogate.h"

namespace spikefuse {

// Same values as spikefuse.online.TRACES.
enum class Trace : int { shared = 0, gated = 1 };

template <class acc_t>
struct OnlineRule {
  acc_t decay, threshold, trace_divisor /* 0: the layer's fan-in */, slope;
  Trace trace;
  bool v_clamp;
  Surrogate surrogate;
  Optimizer optimizer;
};

// Decay factor of the shared trace e: e[t] = decay * e'[t-1] + x[t] with e'[t-1] = e[t-1] * (1 - spikes / D), if
// `spikes` of the layer's neurons spiked at t - 1.
template <class acc_t>
SF_HD acc_t shared_trace_factor(const OnlineRule<acc_t>& rule, int64_t inputs, int64_t spikes) {
  const acc_t divisor = rule.trace_divisor > acc_t(0) ? rule.trace_divisor : acc_t(inputs);
  return rule.decay * (acc_t(1) - acc_t(spikes) / divisor);
}

}  // namespace spikefuse
