// Included first by every kernel file (.inl): vector intrinsics, and the generic instruction set where foreach_isa.h
// has not chosen one, so that a kernel file can be parsed alone.
#pragma once

#include "../macros.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if !defined(SF_ISA)
#define SF_ISA isa_generic
#define SF_VECTOR_BYTES 16
#endif
