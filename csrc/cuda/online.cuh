// The online rule on CUDA: one kernel takes a batch through all its time steps. All blocks of the launch are on the GPU
// at once and walk together from stage to stage, with a barrier of the whole grid behind each; within a stage, every
// task is some block's or some thread's alone, and its sums run in a fixed order.
//
// As in the CPU backend, the first layer is event-driven: the updates of a row of weights wait until the row is read,
// and rows whose input has not spiked in the batch are not touched.
#pragma once

#include <algorithm>

#include "../lif.h"
#include "../online_rule.h"
#include "spike_matmul.cuh"

namespace spikefuse::cuda {

// In kernel parameters, which hold 4 KB.
constexpr int kMostLayers = 16;
// Columns of weights that a thread updates at a time.
constexpr int kUpdateColumns = 8;

// One layer. B samples, `in` and `out` neurons.
template <class acc_t>
struct OnlineLayer {
  int64_t in, out;
  int64_t neurons, first;  // of the whole layer, and of them this rank's first; `out` are this rank's
  acc_t* weight;           // [in, out]
  acc_t* transposed;       // later layers: [out, in], the same weights for what goes down and for the update
  acc_t *m, *v;            // Adam's moments: [in, out], of later layers [out, in]
  acc_t* state;            // [B, out] membrane potentials after the reset
  acc_t* potential;        // [B, out] hidden layers: v of this step, before the reset
  acc_t* delta;            // [depth, B, out] dL/dv of the last steps; of later layers of the last one
  uint32_t* spikes;        // [T, B, words(neurons)]
  uint16_t* age;           // gated: time steps since the neuron's last spike, less one; like delta
  // shared: the leaky sum, [in, B] in the first layer and [B, in] in later ones. gated, later layers: window sums [B,
  // T, in] that begin at each step, kept up for as long as one is some neuron's trace.
  acc_t* trace;
  acc_t* trace_factor;      // shared: [depth, B], in later layers [B], what the trace decays by
  int32_t* window_neurons;  // gated, later layers: [B, T + 1] neurons whose window begins at each step
};

template <class acc_t>
struct OnlineBatch : OnlineRule<acc_t> {
  int64_t T, B, depth, outputs;  // depth: steps for which a row of the first layer may wait; outputs: of all layers
  int layers;
  OnlineLayer<acc_t> layer[kMostLayers];
  const uint32_t *input, *target;  // [T, B, words]
  const uint32_t* by_input;        // [in, T, words(B)] the same spikes
  double lr, beta1, beta2, epsilon, weight_decay;
  bool decoupled;
  UpdateStep<acc_t>* step;  // [T]
  acc_t* power;             // gated: [T] decay^age

  // Rows of the first layer.
  uint32_t* active;                // [in, words(B)] samples in which the input has spiked
  int32_t* done;                   // [in] time steps whose update the row has had
  unsigned char* learning;         // [in] whether the moments have been written in this batch
  int32_t* todo;                   // [in] rows to update at this step, in any order
  unsigned long long* todo_count;  // [T]

  // What each block works in.
  acc_t* coefficient;  // shared: [blocks, depth, B]
  int32_t* samples;    // [blocks, B]
  acc_t* windows;      // gated: [blocks, warps, T] where shared memory has no room for them, else null

  uint32_t* gathered;  // of several ranks: [ranks, words(slice), B] spikes of this step; else null
  int64_t rank, ranks, slice;

  double* loss_part;  // [tasks of the output layer]
  int64_t* open_part;
  double* loss;
  int64_t* open_errors;
  int32_t* counts;  // [B, outputs]
};

// A block's shared memory: a list of neurons or samples, a number for each warp, and, where they fit, the window sums
// of as many samples as there are warps.
template <class acc_t>
size_t online_shared_bytes(unsigned threads, int64_t windows) {
  return list_shared_bytes(threads) + threads / 32 * (sizeof(double) + windows * sizeof(acc_t));
}

template <class acc_t>
struct OnlineScratch {
  SpikeList list;
  double* sums;
  acc_t* windows;
};

template <class acc_t>
__device__ OnlineScratch<acc_t> online_scratch(const OnlineBatch<acc_t>& p) {
  OnlineScratch<acc_t> own;
  own.list = shared_list();
  const unsigned warps = blockDim.x / 32;
  own.sums = reinterpret_cast<double*>(shared_memory<unsigned char>() + list_shared_bytes(blockDim.x));
  own.windows = p.windows ? p.windows + int64_t(blockIdx.x) * warps * p.T : reinterpret_cast<acc_t*>(own.sums + warps);
  return own;
}

template <class acc_t>
__device__ __forceinline__ uint32_t* spikes_at(const OnlineBatch<acc_t>& p, const OnlineLayer<acc_t>& layer, int64_t t,
                                               int64_t b) {
  return layer.spikes + (t * p.B + b) * words_for(layer.neurons);
}

// Whether neuron m of this rank spiked at step t.
template <class acc_t>
__device__ __forceinline__ bool spiked(const OnlineBatch<acc_t>& p, const OnlineLayer<acc_t>& layer, int64_t t,
                                       int64_t b, int64_t m) {
  return spike_at(spikes_at(p, layer, t, b), layer.first + m);
}

// What the trace of a layer's inputs decays by before step t, from its neurons' spikes at t - 1.
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

// Layer l at step t: currents, potentials, spikes, and in the output layer the masked error (eqs 1-8). A task is a
// sample and as many neurons as a block has threads.
template <class acc_t>
__device__ void online_forward(const OnlineBatch<acc_t>& p, int l, int64_t t, const OnlineScratch<acc_t>& own) {
  const OnlineLayer<acc_t>& layer = p.layer[l];
  const bool is_first = l == 0, is_output = l + 1 == p.layers;
  const int64_t slabs = (layer.out + blockDim.x - 1) / blockDim.x, slot = is_first ? t % p.depth : 0;
  for (int64_t task = blockIdx.x; task < p.B * slabs; task += gridDim.x) {
    const int64_t b = task / slabs, m = task % slabs * blockDim.x + threadIdx.x;
    const bool inside = m < layer.out;
    const uint32_t* x = is_first ? p.input + (t * p.B + b) * words_for(layer.in) : spikes_at(p, p.layer[l - 1], t, b);
    const acc_t z = gather_rows<1>(x, layer.in, layer.weight + m, layer.out, inside, own.list).x[0];
    const int64_t at = b * layer.out + m;
    acc_t v = acc_t(0);
    bool spike = false;
    if (inside) {
      v = lif_integrate(p.decay, layer.state[at], z);
      spike = lif_fires(v, p.threshold);
      layer.state[at] = lif_reset(Reset::zero, v, spike, p.threshold);
      if (p.v_clamp && v > p.threshold) v = p.threshold;
      if (p.trace == Trace::gated) {
        // a neuron that spiked in the step before has a trace that begins now: its window is one step long, as all are
        // at first
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
    bool open = false;
    if (inside) {
      const bool target = spike_at(p.target + (t * p.B + b) * words_for(layer.out), m);
      // what is clamped fires at the threshold, as what is not does
      error = masked_error(target, spike, v, p.threshold);
      open = target != spike;
      layer.delta[slot * p.B * layer.out + at] = -error;
    }
    const double squares = block_sum(0.5 * double(error) * double(error), own.sums);
    const double opened = block_sum(open ? 1.0 : 0.0, own.sums);
    if (threadIdx.x == 0) {
      p.loss_part[task] += squares;
      p.open_part[task] += int64_t(opened);
    }
    __syncthreads();  // `sums` is used again
  }
}

// All ranks' spikes of the first layer at step t, from their slices.
template <class acc_t>
__device__ void assemble_spikes(const OnlineBatch<acc_t>& p, int64_t t) {
  const int64_t neurons = p.layer[0].neurons, W = words_for(neurons), slice_words = words_for(p.slice);
  for (int64_t i = global_thread(); i < p.B * W; i += all_threads()) {
    const int64_t b = i / W, w = i % W, end = std::min((w + 1) * kWordBits, neurons);
    uint32_t word = 0;
    for (int64_t n = w * kWordBits; n < end;) {
      // as many neurons as lie in one word both here and in their rank's slice
      const int64_t r = n / p.slice, own = n % p.slice;
      const int64_t count = std::min({end - n, kWordBits - own % kWordBits, p.slice - own});
      const uint32_t bits = p.gathered[(r * slice_words + own / kWordBits) * p.B + b] >> (own % kWordBits);
      word |= (bits & neurons_of_word(0, count)) << (n % kWordBits);
      n += count;
    }
    spikes_at(p, p.layer[0], t, b)[w] = word;
  }
}

// Which rows of the first layer take their updates at step t. Inputs are known beforehand: a row waits until it is
// read, at the step before its input's next spike or at the end of the batch, or until no more errors can be kept. A
// row whose input has not spiked has no gradient and no moments, only its weight decay; decay of the "l2" kind makes
// gradients, so that every row takes part.
template <class acc_t>
__device__ void list_rows(const OnlineBatch<acc_t>& p, int64_t t) {
  const int64_t words = words_for(p.B), inputs = p.layer[0].in;
  const bool l2 = p.step[t].l2 != acc_t(0), decays = p.step[t].shrink != acc_t(1);
  for (int64_t first = int64_t(blockIdx.x) * blockDim.x; first < inputs; first += all_threads()) {
    const int64_t n = first + threadIdx.x;
    bool update = false;
    if (n < inputs) {
      const uint32_t* x = p.by_input + (n * p.T + t) * words;
      uint32_t* active = p.active + n * words;
      bool read = t + 1 == p.T, any = l2;
      for (int64_t s = 0; s < words; ++s) {
        const uint32_t so_far = active[s] | x[s];
        active[s] = so_far;
        any = any || so_far;
        if (t + 1 < p.T) read = read || x[words + s];
      }
      update = any ? read || t + 1 - p.done[n] == p.depth : read && decays;
      if (read && !update) p.done[n] = int32_t(t + 1);
    }
    const uint32_t updates = __ballot_sync(kAllLanes, update);
    const unsigned lane = threadIdx.x % 32;
    unsigned long long at = 0;
    if (lane == 0 && updates) at = atomicAdd(p.todo_count + t, static_cast<unsigned long long>(__popc(updates)));
    at = __shfl_sync(kAllLanes, at, 0);
    if (update) p.todo[at + __popc(updates & ((1u << lane) - 1))] = int32_t(n);
  }
}

// delta_{l-1} = (W_l^T delta_l) * ds/dv of this time step only (eqs 13-15).
template <class acc_t>
__device__ void online_errors(const OnlineBatch<acc_t>& p, int l, int64_t t, const OnlineScratch<acc_t>& own) {
  const OnlineLayer<acc_t>&layer = p.layer[l], &below = p.layer[l - 1];
  const int64_t slabs = (below.out + blockDim.x - 1) / blockDim.x, slot = l == 1 ? t % p.depth : 0;
  for (int64_t task = blockIdx.x; task < p.B * slabs; task += gridDim.x) {
    const int64_t b = task / slabs, n = task % slabs * blockDim.x + threadIdx.x;
    const bool inside = n < below.out;
    const acc_t* delta = layer.delta + b * layer.out;
    const acc_t* column = layer.transposed + below.first + n;
    acc_t propagated = acc_t(0);
    for_each_kept(
        layer.out, own.list, [&](int64_t m) { return delta[m] != acc_t(0); },
        [&](int64_t m) {
          if (inside) propagated = fused_multiply_add(delta[m], column[m * layer.in], propagated);
        });
    if (!inside) continue;
    const int64_t at = b * below.out + n;
    const acc_t slope = surrogate_derivative(p.surrogate, below.potential[at] - p.threshold, p.slope);
    below.delta[slot * p.B * below.out + at] = propagated * slope;
  }
}

// The traces of the inputs of a later layer, brought to step t (eqs 10, 16).
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

// One weight and its moments, from the sum of its gradients over samples.
template <class acc_t>
__device__ __forceinline__ acc_t updated(const OnlineBatch<acc_t>& p, const UpdateStep<acc_t>& step, acc_t w,
                                         acc_t gradient, acc_t& m, acc_t& v) {
  const acc_t mean = gradient * (acc_t(1) / acc_t(p.B));
  return p.optimizer == Optimizer::sgd ? sgd_update(step, w, mean) : adam_update(step, w, mean, m, v);
}

// Calls each(j, column) for those of a thread's kUpdateColumns columns, from `first` on and a block's width apart, that
// are less than `columns`.
template <class Each>
__device__ __forceinline__ void for_each_column(int64_t first, int64_t columns, const Each& each) {
  SF_UNROLL for (int j = 0; j < kUpdateColumns; ++j) {
    const int64_t column = first + int64_t(j) * blockDim.x + threadIdx.x;
    if (column < columns) each(j, column);
  }
}

// Weights and moments of a thread's columns, while they are in registers.
template <class acc_t>
struct Columns {
  acc_t w[kUpdateColumns], m[kUpdateColumns], v[kUpdateColumns], gradient[kUpdateColumns];
};

// Weights of neuron m of a later layer, by this step's error and traces.
template <class acc_t>
__device__ void update_neuron(const OnlineBatch<acc_t>& p, int l, int64_t m, int64_t t,
                              const OnlineScratch<acc_t>& own) {
  const OnlineLayer<acc_t>& layer = p.layer[l];
  const UpdateStep<acc_t> step = p.step[t];
  const bool adam = p.optimizer == Optimizer::adam;
  for (int64_t first = 0; first < layer.in; first += int64_t(kUpdateColumns) * blockDim.x) {
    Columns<acc_t> c;
    SF_UNROLL for (int j = 0; j < kUpdateColumns; ++j) c.gradient[j] = acc_t(0);
    for_each_kept(
        p.B, own.list, [&](int64_t b) { return layer.delta[b * layer.out + m] != acc_t(0); },
        [&](int64_t b) {
          const acc_t delta = layer.delta[b * layer.out + m];
          const int64_t row = p.trace == Trace::shared ? b : b * p.T + t - layer.age[b * layer.out + m];
          const acc_t* trace = layer.trace + row * layer.in;
          for_each_column(first, layer.in, [&](int j, int64_t n) {
            c.gradient[j] = fused_multiply_add(delta, trace[n], c.gradient[j]);
          });
        });
    for_each_column(first, layer.in, [&](int j, int64_t n) {
      const int64_t at = m * layer.in + n;
      acc_t moment = adam && t > 0 ? layer.m[at] : acc_t(0), square = adam && t > 0 ? layer.v[at] : acc_t(0);
      const acc_t w = updated(p, step, layer.transposed[at], c.gradient[j], moment, square);
      layer.transposed[at] = w;
      layer.weight[n * layer.out + m] = w;
      if (adam) {
        layer.m[at] = moment;
        layer.v[at] = square;
      }
    });
  }
}

// Window sums of input n in sample b at step t, by age: window[a] = sum of decay^i x[t - i] over i <= a. Where no input
// spiked they are exactly zero: Adam, which divides by the gradient's own size, would turn the rounding error of a
// difference of leaky sums into a full step. A warp makes those of one sample.
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

// The samples in which input n has spiked, in order; returns how many. Ends with a barrier.
template <class acc_t>
__device__ int64_t list_samples(const OnlineBatch<acc_t>& p, int64_t n, const OnlineScratch<acc_t>& own,
                                int32_t* samples) {
  int64_t count = 0;
  const int64_t words = words_for(p.B);
  for (int64_t first = 0; first < words; first += blockDim.x) {
    const int64_t w = first + threadIdx.x;
    const uint32_t found = list_bits(w < words ? p.active[n * words + w] : 0u, own.list);
    for (uint32_t k = threadIdx.x; k < found; k += blockDim.x)
      samples[count + k] = int32_t(first * kWordBits + own.list.position[k]);
    count += found;
    __syncthreads();
  }
  return count;
}

// The shared trace of input n at steps begin ... t in the samples it is active in: coefficient [steps, count].
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

// The row of input n in the first layer: its updates of the steps that it has not had, up to and with step t, one after
// the other while it is in registers.
template <class acc_t>
__device__ void update_row(const OnlineBatch<acc_t>& p, int64_t n, int64_t t, const OnlineScratch<acc_t>& own) {
  const OnlineLayer<acc_t>& layer = p.layer[0];
  const bool adam = p.optimizer == Optimizer::adam, shared = p.trace == Trace::shared;
  int32_t* samples = p.samples + blockIdx.x * p.B;
  acc_t* coefficient = shared ? p.coefficient + int64_t(blockIdx.x) * p.depth * p.B : nullptr;
  const int64_t begin = p.done[n];
  const bool learning = p.learning[n];
  const int64_t count = list_samples(p, n, own, samples);
  const bool silent = count == 0 && p.step[t].l2 == acc_t(0);
  if (shared) list_traces(p, n, begin, t, samples, count, coefficient);
  __syncthreads();
  if (threadIdx.x == 0) {
    p.done[n] = int32_t(t + 1);
    p.learning[n] = learning || !silent;
  }
  const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
  for (int64_t first = 0; first < layer.out; first += int64_t(kUpdateColumns) * blockDim.x) {
    Columns<acc_t> c;
    for_each_column(first, layer.out, [&](int j, int64_t m) {
      const int64_t at = n * layer.out + m;
      c.w[j] = layer.weight[at];
      c.m[j] = adam && learning ? layer.m[at] : acc_t(0);
      c.v[j] = adam && learning ? layer.v[at] : acc_t(0);
    });
    for (int64_t s = begin; s <= t; ++s) {
      const UpdateStep<acc_t> step = p.step[s];
      if (silent) {
        for_each_column(first, layer.out, [&](int j, int64_t) { c.w[j] *= step.shrink; });
        continue;
      }
      SF_UNROLL for (int j = 0; j < kUpdateColumns; ++j) c.gradient[j] = acc_t(0);
      const int64_t slot = s % p.depth * p.B;
      if (shared) {
        for (int64_t k = 0; k < count; ++k) {
          const acc_t e = coefficient[(s - begin) * count + k];
          const acc_t* delta = layer.delta + (slot + samples[k]) * layer.out;
          for_each_column(first, layer.out,
                          [&](int j, int64_t m) { c.gradient[j] = fused_multiply_add(e, delta[m], c.gradient[j]); });
        }
      } else {
        for (int64_t group = 0; group < count; group += warps) {
          if (group + warp < count) make_window(p, n, samples[group + warp], s, own.windows + warp * p.T);
          __syncthreads();
          for (int64_t k = group; k < count && k < group + warps; ++k) {
            const acc_t* window = own.windows + (k - group) * p.T;
            const int64_t row = (slot + samples[k]) * layer.out;
            for_each_column(first, layer.out, [&](int j, int64_t m) {
              c.gradient[j] = fused_multiply_add(layer.delta[row + m], window[layer.age[row + m]], c.gradient[j]);
            });
          }
          __syncthreads();  // the windows are made anew
        }
      }
      for_each_column(first, layer.out,
                      [&](int j, int64_t) { c.w[j] = updated(p, step, c.w[j], c.gradient[j], c.m[j], c.v[j]); });
    }
    for_each_column(first, layer.out, [&](int j, int64_t m) {
      const int64_t at = n * layer.out + m;
      layer.weight[at] = c.w[j];
      if (adam && !silent) {
        layer.m[at] = c.m[j];
        layer.v[at] = c.v[j];
      }
    });
  }
  __syncthreads();  // the next row's samples and traces take the place of these
}

// All weights, by the errors and traces of step t.
template <class acc_t>
__device__ void online_updates(const OnlineBatch<acc_t>& p, int64_t t, const OnlineScratch<acc_t>& own) {
  const auto rows = int64_t(p.todo_count[t]);
  int64_t tasks = rows;
  for (int l = 1; l < p.layers; ++l) tasks += p.layer[l].out;
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    if (task < rows) {
      update_row(p, p.todo[task], t, own);
      continue;
    }
    int64_t m = task - rows;
    int l = 1;
    for (; m >= p.layer[l].out; ++l) m -= p.layer[l].out;
    update_neuron(p, l, m, t, own);
  }
}

// What is the same for all weights in each step.
template <class acc_t>
__device__ void begin_batch(const OnlineBatch<acc_t>& p) {
  for (int64_t t = global_thread(); t < p.T; t += all_threads()) {
    p.step[t] =
        make_update_step<acc_t>(p.optimizer, t + 1, p.lr, p.beta1, p.beta2, p.epsilon, p.weight_decay, p.decoupled);
    if (p.trace == Trace::gated) p.power[t] = acc_t(pow(double(p.decay), double(t)));
  }
}

// Spikes summed over time, and the loss over tasks.
template <class acc_t>
__device__ void end_batch(const OnlineBatch<acc_t>& p, const OnlineScratch<acc_t>& own) {
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
  int64_t open = 0;
  for (int64_t i = threadIdx.x; i < p.B * slabs; i += blockDim.x) {
    loss += p.loss_part[i];
    open += p.open_part[i];
  }
  loss = block_sum(loss, own.sums);
  open = block_sum(open, reinterpret_cast<int64_t*>(own.sums));
  if (threadIdx.x == 0) {
    *p.loss = loss;
    *p.open_errors = open;
  }
}

// Half steps `from` ... `to` of the batch's 2 T: the even ones take the first layer forward, the odd ones do all the
// rest. One launch is a whole batch; of several ranks, which exchange spikes between the halves, a time step.
template <class acc_t>
__global__ void __launch_bounds__(kThreads, 1)
    online_kernel(const __grid_constant__ OnlineBatch<acc_t> p, int64_t from, int64_t to) {
  const OnlineScratch<acc_t> own = online_scratch(p);
  if (from == 0) {
    begin_batch(p);
    grid_barrier();
  }
  for (int64_t half = from; half < to; ++half) {
    const int64_t t = half / 2;
    if (half % 2 == 0) {
      make_trace_factors(p, 0, t);
      online_forward(p, 0, t, own);
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
      online_forward(p, l, t, own);
      grid_barrier();
    }
    for (int l = p.layers - 1; l > 0; --l) {
      online_errors(p, l, t, own);
      advance_traces(p, l, t);
      grid_barrier();
    }
    online_updates(p, t, own);
    grid_barrier();
  }
  if (to == 2 * p.T) end_batch(p, own);
}

}  // namespace spikefuse::cuda
