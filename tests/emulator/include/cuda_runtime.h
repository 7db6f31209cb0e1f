// Replaces CUDA's header of this name: a C++ compiler can compile the kernels and launchers of csrc/cuda unchanged, and
// every GPU thread runs as a fibre on one CPU thread.
#pragma once

#include "../emulator.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__

using cudaStream_t = void*;

inline thread_local emulator::Index threadIdx, blockIdx, blockDim, gridDim;

constexpr unsigned kFullWarp = 0xffffffffu;

inline void __syncthreads() { emulator::block().barrier(); }
inline void __syncwarp(unsigned mask = kFullWarp) { emulator::exchange(mask, "__syncwarp", 0); }

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const auto of_lane = emulator::exchange(mask, "__ballot_sync", predicate != 0);
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1u) bits |= unsigned(of_lane[lane]) << lane;
  return bits;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }

template <class T>
T __shfl_sync(unsigned mask, T value, int lane) {
  return emulator::exchange(mask, "__shfl_sync", value)[lane & 31];
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
  return emulator::exchange(mask, "__shfl_xor_sync", value)[emulator::lane() ^ bits];
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta) {
  const int lane = emulator::lane();
  return emulator::exchange(mask, "__shfl_up_sync", value)[lane < int(delta) ? lane : lane - int(delta)];
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta) {
  const int lane = emulator::lane();
  return emulator::exchange(mask, "__shfl_down_sync", value)[lane + int(delta) > 31 ? lane : lane + int(delta)];
}

// One CPU thread runs all GPU threads, so a plain addition is atomic.
template <class T>
T atomicAdd(T* address, T value) {
  const T before = *address;
  *address = before + value;
  return before;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }
