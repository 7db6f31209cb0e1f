// Traces of the online rule: leaky sums for the shared trace, window sums for the gated one.
#pragma once

#include "online_batch.cuh"

namespace spikefuse::cuda {

// Computes the decay factor of a layer's shared trace at step t from its neurons' spikes at t - 1.
template <class acc_t>
__device__ void make_trace_factors(const OnlineBatch<acc_t>& p, int l, int64_t t) {
  if (p.trace != Trace::shared || t == 0) return;
  const OnlineLayer<acc_t>& layer = p.layer[l];
  acc_t* factor = layer.trace_factor + (l == 0 ? t % p.depth * p.B : 0);
  const int64_t W = words_for(layer.neurons);
  for (int64_t b = global_thread(); b < p.B; b += all_threads()) {
    const uint32_t* words = spikes_at(p, layer, t - 1, b);
    int64_t spikes = 0;
    for (int64_t w = 0; w < W; ++w) spikes += __popc(words[w]);
    factor[b] = shared_trace_factor(p, layer.in, spikes);
  }
}

// Advances the traces of a later layer's inputs to step t (eqs 10, 16).
template <class acc_t>
__device__ void advance_traces(const OnlineBatch<acc_t>& p, int l, int64_t t) {
  const OnlineLayer<acc_t>& layer = p.layer[l];
  for (int64_t i = global_thread(); i < p.B * layer.in; i += all_threads()) {
    const int64_t b = i / layer.in, n = i % layer.in;
    const acc_t x = spike_at(spikes_at(p, p.layer[l - 1], t, b), n) ? acc_t(1) : acc_t(0);
    if (p.trace == Trace::shared) {
      layer.trace[i] = fused_multiply_add(layer.trace_factor[b], layer.trace[i], x);
      continue;
    }
    const int32_t* neurons = layer.window_neurons + b * (p.T + 1);
    acc_t* window = layer.trace + b * p.T * layer.in + n;
    for (int64_t begin = 0; begin <= t; ++begin, window += layer.in)
      if (neurons[begin] > 0) *window = begin == t ? x : fused_multiply_add(p.decay, *window, x);
  }
}

// Lists the shared trace of input n at steps begin ... t, for its active samples: coefficient [steps, count].
template <class acc_t>
__device__ void list_traces(const OnlineBatch<acc_t>& p, int64_t n, int64_t begin, int64_t t, const int32_t* samples,
                            int64_t count, acc_t* coefficient) {
  const OnlineLayer<acc_t>& layer = p.layer[0];
  const int64_t words = words_for(p.B);
  for (int64_t k = threadIdx.x; k < count; k += blockDim.x) {
    const int64_t b = samples[k];
    acc_t e = layer.trace[n * p.B + b];
    for (int64_t s = begin; s <= t; ++s) {
      const acc_t x = spike_at(p.by_input + (n * p.T + s) * words, b) ? acc_t(1) : acc_t(0);
      e = fused_multiply_add(layer.trace_factor[s % p.depth * p.B + b], e, x);
      coefficient[(s - begin) * count + k] = e;
    }
    layer.trace[n * p.B + b] = e;
  }
}

// Computes the window sums of input n in sample b at step t by age, one sample per warp: window[a] = sum of decay^i x[t
// - i] over i <= a. Without input spikes they are exactly zero. Adam divides by the gradient's own size and would turn
// the rounding error of a difference of leaky sums into a full step.
template <class acc_t>
__device__ void make_window(const OnlineBatch<acc_t>& p, int64_t n, int64_t b, int64_t t, acc_t* window) {
  const int64_t words = words_for(p.B);
  const uint32_t* x = p.by_input + n * p.T * words;
  const int64_t lane = threadIdx.x % 32;
  acc_t carried = acc_t(0);
  for (int64_t first = 0; first <= t; first += 32) {
    const int64_t age = first + lane;
    acc_t sum = age <= t && spike_at(x + (t - age) * words, b) ? p.power[age] : acc_t(0);
    SF_UNROLL for (int delta = 1; delta < 32; delta *= 2) {
      const acc_t newer = __shfl_up_sync(kAllLanes, sum, delta);
      if (lane >= delta) sum += newer;
    }
    sum += carried;
    if (age <= t) window[age] = sum;
    carried = __shfl_sync(kAllLanes, sum, 31);
  }
}

}  // namespace spikefuse::cuda
