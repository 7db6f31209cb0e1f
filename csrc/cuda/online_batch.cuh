// Data of the online rule for one batch: plain pointers into memory that online.cu owns.
#pragma once

#include "../lif.h"
#include "../online_rule.h"
#include "spike_matmul.cuh"

namespace spikefuse::cuda {

// Limited by the size of kernel parameters, 4 KB.
constexpr int kMostLayers = 16;

// One layer for B samples: `in` inputs, `out` neurons.
template <class acc_t>
struct OnlineLayer {
  int64_t in, out;
  int64_t neurons, first;  // neurons of the whole layer, and this rank's first one; `out` counts this rank's
  acc_t* weight;           // [in, out]
  acc_t* transposed;       // later layers: [out, in], a copy of the weights for backward propagation and update
  acc_t *m, *v;            // Adam's moments: [in, out], in later layers [out, in]
  acc_t* state;            // [B, out] membrane potentials after the reset
  acc_t* potential;        // [B, out] hidden layers: v of this step before the reset
  acc_t* delta;            // dL/dv: [depth, B, out], the last steps; later layers [B, out], the last step
  uint32_t* spikes;        // [T, B, words(neurons)]
  uint16_t* age;           // gated: time steps since the neuron's last spike, minus one; in the layout of `delta`
  // shared: leaky sums, [in, B] in the first layer, [B, in] in later layers. gated, later layers: window sums [B, T,
  // in]. The window that begins at a step is updated as long as it is some neuron's trace.
  acc_t* trace;
  acc_t* trace_factor;      // shared: [depth, B], in later layers [B], the decay factor of the trace
  int32_t* window_neurons;  // gated, later layers: [B, T + 1] number of neurons whose window begins at each step
};

template <class acc_t>
struct OnlineBatch : OnlineRule<acc_t> {
  int64_t T, B;
  int64_t depth;    // most time steps that a row of the first layer may defer its update
  int64_t outputs;  // neurons of all layers
  int layers;
  OnlineLayer<acc_t> layer[kMostLayers];
  const uint32_t *input, *target;  // [T, B, words]
  const uint32_t* by_input;        // [in, T, words(B)] the input, transposed
  double lr, beta1, beta2, epsilon, weight_decay;
  bool decoupled;
  UpdateStep<acc_t>* step;  // [T] constants of each step's update
  acc_t* power;             // gated: [T] decay^age

  // State of the first layer's rows.
  uint32_t* active;                    // [in, words(B)] samples in which the input has spiked
  int32_t* updated_until;              // [in] time step up to which the row is updated
  unsigned char* has_moments;          // [in] true once the moments were written in this batch
  int32_t* rows_due;                   // [in] rows to update at this step, in any order
  unsigned long long* rows_due_count;  // [T]

  // Working memory of each block.
  acc_t* coefficient;  // shared: [blocks, depth, B]
  int32_t* samples;    // [blocks, B]
  acc_t* windows;      // gated: [blocks, warps, T] if they do not fit shared memory, else null

  uint32_t* gathered;  // several ranks: [ranks, words(slice), B] spikes of this step; else null
  int64_t rank, ranks, slice;

  double* loss_part;  // [tasks of the output layer]
  int64_t* mismatches_part;
  double* loss;
  int64_t* mismatches;
  int32_t* counts;  // [B, outputs]
};

// Shared memory of a block: a list of neurons or samples, one number per warp, and, if they fit, the window sums of one
// sample per warp.
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
__device__ OnlineScratch<acc_t> make_scratch(const OnlineBatch<acc_t>& p) {
  OnlineScratch<acc_t> scratch;
  scratch.list = shared_list();
  const unsigned warps = blockDim.x / 32;
  scratch.sums = reinterpret_cast<double*>(shared_memory<unsigned char>() + list_shared_bytes(blockDim.x));
  scratch.windows =
      p.windows ? p.windows + int64_t(blockIdx.x) * warps * p.T : reinterpret_cast<acc_t*>(scratch.sums + warps);
  return scratch;
}

template <class acc_t>
__device__ __forceinline__ uint32_t* spikes_at(const OnlineBatch<acc_t>& p, const OnlineLayer<acc_t>& layer, int64_t t,
                                               int64_t b) {
  return layer.spikes + (t * p.B + b) * words_for(layer.neurons);
}

// Returns true if neuron m of this rank spiked at step t.
template <class acc_t>
__device__ __forceinline__ bool spiked(const OnlineBatch<acc_t>& p, const OnlineLayer<acc_t>& layer, int64_t t,
                                       int64_t b, int64_t m) {
  return spike_at(spikes_at(p, layer, t, b), layer.first + m);
}

}  // namespace spikefuse::cuda
