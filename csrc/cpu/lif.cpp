// LIF layer on the CPU: one call computes all T time steps forward, another the reverse scan.
#include "../lif_op.h"
#include "isa.h"

#define SF_KERNELS "lif.inl"
#include "foreach_isa.h"

namespace spikefuse::cpu {

// A tile is kTile neurons of one sample. The tiles do not depend on the number of threads, so the loss is always summed
// in the same order.
static int64_t tiles_per_sample(int64_t N) { return (N + isa_generic::kTile - 1) / isa_generic::kTile; }

// Fewest tiles per thread: about 16,000 neuron-steps, a few microseconds of work.
static int64_t tile_grain(int64_t T) {
  return std::max<int64_t>(1, 16384 / (isa_generic::kTile * std::max<int64_t>(T, 1)));
}

template <class acc_t, class io_t>
void run_forward(const LifForward<acc_t, io_t>& p) {
  const int64_t per_sample = tiles_per_sample(p.N), tiles = p.B * per_sample;
  std::vector<double> tile_loss(tiles, 0.0);
  std::vector<int64_t> tile_mismatches(tiles, 0);
  parallel_for(0, tiles, tile_grain(p.T), [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t b = tile / per_sample, first = tile % per_sample * isa_generic::kTile;
      const int64_t count = std::min(isa_generic::kTile, p.N - first);
      SF_DISPATCH_ISA(lif_forward_tile(p, b, first, count, tile_loss[tile], tile_mismatches[tile]));
    }
  });
  double total = 0;
  *p.mismatches = 0;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    total += tile_loss[tile];
    *p.mismatches += tile_mismatches[tile];
  }
  *p.loss = static_cast<acc_t>(total);
}

template <class acc_t, class io_t>
void run_backward(const LifBackward<acc_t, io_t>& p) {
  const int64_t per_sample = tiles_per_sample(p.N);
  parallel_for(0, p.B * per_sample, tile_grain(p.T), [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t b = tile / per_sample, first = tile % per_sample * isa_generic::kTile;
      SF_DISPATCH_ISA(lif_backward_tile(p, b, first, std::min(isa_generic::kTile, p.N - first)));
    }
  });
}

// Makes neighbouring neurons adjacent in memory; time and sample may have any stride, even 0.
static Tensor rows(const Tensor& t) { return t.size(2) <= 1 || t.stride(2) == 1 ? t : torch::stable::contiguous(t); }

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lif_forward(Tensor z, std::optional<Tensor> state, Tensor decay,
                                                               Tensor threshold, std::optional<Tensor> target,
                                                               int64_t reset) {
  return lif_forward_op(z, state, decay, threshold, target, reset, rows, [](const auto& p) { run_forward(p); });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> lif_backward(std::optional<Tensor> grad_spikes, std::optional<Tensor> grad_v,
                                                        std::optional<Tensor> grad_state,
                                                        std::optional<Tensor> grad_loss, Tensor v,
                                                        std::optional<Tensor> state, Tensor decay, Tensor threshold,
                                                        std::optional<Tensor> target, ScalarType dtype, int64_t reset,
                                                        bool detach_reset, int64_t surrogate, double slope,
                                                        bool parameter_gradients) {
  return lif_backward_op(grad_spikes, grad_v, grad_state, grad_loss, v, state, decay, threshold, target, dtype, reset,
                         detach_reset, surrogate, slope, parameter_gradients, rows,
                         [](const auto& p) { run_backward(p); });
}

}  // namespace spikefuse::cpu
