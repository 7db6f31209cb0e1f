// Defines the library of ops and registers the CPU implementations. The CUDA library registers its own against the same
// schemas.
#include "schemas.h"

STABLE_TORCH_LIBRARY(spikefuse, m) {
  SPIKEFUSE_DEFINE_OPS(m);
  m.def("cpu_instruction_set() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(spikefuse, CPU, m) { SPIKEFUSE_IMPLEMENT_OPS(spikefuse::cpu); }

STABLE_TORCH_LIBRARY_IMPL(spikefuse, CompositeExplicitAutograd, m) {
  m.impl("cpu_instruction_set", TORCH_BOX(&spikefuse::cpu::instruction_set));
}
