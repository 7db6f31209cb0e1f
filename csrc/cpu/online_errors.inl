// Backward pass of the online rule: propagates errors from the output layer down and advances the later layers' traces.
#if defined(SF_ONLINE_ERRORS_INL) == defined(SF_ISA_PARITY)
#if defined(SF_ONLINE_ERRORS_INL)
#undef SF_ONLINE_ERRORS_INL
#else
#define SF_ONLINE_ERRORS_INL
#endif

#include <cstring>

#include "gather.inl"
#include "online_batch.h"
#include "online_traces.inl"

namespace spikefuse::cpu::SF_ISA {

// Computes delta_l = (W_{l+1}^T delta_{l+1}) * ds/dv of this time step only (eqs 14-15), for 32 neurons at a time. The
// words of `delta` are `stride` apart.
template <class acc_t>
void hidden_error(const OnlineBatch<acc_t>& p, const OnlineLayer<acc_t>& layer, int64_t b, const acc_t* propagated,
                  acc_t* delta, int64_t stride) {
  const acc_t* v = layer.potential + b * layer.out_width;
  const acc_t threshold = p.threshold, slope = p.slope;
  for (int64_t first = 0; first < layer.out_width; first += kWordBits, delta += stride) {
    if (p.surrogate == Surrogate::sigmoid) {
      for (int64_t i = 0; i < kWordBits; ++i)
        delta[i] = propagated[first + i] * surrogate_sigmoid(v[first + i] - threshold, slope);
    } else {
      for (int64_t i = 0; i < kWordBits; ++i)
        delta[i] = propagated[first + i] * surrogate_derivative(p.surrogate, v[first + i] - threshold, slope);
    }
  }
}

// Computes sample b's errors of the hidden layers and its traces of all layers but the first, from the output layer
// down.
template <class acc_t>
void online_errors(const OnlineBatch<acc_t>& p, int64_t b, int64_t t, const OnlineScratch<acc_t>& scratch) {
  constexpr int64_t line = kLine<acc_t>;
  for (int64_t l = p.layers - 1; l > 0; --l) {
    OnlineLayer<acc_t>& layer = p.layer[l];
    const uint32_t* x = spikes_at(p, p.layer[l - 1], b, t);
    const int64_t W = words_for(layer.out);
    const bool is_output = l + 1 == p.layers;
    const auto delta = [&](int64_t m) { return layer.delta[(m / kWordBits * p.B + b) * kWordBits + m % kWordBits]; };
    const int64_t count = is_output ? list_spikes(layer.mismatched + b, p.B, layer.out, scratch.list) : layer.out;
    for_each_part(layer.in_stride / line, [&](int64_t first, auto lines) {
      Sums<acc_t, lines * line> sums;
      sums.clear();
      for (int64_t k = 0; k < count; ++k) {
        const int64_t m = is_output ? scratch.list[k] : k;
        sums.add(delta(m), layer.weight + m * layer.in_stride + first * line);
      }
      sums.store(scratch.row + first * line);
    });
    const OnlineLayer<acc_t>& below = p.layer[l - 1];
    if (l == 1 && p.exchange.call)
      std::memmove(scratch.row, scratch.row + p.exchange.rank * p.exchange.slice, below.out * sizeof(acc_t));
    for (int64_t n = below.out; n < below.out_width; ++n) scratch.row[n] = acc_t(0);
    if (l == 1)
      hidden_error(p, below, b, scratch.row, below.delta + (t % p.depth * p.B + b) * below.out_width, kWordBits);
    else
      hidden_error(p, below, b, scratch.row, below.delta + b * kWordBits, p.B * kWordBits);
    if (p.trace == Trace::shared) {
      const acc_t factor = layer.trace_factor[b];
      advance_shared_trace<acc_t>([=](int64_t) { return factor; }, x, p.B, layer.in_stride,
                                  layer.trace + b * layer.in_stride);
      layer.trace_factor[b] = shared_trace_factor(p, layer.in, count_spikes(spikes_at(p, layer, b, t), p.B, W));
    } else {
      int32_t* neurons = layer.window_neurons + b * (p.T + 1);
      if (t == 0) neurons[0] = int32_t(layer.out);
      advance_windows(p.decay, x, p.B, t, layer.in_stride, neurons, layer.trace + b * p.T * layer.in_stride);
      count_windows(p, layer, b, t, scratch);
    }
  }
}

}  // namespace spikefuse::cpu::SF_ISA

#endif
