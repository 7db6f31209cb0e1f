// Kernels of the LIF layer. A thread takes kCount neighbouring neurons of a sample through all T time steps and keeps
// their state in registers. Steps are processed in chunks: a chunk issues all its loads before it computes its first
// step.
#pragma once

#include "../lif_params.h"
#include "device.cuh"

namespace spikefuse::cuda {

// Neurons per thread if rows can be read 16 bytes of membrane potentials at a time.
template <class acc_t>
constexpr int kNeurons = 16 / sizeof(acc_t);

template <class T>
__device__ __forceinline__ const T* at(const Strided<T>& x, int64_t t, int64_t b, int64_t n) {
  return x.data ? x.data + t * x.t + b * x.b + n * x.n : nullptr;
}

template <int kCount, class acc_t>
__device__ __forceinline__ AlignedVector<acc_t, kCount> load_or_zero(const acc_t* from) {
  if (from) return load_vector<kCount>(from);
  AlignedVector<acc_t, kCount> zeros;
  SF_UNROLL for (int i = 0; i < kCount; ++i) zeros.x[i] = acc_t(0);
  return zeros;
}

template <class acc_t, int kCount>
__device__ __forceinline__ void load_parameter(const acc_t* values, int64_t stride, int64_t n, acc_t (&x)[kCount]) {
  SF_UNROLL for (int i = 0; i < kCount; ++i) x[i] = values[(n + i) * stride];
}

// Per-block partial loss and mismatch count; sum_errors_kernel adds them up.
struct BlockErrors {
  double* loss;
  int64_t* mismatches;
};

// State of a thread's forward pass: its next addresses, and its neurons.
template <class acc_t, class io_t, int kCount>
struct ForwardScan {
  const io_t* z;
  const uint32_t* target;
  acc_t* v;
  io_t* spikes;
  acc_t decay[kCount], threshold[kCount], state[kCount], squared[kCount];
  int mismatches;
};

// Computes a chunk of kSteps time steps, or of the `left` < kSteps last ones.
template <int kSteps, bool kWhole, class acc_t, class io_t, int kCount>
__device__ __forceinline__ void forward_chunk(const LifForward<acc_t, io_t>& p, int shift, int64_t left,
                                              ForwardScan<acc_t, io_t, kCount>& scan) {
  AlignedVector<io_t, kCount> z[kSteps];
  uint32_t target[kSteps];
  SF_UNROLL for (int k = 0; k < kSteps; ++k) {
    if (kWhole || k < left) {
      z[k] = load_vector<kCount>(scan.z);
      scan.z += p.z.t;
      if (scan.target) {
        target[k] = *scan.target >> shift;
        scan.target += p.B * words_for(p.N);
      }
    }
  }
  SF_UNROLL for (int k = 0; k < kSteps; ++k) {
    if (kWhole || k < left) {
      AlignedVector<acc_t, kCount> v;
      AlignedVector<io_t, kCount> spikes;
      SF_UNROLL for (int i = 0; i < kCount; ++i) {
        v.x[i] = lif_integrate(scan.decay[i], scan.state[i], static_cast<acc_t>(z[k].x[i]));
        const bool spike = lif_fires(v.x[i], scan.threshold[i]);
        scan.state[i] = lif_reset(p.reset, v.x[i], spike, scan.threshold[i]);
        spikes.x[i] = static_cast<io_t>(spike ? 1.0f : 0.0f);
        if (scan.target) {
          const bool wanted = target[k] >> i & 1u;
          const acc_t error = masked_error(wanted, spike, v.x[i], scan.threshold[i]);
          scan.squared[i] = fused_multiply_add(error, error, scan.squared[i]);
          scan.mismatches += wanted != spike;
        }
      }
      store_vector(scan.v, v);
      store_vector(scan.spikes, spikes);
      scan.v += p.B * p.N;
      scan.spikes += p.B * p.N;
    }
  }
}

template <class acc_t, class io_t, int kCount>
__global__ void __launch_bounds__(kScanThreads, 1) lif_forward_kernel(LifForward<acc_t, io_t> p, BlockErrors errors) {
  constexpr int kAhead = 8;
  const int64_t groups = p.N / kCount, items = p.B * groups;
  double loss = 0;
  int64_t mismatches = 0;
  for (int64_t item = global_thread(); item < items; item += all_threads()) {
    const int64_t b = item / groups, n = item % groups * kCount;
    ForwardScan<acc_t, io_t, kCount> scan;
    scan.z = at(p.z, 0, b, n);
    scan.target = p.target ? p.target + b * words_for(p.N) + n / kWordBits : nullptr;
    scan.v = p.v + (p.T > 0 ? b * p.N + n : 0);
    scan.spikes = p.spikes + (p.T > 0 ? b * p.N + n : 0);
    scan.mismatches = 0;
    load_parameter(p.decay, p.decay_stride, n, scan.decay);
    load_parameter(p.threshold, p.threshold_stride, n, scan.threshold);
    const auto before = load_or_zero<kCount>(p.state ? p.state + b * p.N + n : nullptr);
    SF_UNROLL for (int i = 0; i < kCount; ++i) {
      scan.state[i] = before.x[i];
      scan.squared[i] = acc_t(0);
    }
    const int shift = int(n % kWordBits);  // kCount divides a word's bits
    int64_t left = p.T;
    for (; left >= kAhead; left -= kAhead) forward_chunk<kAhead, true>(p, shift, left, scan);
    if (left > 0) forward_chunk<kAhead, false>(p, shift, left, scan);
    AlignedVector<acc_t, kCount> after;
    SF_UNROLL for (int i = 0; i < kCount; ++i) {
      after.x[i] = scan.state[i];
      loss += 0.5 * static_cast<double>(scan.squared[i]);
    }
    mismatches += scan.mismatches;
    store_vector(p.new_state + b * p.N + n, after);
  }
  if (p.target) {
    auto* memory = shared_memory<double>();
    loss = block_sum(loss, memory);
    mismatches = block_sum(mismatches, reinterpret_cast<int64_t*>(memory));
    if (threadIdx.x == 0) {
      errors.loss[blockIdx.x] = loss;
      errors.mismatches[blockIdx.x] = mismatches;
    }
  } else if (global_thread() == 0) {
    *p.loss = acc_t(0);
    *p.mismatches = 0;
  }
}

// Sums all blocks' errors in a fixed order, in one block.
template <class acc_t>
__global__ void sum_errors_kernel(BlockErrors errors, unsigned blocks, acc_t* loss, int64_t* mismatches) {
  double total = 0;
  int64_t total_mismatches = 0;
  for (unsigned i = threadIdx.x; i < blocks; i += blockDim.x) {
    total += errors.loss[i];
    total_mismatches += errors.mismatches[i];
  }
  auto* memory = shared_memory<double>();
  total = block_sum(total, memory);
  total_mismatches = block_sum(total_mismatches, reinterpret_cast<int64_t*>(memory));
  if (threadIdx.x == 0) {
    *loss = static_cast<acc_t>(total);
    *mismatches = total_mismatches;
  }
}

// State of a thread's reverse scan.
template <class acc_t, class io_t, int kCount>
struct ReverseScan {
  const acc_t* v_before;  // potentials of the step before that of v
  const io_t* grad_spikes;
  const acc_t* grad_v;
  const uint32_t* target;
  io_t* grad_z;
  acc_t decay[kCount], threshold[kCount];
  acc_t carried[kCount];  // gradient of v'[t]
  acc_t v[kCount];        // potentials of the step to process next
  acc_t grad_decay[kCount], grad_threshold[kCount];
};

// Computes a chunk of kSteps steps backward in time, without the first step; or, with it, the `left` <= kSteps first
// ones.
template <int kSteps, bool kWhole, class acc_t, class io_t, int kCount>
__device__ __forceinline__ void backward_chunk(const LifBackward<acc_t, io_t>& p, int shift, int64_t left,
                                               const acc_t* state, acc_t grad_loss,
                                               ReverseScan<acc_t, io_t, kCount>& scan) {
  AlignedVector<acc_t, kCount> before[kSteps], grad_v[kSteps];
  AlignedVector<io_t, kCount> grad_spikes[kSteps];
  uint32_t target[kSteps];
  SF_UNROLL for (int k = 0; k < kSteps; ++k) {
    if (kWhole || k < left) {
      if (kWhole || k + 1 < left) {
        before[k] = load_vector<kCount>(scan.v_before);
        scan.v_before -= p.B * p.N;
      } else {
        before[k] = load_or_zero<kCount>(state);
      }
      if (scan.grad_spikes) {
        grad_spikes[k] = load_vector<kCount>(scan.grad_spikes);
        scan.grad_spikes -= p.grad_spikes.t;
      }
      if (scan.grad_v) {
        grad_v[k] = load_vector<kCount>(scan.grad_v);
        scan.grad_v -= p.grad_v.t;
      }
      if (scan.target) {
        target[k] = *scan.target >> shift;
        scan.target -= p.B * words_for(p.N);
      }
    }
  }
  SF_UNROLL for (int k = 0; k < kSteps; ++k) {
    if (kWhole || k < left) {
      const bool first = !kWhole && k + 1 == left;
      AlignedVector<io_t, kCount> grad_z;
      SF_UNROLL for (int i = 0; i < kCount; ++i) {
        const acc_t v = scan.v[i], threshold = scan.threshold[i], carried = scan.carried[i];
        const bool spike = lif_fires(v, threshold);
        acc_t total = lif_reset_backward(p.reset, carried, spike);
        if (scan.grad_spikes || !p.detach_reset) {
          acc_t grad = scan.grad_spikes ? static_cast<acc_t>(grad_spikes[k].x[i]) : acc_t(0);
          if (!p.detach_reset) grad += lif_reset_spike_backward(p.reset, carried, v, threshold);
          const acc_t derivative = surrogate_derivative(p.surrogate, v - threshold, p.slope);
          total = fused_multiply_add(grad, derivative, total);
          scan.grad_threshold[i] = fused_multiply_add(-grad, derivative, scan.grad_threshold[i]);
        }
        if (scan.grad_v) total += grad_v[k].x[i];
        if (scan.target) {
          const bool wanted = target[k] >> i & 1u;
          const acc_t error = masked_error(wanted, spike, v, threshold);
          total = fused_multiply_add(-grad_loss, error, total);
          scan.grad_threshold[i] = fused_multiply_add(wanted ? grad_loss : acc_t(0), error, scan.grad_threshold[i]);
        }
        // The initial state is already after a reset.
        const acc_t past = before[k].x[i];
        const acc_t held = first ? past : lif_reset(p.reset, past, lif_fires(past, threshold), threshold);
        scan.grad_decay[i] = fused_multiply_add(total, held, scan.grad_decay[i]);
        if (p.reset == Reset::subtract && spike) scan.grad_threshold[i] -= carried;
        grad_z.x[i] = static_cast<io_t>(total);
        scan.carried[i] = scan.decay[i] * total;
        scan.v[i] = past;
      }
      store_vector(scan.grad_z, grad_z);
      scan.grad_z -= p.B * p.N;
    }
  }
}

template <class acc_t, class io_t, int kCount>
__global__ void __launch_bounds__(kScanThreads, 1) lif_backward_kernel(LifBackward<acc_t, io_t> p) {
  constexpr int kAhead = 4;
  const int64_t groups = p.N / kCount, items = p.B * groups, last = p.T > 0 ? p.T - 1 : 0;
  const acc_t grad_loss = p.target ? *p.grad_loss : acc_t(0);
  for (int64_t item = global_thread(); item < items; item += all_threads()) {
    const int64_t b = item / groups, n = item % groups * kCount, neuron = b * p.N + n;
    ReverseScan<acc_t, io_t, kCount> scan;
    const acc_t* v = p.v + last * p.B * p.N + (p.T > 0 ? neuron : 0);
    scan.v_before = p.T > 1 ? v - p.B * p.N : nullptr;
    scan.grad_spikes = at(p.grad_spikes, last, b, n);
    scan.grad_v = at(p.grad_v, last, b, n);
    scan.target = p.target ? p.target + (last * p.B + b) * words_for(p.N) + n / kWordBits : nullptr;
    scan.grad_z = p.grad_z + last * p.B * p.N + (p.T > 0 ? neuron : 0);
    load_parameter(p.decay, p.decay_stride, n, scan.decay);
    load_parameter(p.threshold, p.threshold_stride, n, scan.threshold);
    const auto carried = load_or_zero<kCount>(p.grad_state ? p.grad_state + neuron : nullptr);
    const auto v_last = load_or_zero<kCount>(p.T > 0 ? v : nullptr);
    SF_UNROLL for (int i = 0; i < kCount; ++i) {
      scan.carried[i] = carried.x[i];
      scan.v[i] = v_last.x[i];
      scan.grad_decay[i] = scan.grad_threshold[i] = acc_t(0);
    }
    const acc_t* state = p.state ? p.state + neuron : nullptr;
    const int shift = int(n % kWordBits);
    int64_t left = p.T;
    for (; left > kAhead; left -= kAhead) backward_chunk<kAhead, true>(p, shift, left, state, grad_loss, scan);
    if (left > 0) backward_chunk<kAhead, false>(p, shift, left, state, grad_loss, scan);
    AlignedVector<acc_t, kCount> grad_state, grad_decay, grad_threshold;
    SF_UNROLL for (int i = 0; i < kCount; ++i) {
      grad_state.x[i] = scan.carried[i];
      grad_decay.x[i] = scan.grad_decay[i];
      grad_threshold.x[i] = scan.grad_threshold[i];
    }
    store_vector(p.grad_initial_state + neuron, grad_state);
    if (p.grad_decay) {
      store_vector(p.grad_decay + neuron, grad_decay);
      store_vector(p.grad_threshold + neuron, grad_threshold);
    }
  }
}

}  // namespace spikefuse::cuda
