// Packs spikes to bits and unpacks them, on CUDA.
#include "../checks.h"
#include "../dispatch.h"
#include "launch.h"
#include "packing.cuh"

namespace spikefuse::cuda {

std::tuple<Tensor, Tensor, Tensor> pack_spikes(Tensor x) {
  check_dims(x, "x", 2);
  const DeviceStreamGuard device(x);
  const int64_t R = x.size(0), N = x.size(1), W = words_for(N);
  Tensor words = torch::stable::new_empty(x, {R, W}, ScalarType::Int);
  Tensor counts = torch::stable::new_zeros(x, {2}, ScalarType::Long);
  if (R * W > 0) {
    with_element_type(x.scalar_type(), [&](auto zero) {
      using io_t = decltype(zero);
      launch(pack_kernel<io_t>, grid_for(R * W, kThreads / 32), kThreads, 0, device.stream(), x.const_data_ptr<io_t>(),
             x.stride(0), x.stride(1), R, N, mutable_words_data(words),
             reinterpret_cast<unsigned long long*>(counts.mutable_data_ptr<int64_t>()));
    });
  }
  // Two separate scalars: outputs of an op must not alias each other.
  return {words, torch::stable::clone(torch::stable::select(counts, 0, 0)),
          torch::stable::clone(torch::stable::select(counts, 0, 1))};
}

Tensor unpack_spikes(Tensor words, int64_t neurons, ScalarType dtype) {
  check_dims(words, "words", 2);
  check_dtype(words, "words", ScalarType::Int);
  STD_TORCH_CHECK(neurons >= 0, "spikefuse: expected neurons >= 0, got ", neurons);
  const DeviceStreamGuard device(words);
  const int64_t R = words.size(0);
  check_shape(words, "words", {R, words_for(neurons)});
  Tensor x = torch::stable::new_empty(words, {R, neurons}, dtype);
  const Tensor rows = torch::stable::contiguous(words);
  if (R * neurons > 0) {
    with_element_type(dtype, [&](auto zero) {
      using io_t = decltype(zero);
      launch(unpack_kernel<io_t>, grid_for(R * words_for(neurons), kThreads / 32), kThreads, 0, device.stream(),
             words_data(rows), R, neurons, x.mutable_data_ptr<io_t>());
    });
  }
  return x;
}

}  // namespace spikefuse::cuda
