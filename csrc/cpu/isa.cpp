#include "isa.h"

#include <cstdlib>
#include <string>

#include "../ops.h"

namespace spikefuse::cpu {

static Isa detect() {
#if defined(__x86_64__)
  const bool avx2 = SF_AVX2_FEATURES(&&, __builtin_cpu_supports);
  const bool avx512 = SF_AVX512_FEATURES(&&, __builtin_cpu_supports);
  const char* forced = std::getenv("SPIKEFUSE_ISA");
  const std::string wanted = forced ? forced : "";
  STD_TORCH_CHECK(wanted.empty() || wanted == "default" || wanted == "avx2" || wanted == "avx512",
                  "spikefuse: SPIKEFUSE_ISA must be default, avx2 or avx512, got ", wanted);
  STD_TORCH_CHECK(wanted != "avx512" || avx512, "spikefuse: SPIKEFUSE_ISA=avx512, but this processor has not all of ",
                  SF_FEATURE_NAMES(SF_AVX512_FEATURES));
  STD_TORCH_CHECK(wanted != "avx2" || avx2, "spikefuse: SPIKEFUSE_ISA=avx2, but this processor has not all of ",
                  SF_FEATURE_NAMES(SF_AVX2_FEATURES));
  if (avx512 && (wanted.empty() || wanted == "avx512")) return Isa::avx512;
  if (avx2 && wanted != "default") return Isa::avx2;
#endif
  return Isa::generic;
}

Isa isa() {
  static const Isa detected = detect();
  return detected;
}

std::string instruction_set() {
  const Isa current = isa();
  return current == Isa::avx512 ? "avx512" : current == Isa::avx2 ? "avx2" : "default";
}

}  // namespace spikefuse::cpu
