// Building blocks of kernels: dynamic shared memory, vectors of 16 bytes, sums over a block.
#pragma once

#include <cuda_runtime.h>

#if !defined(SPIKEFUSE_EMULATED)
#include <cooperative_groups.h>
#endif

#include "../macros.h"
#include "grid.h"

namespace spikefuse::cuda {

// All shared memory is dynamic: the emulator allocates it per block and guards its end.
template <class T>
__device__ __forceinline__ T* shared_memory() {
#if defined(SPIKEFUSE_EMULATED)
  return reinterpret_cast<T*>(emulator::block().shared());
#else
  extern __shared__ __align__(128) unsigned char memory[];
  return reinterpret_cast<T*>(memory);
#endif
}

constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ int64_t global_thread() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int64_t all_threads() { return int64_t(gridDim.x) * blockDim.x; }

// Waits for all threads of all blocks, and makes their writes visible to each other. Only within launch_cooperative.
__device__ __forceinline__ void grid_barrier() {
#if defined(SPIKEFUSE_EMULATED)
  emulator::grid_barrier();
#else
  cooperative_groups::this_grid().sync();
#endif
}

// kCount neighbouring elements, loaded and stored by one instruction per 16 bytes.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount < 16 ? sizeof(T) * kCount : 16) AlignedVector {
  T x[kCount];
};

template <int kCount, class T>
__device__ __forceinline__ AlignedVector<T, kCount> load_vector(const T* from) {
  return *reinterpret_cast<const AlignedVector<T, kCount>*>(from);
}

template <class T, int kCount>
__device__ __forceinline__ void store_vector(T* to, const AlignedVector<T, kCount>& values) {
  *reinterpret_cast<AlignedVector<T, kCount>*>(to) = values;
}

// Returns the sum over a block to thread 0, in an order that depends only on the block's size. `memory` holds one T per
// warp. All threads of the block call this.
template <class T>
__device__ T block_sum(T value, T* memory) {
  SF_UNROLL for (int half = 16; half > 0; half /= 2) value += __shfl_down_sync(kAllLanes, value, half);
  const unsigned warp = threadIdx.x / 32, warps = blockDim.x / 32;
  __syncthreads();  // an earlier sum may still be read from `memory`
  if (threadIdx.x % 32 == 0) memory[warp] = value;
  __syncthreads();
  T total = T(0);
  if (threadIdx.x == 0)
    for (unsigned w = 0; w < warps; ++w) total += memory[w];
  return total;
}

}  // namespace spikefuse::cuda
