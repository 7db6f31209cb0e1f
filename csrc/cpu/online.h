// What the online rule keeps for one batch: plain pointers into buffers that online.cpp owns.
#pragma once

#include "../adam.h"
#include "../lif.h"
#include "../packing.h"
#include "../surrogate.h"

namespace spikefuse::cpu {

// The values are those of spikefuse.online.TRACES.
enum class Trace : int { shared = 0, gated = 1 };

// One layer. B samples; `in` and `out` neurons; `window` time steps, T rounded up to whole vectors.
//
// The first layer stores its weights input-major only: its inputs are sparse, so its forward pass and its update both
// walk over the rows of inputs that have spiked, and nothing is propagated below it. A later layer's error is sparse
// instead (the mask opens few outputs), so its update and the error it passes down walk over rows of outputs: it keeps
// an output-major copy beside the input-major one of its forward pass, and both are written by the update.
template <class acc_t>
struct OnlineLayer {
  int64_t in, out;
  acc_t* weight_in;   // [in, out]
  acc_t* weight_out;  // [out, in]; null for the first layer
  acc_t *m, *v;       // Adam's moments, laid out like the weights that the update walks over; null for SGD
  acc_t* state;       // [B, out] membrane potential after the reset
  acc_t* delta;       // [B, out] dL/dv of this time step
  uint32_t* spikes;   // [B, words(out)] of this time step
  // First layer: [B, words(in)], inputs whose trace is not zero; later ones: [B, words(out)], open errors.
  uint32_t* nonzero;
  // shared: [B, in], the leaky sum. gated: window sums, the trace of a neuron that last spiked a steps ago for each
  // a = 1 ... t; [B, in, window] in the first layer and [B, window, in] in later ones, as their updates read them. A
  // window sum and no difference of two leaky sums: where no input spiked it is exactly zero, and Adam, which divides
  // by the gradient's own size, would turn the rounding error of a difference into a full step.
  acc_t* trace;
  acc_t* trace_scale;  // [B] shared: 1 - spikes / D of the last time step
  int32_t* age;        // [B, out] gated: time steps since the neuron's last spike, less one
  int32_t* counts;     // [B, all outputs] spike counts, offset to this layer's first neuron
};

template <class acc_t>
struct OnlineBatch {
  int64_t T, B, layers, window, counts_stride;
  OnlineLayer<acc_t>* layer;
  const uint32_t *input, *target;  // [T, B, W]
  acc_t decay, threshold, trace_divisor /* 0: the layer's fan-in */, slope;
  Trace trace;
  bool v_clamp;
  Surrogate surrogate;
  Optimizer optimizer;
  double* loss;          // [B]
  int64_t* open_errors;  // [B]
};

// Output rows that one update task handles: as many as a cache line of the input-major copy holds in fp32.
constexpr int64_t kOutputRows = 16;

}  // namespace spikefuse::cpu
