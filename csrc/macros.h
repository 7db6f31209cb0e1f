// Functions for host and device that are always inlined, so that each takes the instruction set of the kernel that
// calls it.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define SF_HD __host__ __device__ __forceinline__
#else
#define SF_HD inline __attribute__((always_inline))
#endif

// Unrolls the following loop, whose array must stay in registers.
#if defined(__clang__) || defined(__CUDACC__)
#define SF_UNROLL _Pragma("unroll")
#else
#define SF_UNROLL _Pragma("GCC unroll 16")
#endif

namespace spikefuse {

// Rounds once instead of twice, on every backend. The CPU code is built with -ffp-contract=off, so a product and a sum
// are fused only by this call.
SF_HD float fused_multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
SF_HD double fused_multiply_add(double a, double b, double c) { return fma(a, b, c); }

}  // namespace spikefuse
