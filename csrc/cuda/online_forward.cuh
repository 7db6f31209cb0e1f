// Forward pass of the online rule: currents, membrane potentials, spikes, and the output layer's masked error.
#pragma once

#include "online_batch.cuh"

namespace spikefuse::cuda {

// Computes currents, potentials and spikes of layer l at step t, and in the output layer the masked error (eqs 1-8). A
// task is one sample and as many neurons as a block has threads.
template <class acc_t>
__device__ void online_forward(const OnlineBatch<acc_t>& p, int l, int64_t t, const OnlineScratch<acc_t>& scratch) {
  const OnlineLayer<acc_t>& layer = p.layer[l];
  const bool is_first = l == 0, is_output = l + 1 == p.layers;
  const int64_t slabs = (layer.out + blockDim.x - 1) / blockDim.x, slot = is_first ? t % p.depth : 0;
  for (int64_t task = blockIdx.x; task < p.B * slabs; task += gridDim.x) {
    const int64_t b = task / slabs, m = task % slabs * blockDim.x + threadIdx.x;
    const bool inside = m < layer.out;
    const uint32_t* x = is_first ? p.input + (t * p.B + b) * words_for(layer.in) : spikes_at(p, p.layer[l - 1], t, b);
    const acc_t z = gather_rows<1>(x, layer.in, layer.weight + m, layer.out, inside, scratch.list).x[0];
    const int64_t at = b * layer.out + m;
    acc_t v = acc_t(0);
    bool spike = false;
    if (inside) {
      v = lif_integrate(p.decay, layer.state[at], z);
      spike = lif_fires(v, p.threshold);
      layer.state[at] = lif_reset(Reset::zero, v, spike, p.threshold);
      if (p.v_clamp && v > p.threshold) v = p.threshold;
      if (p.trace == Trace::gated) {
        // After a spike, a neuron's window begins anew and is one step long, as all windows are at first.
        uint16_t* ages = layer.age + at;
        const int64_t before = is_first ? (t + p.depth - 1) % p.depth : 0, stride = p.B * layer.out;
        const bool begins = t == 0 || spiked(p, layer, t - 1, b, m);
        const uint16_t age = begins ? uint16_t(0) : uint16_t(ages[before * stride] + 1);
        if (!is_first && begins) {
          int32_t* neurons = layer.window_neurons + b * (p.T + 1);
          if (t > 0) atomicAdd(neurons + (t - 1 - ages[0]), -1);
          atomicAdd(neurons + t, 1);
        }
        ages[slot * stride] = age;
      }
    }
    const uint32_t word = __ballot_sync(kAllLanes, spike);
    if (threadIdx.x % 32 == 0 && inside) {
      if (is_first && p.gathered)
        p.gathered[(p.rank * words_for(p.slice) + m / kWordBits) * p.B + b] = word;
      else
        spikes_at(p, layer, t, b)[m / kWordBits] = word;
    }
    if (!is_output) {
      if (inside) layer.potential[at] = v;
      continue;
    }
    acc_t error = acc_t(0);
    bool mismatch = false;
    if (inside) {
      const bool target = spike_at(p.target + (t * p.B + b) * words_for(layer.out), m);
      // Clamping v does not change whether the neuron spikes.
      error = masked_error(target, spike, v, p.threshold);
      mismatch = target != spike;
      layer.delta[slot * p.B * layer.out + at] = -error;
    }
    const double squares = block_sum(0.5 * double(error) * double(error), scratch.sums);
    const double task_mismatches = block_sum(mismatch ? 1.0 : 0.0, scratch.sums);
    if (threadIdx.x == 0) {
      p.loss_part[task] += squares;
      p.mismatches_part[task] += int64_t(task_mismatches);
    }
    __syncthreads();  // `sums` is reused
  }
}

}  // namespace spikefuse::cuda
