// Stream compaction by a block: lists, in shared memory, the set bits of a row of words, or the few items that pass a
// test. All threads of the block call these functions.
#pragma once

#include "../packing.h"
#include "device.cuh"

namespace spikefuse::cuda {

struct SpikeList {
  uint16_t* position;     // one per bit of a word per thread
  uint32_t* warp_counts;  // one per warp
};

__host__ __device__ constexpr size_t list_shared_bytes(unsigned threads) {
  return threads * kWordBits * sizeof(uint16_t) + threads / 32 * sizeof(uint64_t);
}

// Returns the list at the beginning of the block's shared memory.
__device__ __forceinline__ SpikeList shared_list() {
  auto* position = shared_memory<uint16_t>();
  return {position, reinterpret_cast<uint32_t*>(position + blockDim.x * kWordBits)};
}

// Lists the set bits of all threads' words in order, bit i of thread k as 32 k + i; returns their number. Ends with a
// barrier; the caller needs another one before the next list.
__device__ __forceinline__ uint32_t compact_bits(uint32_t word, const SpikeList& list) {
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const uint32_t bits = __popc(word);
  uint32_t upto = bits;
  SF_UNROLL for (int delta = 1; delta < 32; delta *= 2) {
    const uint32_t left = __shfl_up_sync(kAllLanes, upto, delta);
    if (lane >= unsigned(delta)) upto += left;
  }
  if (lane == 31) list.warp_counts[warp] = upto;
  __syncthreads();
  uint32_t count = 0, at = upto - bits;
  for (unsigned i = 0; i < warps; ++i) {
    if (i < warp) at += list.warp_counts[i];
    count += list.warp_counts[i];
  }
  for (; word; word &= word - 1) list.position[at++] = uint16_t(threadIdx.x * kWordBits + __ffs(int(word)) - 1);
  __syncthreads();
  return count;
}

// Calls each(i), in order, for every i < count with keep(i). Each thread evaluates keep for its own items.
template <class Keep, class Each>
__device__ __forceinline__ void for_each_kept(int64_t count, const SpikeList& list, const Keep& keep,
                                              const Each& each) {
  for (int64_t first = 0; first < count; first += blockDim.x) {
    const int64_t i = first + threadIdx.x;
    const uint32_t kept = compact_bits(i < count && keep(i) ? 1u : 0u, list);
    for (uint32_t k = 0; k < kept; ++k) each(first + list.position[k] / kWordBits);
    __syncthreads();
  }
}

}  // namespace spikefuse::cuda
