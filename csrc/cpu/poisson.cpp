// Poisson encoding on the CPU: draws spikes from rates, straight to bits.
#include <algorithm>

#include "../checks.h"
#include "../dispatch.h"
#include "isa.h"

#define SF_KERNELS "poisson.inl"
#include "foreach_isa.h"

namespace spikefuse::cpu {

Tensor poisson_encode(Tensor rates, int64_t steps, int64_t seed, int64_t offset) {
  check_dims(rates, "rates", 2);
  check_range(steps, int64_t(1) << 32, "steps");
  check_range(offset, int64_t(1) << 32, "offset");
  const int64_t B = rates.size(0), N = rates.size(1), W = words_for(N);
  Tensor words = torch::stable::new_empty(rates, {steps, B, W}, ScalarType::Int);
  const Tensor rows = torch::stable::contiguous(rates);
  with_io_type(rates.scalar_type(), [&](auto, auto zero) {
    using io_t = decltype(zero);
    const io_t* in = rows.const_data_ptr<io_t>();
    uint32_t* out = mutable_words_data(words);
    parallel_for(0, B * W, std::max<int64_t>(1, 256 / std::max<int64_t>(steps, 1)), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t b = i / W, w = i % W, first = w * kWordBits;
        const int64_t count = std::min(kWordBits, N - first);
        double rate[kWordBits];
        for (int64_t j = 0; j < count; ++j) rate[j] = static_cast<double>(in[b * N + first + j]);
        SF_DISPATCH_ISA(
            poisson_column(rate, count, w, b, steps, uint64_t(seed), uint32_t(offset), out + b * W + w, B * W));
      }
    });
  });
  return words;
}

}  // namespace spikefuse::cpu
