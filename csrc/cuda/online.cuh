// Online rule on CUDA: one kernel computes all time steps of a batch. All blocks are on the GPU at once and go from
// stage to stage together, with a grid barrier after each stage. Within a stage, each task belongs to one block or one
// thread, and its sums have a fixed order.
//
// As in the CPU backend, the first layer is event-driven: a row of weights defers its updates until it is read, and
// rows whose input has not spiked in the batch are not touched.
#pragma once

#include <algorithm>

#include "online_errors.cuh"
#include "online_forward.cuh"
#include "online_rows.cuh"

namespace spikefuse::cuda {

// Assembles the first layer's spikes at step t from all ranks' slices.
template <class acc_t>
__device__ void assemble_spikes(const OnlineBatch<acc_t>& p, int64_t t) {
  const int64_t neurons = p.layer[0].neurons, W = words_for(neurons), slice_words = words_for(p.slice);
  for (int64_t i = global_thread(); i < p.B * W; i += all_threads()) {
    const int64_t b = i / W, w = i % W, end = std::min((w + 1) * kWordBits, neurons);
    uint32_t word = 0;
    for (int64_t n = w * kWordBits; n < end;) {
      // Number of neurons that lie in one word both here and in their rank's slice.
      const int64_t r = n / p.slice, position = n % p.slice;
      const int64_t count = std::min({end - n, kWordBits - position % kWordBits, p.slice - position});
      const uint32_t bits = p.gathered[(r * slice_words + position / kWordBits) * p.B + b] >> (position % kWordBits);
      word |= (bits & neurons_of_word(0, count)) << (n % kWordBits);
      n += count;
    }
    spikes_at(p, p.layer[0], t, b)[w] = word;
  }
}

// Updates all weights by the errors and traces of step t.
template <class acc_t>
__device__ void online_updates(const OnlineBatch<acc_t>& p, int64_t t, const OnlineScratch<acc_t>& scratch) {
  const auto rows = int64_t(p.rows_due_count[t]);
  int64_t tasks = rows;
  for (int l = 1; l < p.layers; ++l) tasks += p.layer[l].out;
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    if (task < rows) {
      update_row(p, p.rows_due[task], t, scratch);
      continue;
    }
    int64_t m = task - rows;
    int l = 1;
    for (; m >= p.layer[l].out; ++l) m -= p.layer[l].out;
    update_neuron(p, l, m, t, scratch);
  }
}

// Computes the per-step constants of all weights.
template <class acc_t>
__device__ void begin_batch(const OnlineBatch<acc_t>& p) {
  for (int64_t t = global_thread(); t < p.T; t += all_threads()) {
    p.step[t] =
        make_update_step<acc_t>(p.optimizer, t + 1, p.lr, p.beta1, p.beta2, p.epsilon, p.weight_decay, p.decoupled);
    if (p.trace == Trace::gated) p.power[t] = acc_t(pow(double(p.decay), double(t)));
  }
}

// Sums spikes over time, and losses over tasks.
template <class acc_t>
__device__ void end_batch(const OnlineBatch<acc_t>& p, const OnlineScratch<acc_t>& scratch) {
  int64_t offset = 0;
  for (int l = 0; l < p.layers; ++l) {
    const OnlineLayer<acc_t>& layer = p.layer[l];
    for (int64_t i = global_thread(); i < p.B * layer.neurons; i += all_threads()) {
      const int64_t b = i / layer.neurons, m = i % layer.neurons;
      int32_t count = 0;
      for (int64_t t = 0; t < p.T; ++t) count += spike_at(spikes_at(p, layer, t, b), m);
      p.counts[b * p.outputs + offset + m] = count;
    }
    offset += layer.neurons;
  }
  if (blockIdx.x > 0) return;
  const int64_t slabs = (p.layer[p.layers - 1].out + blockDim.x - 1) / blockDim.x;
  double loss = 0;
  int64_t mismatches = 0;
  for (int64_t i = threadIdx.x; i < p.B * slabs; i += blockDim.x) {
    loss += p.loss_part[i];
    mismatches += p.mismatches_part[i];
  }
  loss = block_sum(loss, scratch.sums);
  mismatches = block_sum(mismatches, reinterpret_cast<int64_t*>(scratch.sums));
  if (threadIdx.x == 0) {
    *p.loss = loss;
    *p.mismatches = mismatches;
  }
}

// Computes the half steps `from` ... `to` of the batch's 2 T. Even half steps take the first layer forward; odd ones do
// the rest. One launch computes a whole batch; with several ranks, which exchange spikes between the halves, a time
// step.
template <class acc_t>
__global__ void __launch_bounds__(kThreads, 1)
    online_kernel(const __grid_constant__ OnlineBatch<acc_t> p, int64_t from, int64_t to) {
  const OnlineScratch<acc_t> scratch = make_scratch(p);
  if (from == 0) {
    begin_batch(p);
    grid_barrier();
  }
  for (int64_t half = from; half < to; ++half) {
    const int64_t t = half / 2;
    if (half % 2 == 0) {
      make_trace_factors(p, 0, t);
      online_forward(p, 0, t, scratch);
      list_rows(p, t);
      grid_barrier();
      continue;
    }
    if (p.gathered) {
      assemble_spikes(p, t);
      grid_barrier();
    }
    for (int l = 1; l < p.layers; ++l) {
      make_trace_factors(p, l, t);
      online_forward(p, l, t, scratch);
      grid_barrier();
    }
    for (int l = p.layers - 1; l > 0; --l) {
      online_errors(p, l, t, scratch);
      advance_traces(p, l, t);
      grid_barrier();
    }
    online_updates(p, t, scratch);
    grid_barrier();
  }
  if (to == 2 * p.T) end_batch(p, scratch);
}

}  // namespace spikefuse::cuda
