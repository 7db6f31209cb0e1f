// Which instruction set this process runs: decided once, from what the processor has; SPIKEFUSE_ISA=default|avx2|avx512
// forces a lower one.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>

namespace spikefuse::cpu {

enum class Isa { generic, avx2, avx512 };

Isa isa();

// For bodies that dispatch kernels. The instruction set is decided before the region, which would lose the message of a
// wrong SPIKEFUSE_ISA.
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
