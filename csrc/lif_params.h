// Kernel parameters of the LIF ops, the same on both backends: pointers, strides and sizes.
#pragma once

#include "lif.h"
#include "packing.h"
#include "surrogate.h"

namespace spikefuse {

// A [T, B, N] tensor with any strides, or none.
template <class T>
struct Strided {
  const T* data = nullptr;
  int64_t t = 0, b = 0, n = 0;
};

template <class acc_t, class io_t>
struct LifForward {
  Strided<io_t> z;
  const acc_t* state;  // [B, N] or null for zeros
  const acc_t *decay, *threshold;
  int64_t decay_stride, threshold_stride;  // 0: one value for all neurons
  const uint32_t* target;                  // [T, B, W] or null
  Reset reset;
  int64_t T, B, N;
  io_t* spikes;      // [T, B, N]
  acc_t* v;          // [T, B, N]
  acc_t* new_state;  // [B, N]
  acc_t* loss;
  int64_t* mismatches;
};

template <class acc_t, class io_t>
struct LifBackward {
  Strided<io_t> grad_spikes;
  Strided<acc_t> grad_v;
  const acc_t* grad_state;  // [B, N] or null
  const acc_t* grad_loss;   // a scalar, or null
  const acc_t* v;           // [T, B, N]
  const acc_t* state;       // [B, N] or null
  const acc_t *decay, *threshold;
  int64_t decay_stride, threshold_stride;
  const uint32_t* target;  // [T, B, W] or null
  Reset reset;
  bool detach_reset;
  Surrogate surrogate;
  acc_t slope;
  int64_t T, B, N;
  io_t* grad_z;                        // [T, B, N]
  acc_t* grad_initial_state;           // [B, N]
  acc_t *grad_decay, *grad_threshold;  // [B, N] each, or null
};

}  // namespace spikefuse
