// Selects the instruction set of this process once, from the processor's features. SPIKEFUSE_ISA=default|avx2|avx512
// forces a lower one.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>

// The features of each instruction set: foreach_isa.h compiles for them, isa.cpp asks the processor for them.
#define SF_AVX2_FEATURES(AND, FEATURE) \
  FEATURE("avx2") AND FEATURE("fma") AND FEATURE("bmi") AND FEATURE("bmi2") AND FEATURE("popcnt")
#define SF_AVX512_FEATURES(AND, FEATURE) \
  FEATURE("avx512f")                     \
  AND FEATURE("avx512bw") AND FEATURE("avx512dq") AND FEATURE("avx512vl") AND SF_AVX2_FEATURES(AND, FEATURE)

// The features as one string, separated by commas.
#define SF_FEATURE_NAME(name) name
#define SF_FEATURE_NAMES(FEATURES) FEATURES(",", SF_FEATURE_NAME)

namespace spikefuse::cpu {

enum class Isa { generic, avx2, avx512 };

Isa isa();

// Runs a parallel loop whose body dispatches kernels. Selects the instruction set before the parallel region, which
// would lose the error message of a wrong SPIKEFUSE_ISA.
template <class F>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const F& body) {
  isa();
  torch::stable::parallel_for(begin, end, grain, body);
}

}  // namespace spikefuse::cpu

#if defined(__x86_64__)
#define SF_DISPATCH_ISA(call)              \
  switch (::spikefuse::cpu::isa()) {       \
    case ::spikefuse::cpu::Isa::avx512:    \
      ::spikefuse::cpu::isa_avx512::call;  \
      break;                               \
    case ::spikefuse::cpu::Isa::avx2:      \
      ::spikefuse::cpu::isa_avx2::call;    \
      break;                               \
    default:                               \
      ::spikefuse::cpu::isa_generic::call; \
  }
#else
#define SF_DISPATCH_ISA(call) ::spikefuse::cpu::isa_generic::call
#endif
