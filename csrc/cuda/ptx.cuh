// All inline PTX, one function per instruction. The emulator has functions of the same names
// (tests/emulator/include/ptx.h).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#if defined(SPIKEFUSE_EMULATED)
#include "ptx.h"
#else

namespace spikefuse::cuda {

// Rounds two floats to bf16; `low` goes to the lower half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// Loads and transposes four 8 x 8 matrices of 16-bit elements. Lane l points to row l % 8 of matrix l / 8, 16 bytes in
// shared memory. It receives the elements (2 (l % 4), l / 4) and (2 (l % 4) + 1, l / 4) of all four.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&x)[4], const void* row) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address)
               : "memory");
}

// Computes d += a b for a [16, 16] and b [16, 8] in bf16, summed in fp32. With g = lane / 4 and c = lane % 4, a lane
// holds these pairs:
// of a: (g, 2c), (g + 8, 2c), (g, 2c + 8), (g + 8, 2c + 8)
// of b: (2c, g), (2c + 8, g)
// of d: (g, 2c), (g + 8, 2c)
__device__ __forceinline__ void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace spikefuse::cuda

#endif
