// Kernels that pack and unpack spikes: raw pointers and sizes, no torch.
#pragma once

#include "../packing.h"
#include "device.cuh"

namespace spikefuse::cuda {

// Packs one word per warp: lane i reads neuron 32 w + i. Adds the number of spikes to counts[0], and the number of
// elements that are neither 0 nor 1 to counts[1]. Both are sums of integers, the same in any order.
template <class io_t>
__global__ void pack_kernel(const io_t* x, int64_t stride_r, int64_t stride_n, int64_t R, int64_t N, uint32_t* words,
                            unsigned long long* counts) {
  const int64_t W = words_for(N), total = R * W;
  const int lane = threadIdx.x % 32;
  unsigned long long spikes = 0, odd = 0;
  for (int64_t i = global_thread() / 32; i < total; i += all_threads() / 32) {
    const int64_t r = i / W, n = i % W * kWordBits + lane;
    double value = 0;
    if (n < N) value = static_cast<double>(x[r * stride_r + n * stride_n]);
    const uint32_t word = __ballot_sync(kAllLanes, value != 0);
    const uint32_t bad = __ballot_sync(kAllLanes, value != 0 && value != 1);
    if (lane == 0) {
      words[i] = word;
      spikes += __popc(word);
      odd += __popc(bad);
    }
  }
  if (lane == 0 && spikes) atomicAdd(counts, spikes);
  if (lane == 0 && odd) atomicAdd(counts + 1, odd);
}

// Unpacks one word per warp, one neuron per lane.
template <class io_t>
__global__ void unpack_kernel(const uint32_t* words, int64_t R, int64_t N, io_t* x) {
  const int64_t W = words_for(N), total = R * W;
  const int lane = threadIdx.x % 32;
  for (int64_t i = global_thread() / 32; i < total; i += all_threads() / 32) {
    const int64_t r = i / W, n = i % W * kWordBits + lane;
    if (n < N) x[r * N + n] = static_cast<io_t>(words[i] >> lane & 1u ? 1.0f : 0.0f);
  }
}

}  // namespace spikefuse::cuda
