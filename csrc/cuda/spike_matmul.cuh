// Kernels of the products with packed spikes, z [R, M] = X [R, N] W [N, M]: one gathers the rows of W that spike, the
// other, in spike_mma.cuh, multiplies on tensor cores. Which of the two runs is decided on the device, by the number of
// spikes: the other one ends at once.
#pragma once

#include "../packing.h"
#include "device.cuh"

namespace spikefuse::cuda {

// The products that run where spikes are at most, or more than, `limit`; both without counting where `spikes` is null.
struct Choice {
  const unsigned long long* spikes;
  unsigned long long limit;
};

__device__ __forceinline__ bool gathers(const Choice& choice) {
  return !choice.spikes || *choice.spikes <= choice.limit;
}
__device__ __forceinline__ bool multiplies(const Choice& choice) {
  return !choice.spikes || *choice.spikes > choice.limit;
}

// Adds the number of set bits to *spikes: a sum of integers, the same in any order.
inline __global__ void count_spikes_kernel(const uint32_t* words, int64_t count, unsigned long long* spikes) {
  unsigned long long sum = 0;
  for (int64_t i = global_thread(); i < count; i += all_threads()) sum += __popc(words[i]);
  sum = block_sum(sum, shared_memory<unsigned long long>());
  if (threadIdx.x == 0 && sum) atomicAdd(spikes, sum);
}

// X^T of X: words [R, W] -> [N, words of R]. A warp turns 32 rows of 32 bits.
inline __global__ void transpose_words_kernel(const uint32_t* words, int64_t R, int64_t N, uint32_t* out) {
  const int64_t W = words_for(N), groups = words_for(R), tiles = groups * W;
  const int lane = threadIdx.x % 32;
  // one column of words after the other within a group of rows: neighbouring warps read the same lines of memory
  for (int64_t tile = global_thread() / 32; tile < tiles; tile += all_threads() / 32) {
    const int64_t group = tile / W, w = tile % W, r = group * kWordBits + lane, n = w * kWordBits + lane;
    const uint32_t word = r < R ? words[r * W + w] : 0u;
    uint32_t turned = 0;
    SF_UNROLL for (int bit = 0; bit < kWordBits; ++bit) {
      const uint32_t column = __ballot_sync(kAllLanes, word >> bit & 1u);
      if (lane == bit) turned = column;
    }
    if (n < N) out[n * groups + group] = turned;
  }
}

// Shared memory of gather_kernel: the positions of the spikes in as many words as the block has threads, and a number
// for each warp.
inline size_t gather_shared_bytes(unsigned threads) {
  return threads * kWordBits * sizeof(uint16_t) + threads / 32 * 4;
}

// A block makes kCount columns a thread of one row of z: it lists the row's spikes, as many words at a time as it has
// threads, and adds up the rows of W in the order of the list.
template <class acc_t, int kCount>
__global__ void __launch_bounds__(kThreads, 1) gather_kernel(const uint32_t* words, int64_t R, int64_t N,
                                                             const acc_t* weight, int64_t M, acc_t* z, Choice choice) {
  if (!gathers(choice)) return;
  constexpr int kAhead = 8;
  const int64_t W = words_for(N), columns = int64_t(blockDim.x) * kCount, slabs = (M + columns - 1) / columns;
  auto* list = shared_memory<uint16_t>();
  auto* warp_counts = reinterpret_cast<uint32_t*>(list + blockDim.x * kWordBits);
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  for (int64_t task = blockIdx.x; task < R * slabs; task += gridDim.x) {
    const int64_t r = task / slabs, m = task % slabs * columns + int64_t(threadIdx.x) * kCount;
    Pack<acc_t, kCount> sum;
    SF_UNROLL for (int i = 0; i < kCount; ++i) sum.x[i] = acc_t(0);
    for (int64_t first = 0; first < W; first += blockDim.x) {
      const int64_t w = first + threadIdx.x;
      // padding bits that someone has set would lead beyond the weights
      uint32_t word = w < W ? words[r * W + w] & neurons_of_word(w, N) : 0u;
      // where this thread's spikes go in the list
      const uint32_t own = __popc(word);
      uint32_t upto = own;
      SF_UNROLL for (int delta = 1; delta < 32; delta *= 2) {
        const uint32_t left = __shfl_up_sync(kAllLanes, upto, delta);
        if (lane >= unsigned(delta)) upto += left;
      }
      if (lane == 31) warp_counts[warp] = upto;
      __syncthreads();
      uint32_t count = 0, at = upto - own;
      for (unsigned i = 0; i < warps; ++i) {
        if (i < warp) at += warp_counts[i];
        count += warp_counts[i];
      }
      for (; word; word &= word - 1) list[at++] = uint16_t(threadIdx.x * kWordBits + __ffs(int(word)) - 1);
      __syncthreads();
      if (m < M) {
        const acc_t* rows = weight + first * kWordBits * M + m;
        uint32_t k = 0;
        for (; k + kAhead <= count; k += kAhead) {
          Pack<acc_t, kCount> row[kAhead];
          SF_UNROLL for (int i = 0; i < kAhead; ++i) row[i] = load_pack<kCount>(rows + list[k + i] * M);
          SF_UNROLL for (int i = 0; i < kAhead; ++i) {
            SF_UNROLL for (int j = 0; j < kCount; ++j) sum.x[j] += row[i].x[j];
          }
        }
        for (; k < count; ++k) {
          const Pack<acc_t, kCount> row = load_pack<kCount>(rows + list[k] * M);
          SF_UNROLL for (int j = 0; j < kCount; ++j) sum.x[j] += row.x[j];
        }
      }
      __syncthreads();  // the list is made anew
    }
    if (m < M) store_pack(z + r * M + m, sum);
  }
}

}  // namespace spikefuse::cuda
