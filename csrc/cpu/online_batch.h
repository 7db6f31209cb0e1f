// Data of the online rule for one batch: plain pointers into buffers that online.cpp owns.
#pragma once

#include "../lif.h"
#include "../online_op.h"
#include "tile.h"

namespace spikefuse::cpu {

// One layer for B samples: `in` inputs, `out` neurons. Rows of weights are padded with zeros to whole cache lines
// (`in_stride`, `out_stride`), rows of neurons to whole words of spikes (`out_width`).
//
// The first layer stores its weights input-major. Its inputs are sparse, so the forward pass and the update both visit
// only the rows of inputs that have spiked. No error is propagated below it.
//
// A later layer's error is sparse (few outputs mismatch), so its update and its backward propagation visit rows of
// outputs. Its forward pass reads tiles: the weights of 32 outputs, input by input, which stay in the first-level cache
// while all samples pass.
template <class acc_t>
struct OnlineLayer {
  int64_t in, out, in_stride, out_stride, out_width;
  int64_t neurons;                // of the whole layer; the first layer's `out` may be one rank's slice of them
  acc_t* stored;                  // the caller's weights
  int64_t stored_in, stored_out;  // their strides
  acc_t* weight;                  // first layer: [in, out_stride]; later layers: [tiles x 32, in_stride]
  acc_t* tiles;                   // later layers: [tiles, tile_inputs, 32], a copy of the weights for the forward pass
  int64_t tile_inputs;            // `in`, rounded up to whole groups of table words
  acc_t *m, *v;                   // Adam's moments in the layout of `weight`; null for SGD

  // Membrane potentials after the reset: [B, out_width], in later layers [tiles, lines, B, one line].
  acc_t* state;
  acc_t* potential;      // [B, out_width] v of this step before the reset; null for the output layer of several layers
  acc_t* delta;          // dL/dv: [depth, B, out_width], the last steps; later layers [tiles, B, 32], the last step
  uint32_t* spikes;      // [T, words(neurons), B]: threads that write neighbouring tiles share no cache line
  uint32_t* mismatched;  // output layer: [words(out), B], bit set if spike and target differ
  // gated: time steps since the neuron's last spike, minus one: [B, out_width], in the first layer [depth, B,
  // out_width].
  uint16_t* age;
  int32_t* counts;  // [B, outputs of all layers] spikes summed over time, offset to this layer's first neuron

  // Lists of the spikes that enter a later layer; sample b's are events[events_begin[b] ... events_end[b]).
  int32_t* events;  // [B, list_stride(in)]
  int64_t *events_begin, *events_end;

  // One bit per row, set once the row was updated in this batch. The moments of all other rows are zero and not yet
  // written.
  uint32_t* has_moments;

  // Samples with an error, listed for each row of a later layer.
  int32_t* error_count;    // [out] number of samples
  int32_t* error_samples;  // [out, B]

  // Activity of the first layer's inputs in this batch.
  uint32_t* active;        // [in, words(B)] samples in which the input has spiked
  int32_t* active_count;   // [in] number of such samples
  int32_t* active_sample;  // [in, list_stride(B)] such samples, in the order of their first spike
  int32_t* updated_until;  // [in] time step up to which the row is updated
  int32_t* traced;         // [in] shared: time step up to which the trace is decayed
  uint64_t* history;       // gated: [in, B, history words], bit T - 1 - s is set for a spike at step s

  // Traces. shared: leaky sums, [in, sample_width] in the first layer, [B, in_stride] in later layers. gated, later
  // layers: window sums [B, T, in_stride]. The window that begins at a step is the trace of the neurons whose last
  // spike was just before that step, and is updated as long as such a neuron exists.
  //
  // Window sums are computed directly, not as the difference of two leaky sums: without input spikes they are exactly
  // zero. Adam divides by the gradient's own size and would turn the rounding error of a difference into a full step.
  acc_t* trace;
  int32_t* window_neurons;  // gated, later layers: [B, T + 1] number of neurons whose window begins at each step
  // shared: decay * (1 - spikes / D), with the spikes of the step before: [depth, sample_width], in later layers
  // [sample_width].
  acc_t* trace_factor;
};

template <class acc_t>
struct OnlineBatch : OnlineRule<acc_t> {
  int64_t T, B, layers, counts_stride;
  int64_t sample_width;   // B, rounded up to whole words
  int64_t history_words;  // number of 64-bit words for T bits
  int64_t depth;          // most time steps that a row of the first layer may defer its update
  OnlineLayer<acc_t>* layer;
  const uint32_t *input, *target;  // [T, B, W]
  const UpdateStep<acc_t>* step;   // [T] constants of each step's update
  const acc_t* window_table;       // gated: [256, 8], the window sums of 8 steps for each spike history
  SpikeExchange exchange;
  double* loss;  // one per task of the output layer
  int64_t* mismatches;

  // Distance between lists of up to `count` positions: lists are written one vector at a time.
  int64_t list_stride(int64_t count) const { return count + 16; }
};

// Returns the spikes of a layer in sample b at step t, as words B apart.
template <class acc_t>
uint32_t* spikes_at(const OnlineBatch<acc_t>& p, const OnlineLayer<acc_t>& layer, int64_t b, int64_t t) {
  return layer.spikes + t * words_for(layer.neurons) * p.B + b;
}

// Returns the spikes of this rank's neurons in the first layer. With several ranks, only the last step's are kept.
template <class acc_t>
uint32_t* slice_spikes_at(const OnlineBatch<acc_t>& p, int64_t b, int64_t t) {
  const SpikeExchange& x = p.exchange;
  return x.call ? x.gathered + x.rank * words_for(x.slice) * p.B + b : spikes_at(p, p.layer[0], b, t);
}

// Working memory of one thread.
template <class acc_t>
struct OnlineScratch {
  acc_t* row;          // as wide as the widest layer
  acc_t* tile;         // [lines of 32, B, one line]
  acc_t* table;        // kTableWords tables
  int32_t* list;       // list_stride(max(widest layer, B))
  acc_t* coefficient;  // [32, depth, B]
  acc_t* window;       // T, rounded up to whole bytes
  uint32_t* bits;      // [B, kTableWords], or [32, words(B)]
};

}  // namespace spikefuse::cpu
