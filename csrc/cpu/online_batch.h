// State of the online rule for one batch: plain pointers into buffers that online.cpp owns.
#pragma once

#include "../lif.h"
#include "../online_op.h"
#include "tile.h"

namespace spikefuse::cpu {

// One layer. B samples, `in` and `out` neurons. Rows of weights are whole cache lines, `in_stride` or `out_stride`
// long, rows of neurons are whole words of spikes, `out_width` long, with zeros behind.
//
// The first layer stores its weights input-major: its inputs are sparse, so its forward pass and its update both walk
// over the rows of inputs that have spiked, and nothing is propagated below it. A later layer's error is sparse instead
// (the mask opens few outputs), so its update and the error it passes down walk over rows of outputs. Its forward pass
// reads tiles: the weights of 32 outputs, input by input, which stay in the first-level cache while all samples pass.
template <class acc_t>
struct OnlineLayer {
  int64_t in, out, in_stride, out_stride, out_width;
  int64_t neurons;                // of the whole layer, of which the first layer's `out` may be one rank's slice
  acc_t* stored;                  // the weights as the caller holds them
  int64_t stored_in, stored_out;  // their strides
  acc_t* weight;                  // first layer: [in, out_stride]; later ones: [tiles x 32, in_stride]
  acc_t* tiles;                   // later layers: [tiles, tile_inputs, 32], the same weights for the forward pass
  int64_t tile_inputs;            // `in` in whole groups of table words
  acc_t *m, *v;                   // Adam's moments, laid out like `weight`; null for SGD

  // Neurons. Membrane potentials after the reset: [B, out_width], in later layers [tiles, lines, B, one line].
  acc_t* state;
  acc_t* potential;  // [B, out_width] v of this step, before the reset; null for the output layer of several
  acc_t* delta;      // dL/dv: [depth, B, out_width] of the last steps, in later layers [tiles, B, 32] of the last one
  uint32_t* spikes;  // [T, words(neurons), B]: threads that write the words of neighbouring tiles share no cache lines
  uint32_t* mismatched;  // output layer: [words(out), B], where the mask is open
  // gated: time steps since the neuron's last spike, less one; [B, out_width], in the first layer [depth, B,
  // out_width].
  uint16_t* age;
  int32_t* counts;  // [B, all outputs] spikes summed over time, offset to this layer's first neuron

  // Spikes that enter a later layer, listed: those of sample b are events[events_begin[b] ... events_end[b]).
  int32_t* events;  // [B, list_stride(in)]
  int64_t *events_begin, *events_end;

  // Rows that have been updated in this batch, one bit each; the moments of the others are zero and not yet written.
  uint32_t* has_moments;

  // Samples with an error, for each row of a later layer: a row's count, samples and errors.
  int32_t* error_count;    // [out]
  int32_t* error_samples;  // [out, B]

  // First layer: what each input has done so far.
  uint32_t* active;        // [in, words(B)] samples in which it has spiked
  int32_t* active_count;   // [in]
  int32_t* active_sample;  // [in, list_stride(B)] the same as a list, in the order of their first spike
  int32_t* updated_until;  // [in] time steps whose update the row has had
  int32_t* traced;         // [in] shared: time steps whose decay its trace has had
  uint64_t* history;       // gated: [in, B, history words], bit T - 1 - s for a spike at step s

  // Traces. shared: the leaky sum, [in, sample_width] in the first layer and [B, in_stride] in later ones. gated, later
  // layers: window sums [B, T, in_stride], the trace of neurons whose last spike was just before each step; kept up for
  // as long as there is such a neuron. Window sums and no difference of two leaky sums: where no input spiked they are
  // exactly zero, and Adam, which divides by the gradient's own size, would turn the rounding error of a difference
  // into a full step.
  acc_t* trace;
  int32_t* window_neurons;  // gated, later layers: [B, T + 1] neurons whose window begins at each step
  // shared: decay * (1 - spikes / D) with the spikes of the step before; [depth, sample_width], in later layers
  // [sample_width].
  acc_t* trace_factor;
};

template <class acc_t>
struct OnlineBatch : OnlineRule<acc_t> {
  int64_t T, B, layers, counts_stride;
  int64_t sample_width;   // B in whole words
  int64_t history_words;  // 64-bit words of T bits
  int64_t depth;          // time steps for which a row of the first layer may wait for its update
  OnlineLayer<acc_t>* layer;
  const uint32_t *input, *target;  // [T, B, W]
  const UpdateStep<acc_t>* step;   // [T]
  const acc_t* window_table;       // gated: [256, 8], the window sums of 8 steps for each history of them
  SpikeExchange exchange;
  double* loss;  // one for each task of the output layer
  int64_t* mismatches;

  // From one list of up to `count` positions to the next: lists are written a vector at a time.
  int64_t list_stride(int64_t count) const { return count + 16; }
};

// The words of a layer's spikes in sample b at step t, B apart.
template <class acc_t>
uint32_t* spikes_at(const OnlineBatch<acc_t>& p, const OnlineLayer<acc_t>& layer, int64_t b, int64_t t) {
  return layer.spikes + t * words_for(layer.neurons) * p.B + b;
}

// The same of the first layer's neurons that are this rank's; of several ranks, only the last step's are kept.
template <class acc_t>
uint32_t* slice_spikes_at(const OnlineBatch<acc_t>& p, int64_t b, int64_t t) {
  const SpikeExchange& x = p.exchange;
  return x.call ? x.gathered + x.rank * words_for(x.slice) * p.B + b : spikes_at(p, p.layer[0], b, t);
}

// Scratch memory of a thread.
template <class acc_t>
struct OnlineScratch {
  acc_t* row;          // the widest layer
  acc_t* tile;         // [lines of 32, B, one line]
  acc_t* table;        // kTableWords tables
  int32_t* list;       // list_stride(max(widest layer, B))
  acc_t* coefficient;  // [32, depth, B]
  acc_t* window;       // T in whole bytes
  uint32_t* bits;      // [B, kTableWords], or [32, words(B)]
};

}  // namespace spikefuse::cpu
