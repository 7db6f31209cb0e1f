// Every kernel file (.inl) includes this first. Provides the vector intrinsics, and the generic instruction set if
// foreach_isa.h has not chosen one, so that clangd can parse a kernel file alone.
#pragma once

#include "../macros.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if !defined(SF_ISA)
#define SF_ISA isa_generic
#define SF_VECTOR_BYTES 16
#endif
