// Fully connected LIF layer of packed spikes on the CPU: the product first, then the recursion. The product's tiles
// span neurons, not time, so that its weights stay in the cache; fusing the recursion into it would gain nothing.
#include "../checks.h"

namespace spikefuse::cpu {

std::tuple<Tensor, Tensor, Tensor> lif_linear_forward(Tensor words, Tensor weight, std::optional<Tensor> bias,
                                                      std::optional<Tensor> state, Tensor decay, Tensor threshold,
                                                      int64_t reset) {
  check_lif_linear(words, weight, bias, state, decay, threshold, reset);
  const int64_t T = words.size(0), B = words.size(1), M = weight.size(1);
  const Tensor rows = torch::stable::reshape(words, {T * B, words.size(2)});
  Tensor z = spike_matmul(rows, weight);
  if (bias) {
    float* values = z.mutable_data_ptr<float>();
    const Tensor b = torch::stable::contiguous(*bias);
    const float* added = b.const_data_ptr<float>();
    for (int64_t r = 0; r < T * B; ++r)
      for (int64_t m = 0; m < M; ++m) values[r * M + m] += added[m];
  }
  auto [spikes, v, new_state, loss, mismatches] =
      lif_forward(torch::stable::reshape(z, {T, B, M}), state, decay, threshold, std::nullopt, reset);
  return {spikes, v, new_state};
}

}  // namespace spikefuse::cpu
