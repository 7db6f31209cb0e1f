// LIF forward pass and reverse scan over all T steps of one tile: up to kTile neighbouring neurons of one sample. The
// tile's state stays in the first-level cache.

#include <type_traits>

#include "../lif_params.h"
#include "kernel.h"

namespace spikefuse::cpu::SF_ISA {

constexpr int64_t kTile = 256;

// Returns the row itself if it has the accumulation type; converts it into `buffer` otherwise.
template <class acc_t, class io_t>
SF_HD const acc_t* load_row(const io_t* row, acc_t* buffer, int64_t count) {
  if constexpr (std::is_same_v<acc_t, io_t>) {
    return row;
  } else {
    for (int64_t i = 0; i < count; ++i) buffer[i] = static_cast<acc_t>(row[i]);
    return buffer;
  }
}

template <class acc_t>
SF_HD void load_parameter(const acc_t* values, int64_t stride, int64_t first, acc_t* row, int64_t count) {
  for (int64_t i = 0; i < count; ++i) row[i] = values[(first + i) * stride];
}

// Sets bits[i] to 1 if neuron first + i has a target spike. `first` begins a word, so whole words are written.
SF_HD void load_target(const uint32_t* words, int64_t first, int32_t* bits, int64_t count) {
  static_assert(kTile % kWordBits == 0);
  for (int64_t w = 0; w < words_for(count); ++w) {
    const uint32_t word = words[first / kWordBits + w];
    for (int64_t i = 0; i < kWordBits; ++i) bits[w * kWordBits + i] = int32_t(word >> i & 1u);
  }
}

template <class acc_t, class io_t>
void lif_forward_tile(const LifForward<acc_t, io_t>& p, int64_t b, int64_t first, int64_t count, double& loss,
                      int64_t& mismatches) {
  acc_t decay[kTile], threshold[kTile], state[kTile], buffer[kTile], squared[kTile];
  int32_t target[kTile];
  load_parameter(p.decay, p.decay_stride, first, decay, count);
  load_parameter(p.threshold, p.threshold_stride, first, threshold, count);
  for (int64_t i = 0; i < count; ++i) {
    state[i] = p.state ? p.state[b * p.N + first + i] : acc_t(0);
    squared[i] = acc_t(0);
  }
  int64_t total_mismatches = 0;
  for (int64_t t = 0; t < p.T; ++t) {
    const int64_t row = (t * p.B + b) * p.N + first;
    const acc_t* z = load_row(p.z.data + t * p.z.t + b * p.z.b + first, buffer, count);
    acc_t* v = p.v + row;
    io_t* spikes = p.spikes + row;
    for (int64_t i = 0; i < count; ++i) {
      const acc_t vi = lif_integrate(decay[i], state[i], z[i]);
      const bool spike = lif_fires(vi, threshold[i]);
      v[i] = vi;
      state[i] = lif_reset(p.reset, vi, spike, threshold[i]);
      spikes[i] = static_cast<io_t>(spike ? 1.0f : 0.0f);
    }
    if (p.target) {
      load_target(p.target + (t * p.B + b) * words_for(p.N), first, target, count);
      int32_t step_mismatches = 0;  // as wide as the other lanes
      for (int64_t i = 0; i < count; ++i) {
        const bool spike = lif_fires(v[i], threshold[i]);
        const acc_t error = masked_error<acc_t>(target[i], spike, v[i], threshold[i]);
        squared[i] = fused_multiply_add(error, error, squared[i]);
        step_mismatches += target[i] ^ int32_t(spike);
      }
      total_mismatches += step_mismatches;
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    p.new_state[b * p.N + first + i] = state[i];
    loss += 0.5 * static_cast<double>(squared[i]);
  }
  mismatches += total_mismatches;
}

template <class acc_t>
void surrogate_row(Surrogate kind, const acc_t* v, const acc_t* threshold, acc_t slope, acc_t* derivative,
                   int64_t count) {
  switch (kind) {
    case Surrogate::sigmoid:
      for (int64_t i = 0; i < count; ++i) derivative[i] = surrogate_sigmoid(v[i] - threshold[i], slope);
      break;
    case Surrogate::atan:
      for (int64_t i = 0; i < count; ++i) derivative[i] = surrogate_atan(v[i] - threshold[i], slope);
      break;
    case Surrogate::fast_sigmoid:
      for (int64_t i = 0; i < count; ++i) derivative[i] = surrogate_fast_sigmoid(v[i] - threshold[i], slope);
      break;
    default:
      for (int64_t i = 0; i < count; ++i) derivative[i] = surrogate_triangle(v[i] - threshold[i], slope);
  }
}

template <class acc_t, class io_t>
void lif_backward_tile(const LifBackward<acc_t, io_t>& p, int64_t b, int64_t first, int64_t count) {
  acc_t decay[kTile], threshold[kTile], carried[kTile], derivative[kTile], total[kTile];
  acc_t spikes_buffer[kTile], v_buffer[kTile], grad_decay[kTile], grad_threshold[kTile];
  int32_t target[kTile];
  load_parameter(p.decay, p.decay_stride, first, decay, count);
  load_parameter(p.threshold, p.threshold_stride, first, threshold, count);
  for (int64_t i = 0; i < count; ++i) {
    carried[i] = p.grad_state ? p.grad_state[b * p.N + first + i] : acc_t(0);
    grad_decay[i] = grad_threshold[i] = acc_t(0);
  }
  for (int64_t t = p.T - 1; t >= 0; --t) {
    const int64_t row = (t * p.B + b) * p.N + first;
    const acc_t* v = p.v + row;
    if (p.grad_spikes.data || !p.detach_reset) surrogate_row(p.surrogate, v, threshold, p.slope, derivative, count);

    // Sums the gradients of v[t]: from v'[t], from the spike through the surrogate, from v itself and from the masked
    // error.
    for (int64_t i = 0; i < count; ++i)
      total[i] = lif_reset_backward(p.reset, carried[i], lif_fires(v[i], threshold[i]));
    if (p.grad_spikes.data || !p.detach_reset) {
      const acc_t* grad_spikes = nullptr;
      if (p.grad_spikes.data)
        grad_spikes =
            load_row(p.grad_spikes.data + t * p.grad_spikes.t + b * p.grad_spikes.b + first, spikes_buffer, count);
      for (int64_t i = 0; i < count; ++i) {
        acc_t grad = grad_spikes ? grad_spikes[i] : acc_t(0);
        if (!p.detach_reset) grad += lif_reset_spike_backward(p.reset, carried[i], v[i], threshold[i]);
        total[i] = fused_multiply_add(grad, derivative[i], total[i]);
        if (p.grad_threshold) grad_threshold[i] = fused_multiply_add(-grad, derivative[i], grad_threshold[i]);
      }
    }
    if (p.grad_v.data) {
      const acc_t* grad_v = load_row(p.grad_v.data + t * p.grad_v.t + b * p.grad_v.b + first, v_buffer, count);
      for (int64_t i = 0; i < count; ++i) total[i] += grad_v[i];
    }
    if (p.target) {
      load_target(p.target + (t * p.B + b) * words_for(p.N), first, target, count);
      acc_t error[kTile];
      const acc_t grad_loss = *p.grad_loss;
      for (int64_t i = 0; i < count; ++i) {
        error[i] = masked_error<acc_t>(target[i], lif_fires(v[i], threshold[i]), v[i], threshold[i]);
        total[i] = fused_multiply_add(-grad_loss, error[i], total[i]);
      }
      if (p.grad_threshold)
        for (int64_t i = 0; i < count; ++i)
          grad_threshold[i] = fused_multiply_add(target[i] ? grad_loss : acc_t(0), error[i], grad_threshold[i]);
    }
    if (p.grad_decay) {
      for (int64_t i = 0; i < count; ++i) {
        const int64_t before = row - p.B * p.N + i;
        acc_t previous = acc_t(0);
        if (t > 0)
          previous = lif_reset(p.reset, p.v[before], lif_fires(p.v[before], threshold[i]), threshold[i]);
        else if (p.state)
          previous = p.state[b * p.N + first + i];
        grad_decay[i] = fused_multiply_add(total[i], previous, grad_decay[i]);
        if (p.reset == Reset::subtract && lif_fires(v[i], threshold[i])) grad_threshold[i] -= carried[i];
      }
    }
    io_t* grad_z = p.grad_z + row;
    for (int64_t i = 0; i < count; ++i) {
      grad_z[i] = static_cast<io_t>(total[i]);
      carried[i] = decay[i] * total[i];
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    p.grad_initial_state[b * p.N + first + i] = carried[i];
    if (p.grad_decay) p.grad_decay[b * p.N + first + i] = grad_decay[i];
    if (p.grad_threshold) p.grad_threshold[b * p.N + first + i] = grad_threshold[i];
  }
}

}  // namespace spikefuse::cpu::SF_ISA
