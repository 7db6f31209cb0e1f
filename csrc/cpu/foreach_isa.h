// Compiles the kernel file named by SF_KERNELS once per instruction set, each time in the namespace SF_ISA;
// SF_DISPATCH_ISA calls the right one. No include guard, by design.
//
// The generic pass comes first: it includes all headers outside of the regions below. A kernel file holds templates and
// free functions on raw pointers only: a standard container instantiated inside a region would be shared with, and
// could replace, the generic one.
//
// SF_ISA_PARITY is defined in every second pass. A kernel file that several others include defines its own guard in one
// pass and undefines it in the next, and so is included once per pass.
#if !defined(SF_KERNELS)
#error "define SF_KERNELS as the quoted name of a kernel file before including foreach_isa.h"
#endif

#define SF_ISA isa_generic
#define SF_VECTOR_BYTES 16
#include SF_KERNELS
#undef SF_ISA
#undef SF_VECTOR_BYTES

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi,bmi2,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi,bmi2,popcnt")
#endif
#define SF_ISA isa_avx2
#define SF_VECTOR_BYTES 32
#define SF_ISA_PARITY
#include SF_KERNELS
#undef SF_ISA
#undef SF_VECTOR_BYTES
#undef SF_ISA_PARITY
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2,popcnt"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2,popcnt,prefer-vector-width=512")
#endif
#define SF_ISA isa_avx512
#define SF_VECTOR_BYTES 64
#include SF_KERNELS
#undef SF_ISA
#undef SF_VECTOR_BYTES
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif

#undef SF_KERNELS
