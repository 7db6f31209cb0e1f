// Compiles the file named by SF_KERNELS once per instruction set, each in a namespace of its own; SF_DISPATCH_ISA calls
// the right one. A kernel file holds templates and free functions on raw pointers only: a standard container
// instantiated inside a region would be shared with, and could replace, the generic one. No include guard, by design.
#if !defined(SF_KERNELS)
#error "define SF_KERNELS as the quoted name of a kernel file before including foreach_isa.h"
#endif

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2,popcnt,prefer-vector-width=512")
#endif
#define SF_VECTOR_BYTES 64
namespace spikefuse::cpu::isa_avx512 {
#include SF_KERNELS
}
#undef SF_VECTOR_BYTES
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi,bmi2,popcnt"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi,bmi2,popcnt")
#endif
#define SF_VECTOR_BYTES 32
namespace spikefuse::cpu::isa_avx2 {
#include SF_KERNELS
}
#undef SF_VECTOR_BYTES
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif

#define SF_VECTOR_BYTES 16
namespace spikefuse::cpu::isa_generic {
#include SF_KERNELS
}
#undef SF_VECTOR_BYTES
#undef SF_KERNELS
