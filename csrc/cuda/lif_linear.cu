// Fully connected LIF layer of packed spikes on CUDA: product and recursion in one launch.
#include "../checks.h"
#include "launch.h"
#include "lif_linear.cuh"

namespace spikefuse::cuda {

template <class Tile>
static void run(const LifLinear& p, cudaStream_t stream) {
  const int64_t steps = std::min<int64_t>(p.T, Tile::kRows);
  const int64_t tiles = divide_up(p.B, Tile::kRows / steps) * divide_up(p.M, Tile::kColumns);
  launch(lif_linear_kernel<Tile>, grid_for(tiles, 1), Tile::kThreads, kLifLinearSharedBytes<Tile>, stream, p,
         int(steps));
}

std::tuple<Tensor, Tensor, Tensor> lif_linear_forward(Tensor words, Tensor weight, std::optional<Tensor> bias,
                                                      std::optional<Tensor> state, Tensor decay, Tensor threshold,
                                                      int64_t reset) {
  check_lif_linear(words, weight, bias, state, decay, threshold, reset);
  const int64_t T = words.size(0), B = words.size(1), N = weight.size(0), M = weight.size(1);
  STD_TORCH_CHECK(N > 0, "spikefuse: expected weight with at least one row");
  const DeviceStreamGuard device(weight);
  Tensor spikes = torch::stable::new_empty(weight, {T, B, M});
  Tensor v = torch::stable::new_empty(weight, {T, B, M});
  Tensor new_state = state ? torch::stable::clone(*state) : torch::stable::new_zeros(weight, {B, M});
  const Tensor words_read = torch::stable::contiguous(words), weight_read = torch::stable::contiguous(weight);
  const std::optional<Tensor> bias_read = contiguous(bias), state_read = contiguous(state);
  new_state = torch::stable::contiguous(new_state);
  LifLinear p;
  p.words = words_data(words_read);
  p.weight = weight_read.const_data_ptr<float>();
  p.bias = optional_data<float>(bias_read);
  p.state = optional_data<float>(state_read);
  p.decay = decay.const_data_ptr<float>();
  p.threshold = threshold.const_data_ptr<float>();
  p.decay_stride = parameter_stride(decay, "decay", M, ScalarType::Float);
  p.threshold_stride = parameter_stride(threshold, "threshold", M, ScalarType::Float);
  p.reset = static_cast<Reset>(reset);
  p.T = T, p.B = B, p.N = N, p.M = M;
  p.spikes = spikes.mutable_data_ptr<float>();
  p.v = v.mutable_data_ptr<float>();
  p.new_state = new_state.mutable_data_ptr<float>();
  if (T * B * M > 0) {
    if (large_tiles(T * B, M))
      run<LargeTile>(p, device.stream());
    else
      run<SmallTile>(p, device.stream());
  }
  return {spikes, v, new_state};
}

}  // namespace spikefuse::cuda
