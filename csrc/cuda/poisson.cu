// Poisson encoding on CUDA: draws spikes from rates, straight to bits.
#include "../checks.h"
#include "../dispatch.h"
#include "launch.h"
#include "poisson.cuh"

namespace spikefuse::cuda {

Tensor poisson_encode(Tensor rates, int64_t steps, int64_t seed, int64_t offset) {
  check_dims(rates, "rates", 2);
  check_range(steps, int64_t(1) << 32, "steps");
  check_range(offset, int64_t(1) << 32, "offset");
  const DeviceStreamGuard device(rates);
  const int64_t B = rates.size(0), N = rates.size(1), W = words_for(N);
  Tensor words = torch::stable::new_empty(rates, {steps, B, W}, ScalarType::Int);
  const Tensor rows = torch::stable::contiguous(rates);
  if (steps * B * W > 0) {
    with_io_type(rates.scalar_type(), [&](auto, auto zero) {
      using io_t = decltype(zero);
      launch(poisson_kernel<io_t>, grid_for(steps * B * W, kThreads), kThreads, 0, device.stream(),
             rows.const_data_ptr<io_t>(), steps, B, N, uint64_t(seed), uint32_t(offset), mutable_words_data(words));
    });
  }
  return words;
}

}  // namespace spikefuse::cuda
