// Compiles the kernel file named by SF_KERNELS once per instruction set, each time in the namespace SF_ISA.
// SF_DISPATCH_ISA calls the right one. There is no include guard, by design.
//
// The generic pass comes first, so that all headers are included outside of the target regions below. A kernel file
// holds only templates and free functions on raw pointers. A standard container instantiated inside a region could
// replace the generic one when linked.
//
// SF_ISA_PARITY is defined in every second pass. A kernel file that several others include defines its guard in one
// pass and undefines it in the next, so it is included once per pass.
#if !defined(SF_KERNELS)
#error "define SF_KERNELS as the quoted name of a kernel file before including foreach_isa.h"
#endif

#define SF_ISA isa_generic
#define SF_VECTOR_BYTES 16
#include SF_KERNELS
#undef SF_ISA
#undef SF_VECTOR_BYTES

#if defined(__x86_64__)

#define SF_PRAGMA(...) _Pragma(#__VA_ARGS__)
#if defined(__clang__)
#define SF_PUSH_TARGET(features, tuning) \
  SF_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define SF_POP_TARGET _Pragma("clang attribute pop")
#else
#define SF_PUSH_TARGET(features, tuning) _Pragma("GCC push_options") SF_PRAGMA(GCC target(features tuning))
#define SF_POP_TARGET _Pragma("GCC pop_options")
#endif

#define SF_ISA isa_avx2
#define SF_VECTOR_BYTES 32
#define SF_ISA_PARITY
SF_PUSH_TARGET(SF_FEATURE_NAMES(SF_AVX2_FEATURES), "")
#include SF_KERNELS
SF_POP_TARGET
#undef SF_ISA
#undef SF_VECTOR_BYTES
#undef SF_ISA_PARITY

#define SF_ISA isa_avx512
#define SF_VECTOR_BYTES 64
SF_PUSH_TARGET(SF_FEATURE_NAMES(SF_AVX512_FEATURES), ",prefer-vector-width=512")
#include SF_KERNELS
SF_POP_TARGET
#undef SF_ISA
#undef SF_VECTOR_BYTES

#undef SF_PRAGMA
#undef SF_PUSH_TARGET
#undef SF_POP_TARGET
#endif

#undef SF_KERNELS
