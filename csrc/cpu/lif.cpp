// LIF layer: all T time steps forward, and the reverse scan, in one call each.
#include <type_traits>

#include "../checks.h"
#include "../dispatch.h"
#include "isa.h"

namespace spikefuse::cpu {

template <class acc_t, class io_t>
struct LifForward {
  const io_t* z;  // [T, B, N] by strides, neurons adjacent
  int64_t z_stride_t, z_stride_b;
  const acc_t* state;  // [B, N] or null for zeros
  const acc_t *decay, *threshold;
  int64_t decay_stride, threshold_stride;  // 0: one value for all neurons
  const uint32_t* target;                  // [T, B, W] or null
  Reset reset;
  int64_t T, B, N;
  io_t* spikes;      // [T, B, N]
  acc_t* v;          // [T, B, N]
  acc_t* new_state;  // [B, N]
};

template <class acc_t, class io_t>
struct LifBackward {
  const io_t* grad_spikes;  // [T, B, N] by strides, or null
  int64_t grad_spikes_stride_t, grad_spikes_stride_b;
  const acc_t* grad_v;  // [T, B, N] by strides, or null
  int64_t grad_v_stride_t, grad_v_stride_b;
  const acc_t* grad_state;  // [B, N] or null
  acc_t grad_loss;
  const acc_t* v;      // [T, B, N]
  const acc_t* state;  // [B, N] or null
  const acc_t *decay, *threshold;
  int64_t decay_stride, threshold_stride;
  const uint32_t* target;  // [T, B, W] or null
  Reset reset;
  bool detach_reset;
  Surrogate surrogate;
  acc_t slope;
  int64_t T, B, N;
  io_t* grad_z;                        // [T, B, N]
  acc_t* grad_initial_state;           // [B, N]
  acc_t *grad_decay, *grad_threshold;  // [B, N] each, or null
};

}  // namespace spikefuse::cpu

#define SF_KERNELS "lif.inl"
#include "foreach_isa.h"

namespace spikefuse::cpu {

// A tile is one sample's kTile neurons; the same tiles whatever the number of threads, so the loss is summed in one
// order.
static int64_t tiles_per_sample(int64_t N) { return (N + isa_generic::kTile - 1) / isa_generic::kTile; }

// Tiles for one thread at the least: about 16,000 neuron-steps, a few microseconds of work.
static int64_t tile_grain(int64_t T) {
  return std::max<int64_t>(1, 16384 / (isa_generic::kTile * std::max<int64_t>(T, 1)));
}

template <class acc_t, class io_t>
void run_forward(const LifForward<acc_t, io_t>& p, acc_t* loss, int64_t* open_errors) {
  const int64_t per_sample = tiles_per_sample(p.N), tiles = p.B * per_sample;
  std::vector<double> tile_loss(tiles, 0.0);
  std::vector<int64_t> tile_open(tiles, 0);
  parallel_for(0, tiles, tile_grain(p.T), [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t b = tile / per_sample, first = tile % per_sample * isa_generic::kTile;
      const int64_t count = std::min(isa_generic::kTile, p.N - first);
      SF_DISPATCH_ISA(lif_forward_tile(p, b, first, count, tile_loss[tile], tile_open[tile]));
    }
  });
  double total = 0;
  *open_errors = 0;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    total += tile_loss[tile];
    *open_errors += tile_open[tile];
  }
  *loss = static_cast<acc_t>(total);
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

// Neurons adjacent in memory; time and sample may have any stride, 0 included.
static Tensor rows(const Tensor& t) { return t.size(2) <= 1 || t.stride(2) == 1 ? t : torch::stable::contiguous(t); }
static std::optional<Tensor> contiguous(const std::optional<Tensor>& t) {
  return t ? std::optional<Tensor>(torch::stable::contiguous(*t)) : t;
}

static void check_optional(const std::optional<Tensor>& t, const char* name, std::initializer_list<int64_t> shape,
                           ScalarType dtype, const Tensor& reference) {
  if (!t) return;
  check_same_device(*t, name, reference);
  check_shape(*t, name, shape);
  check_dtype(*t, name, dtype);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lif_forward(Tensor z, std::optional<Tensor> state, Tensor decay,
                                                               Tensor threshold, std::optional<Tensor> target,
                                                               int64_t reset) {
  check_dims(z, "z", 3);
  check_io_dtype(z.scalar_type(), "z");
  check_range(reset, 3, "reset");
  const int64_t T = z.size(0), B = z.size(1), N = z.size(2);
  const ScalarType io = z.scalar_type(), acc = accumulate_dtype(io);
  check_optional(state, "state", {B, N}, acc, z);
  check_optional(target, "target", {T, B, words_for(N)}, ScalarType::Int, z);
  check_same_device(decay, "decay", z);
  check_same_device(threshold, "threshold", z);

  Tensor spikes = torch::stable::new_empty(z, {T, B, N});
  Tensor v = torch::stable::new_empty(z, {T, B, N}, acc);
  Tensor new_state = torch::stable::new_empty(z, {B, N}, acc);
  Tensor loss = torch::stable::new_empty(z, {}, acc);
  Tensor open_errors = torch::stable::new_empty(z, {}, ScalarType::Long);
  const Tensor z_rows = rows(z);
  const auto state_rows = contiguous(state), target_rows = contiguous(target);
  with_io_type(io, [&](auto acc_zero, auto io_zero) {
    using acc_t = decltype(acc_zero);
    using io_t = decltype(io_zero);
    LifForward<acc_t, io_t> p;
    p.z = z_rows.const_data_ptr<io_t>();
    p.z_stride_t = z_rows.stride(0);
    p.z_stride_b = z_rows.stride(1);
    p.state = optional_data<acc_t>(state_rows);
    p.decay_stride = parameter_stride(decay, "decay", N, acc);
    p.decay = decay.const_data_ptr<acc_t>();
    p.threshold_stride = parameter_stride(threshold, "threshold", N, acc);
    p.threshold = threshold.const_data_ptr<acc_t>();
    p.target = target_rows ? words_data(*target_rows) : nullptr;
    p.reset = static_cast<Reset>(reset);
    p.T = T, p.B = B, p.N = N;
    p.spikes = spikes.mutable_data_ptr<io_t>();
    p.v = v.mutable_data_ptr<acc_t>();
    p.new_state = new_state.mutable_data_ptr<acc_t>();
    run_forward(p, loss.mutable_data_ptr<acc_t>(), open_errors.mutable_data_ptr<int64_t>());
  });
  return {spikes, v, new_state, loss, open_errors};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> lif_backward(std::optional<Tensor> grad_spikes, std::optional<Tensor> grad_v,
                                                        std::optional<Tensor> grad_state,
                                                        std::optional<Tensor> grad_loss, Tensor v,
                                                        std::optional<Tensor> state, Tensor decay, Tensor threshold,
                                                        std::optional<Tensor> target, ScalarType dtype, int64_t reset,
                                                        bool detach_reset, int64_t surrogate, double slope,
                                                        bool parameter_gradients) {
  check_dims(v, "v", 3);
  check_io_dtype(dtype, "the gradient");
  check_range(reset, 3, "reset");
  check_range(surrogate, 4, "surrogate");
  const int64_t T = v.size(0), B = v.size(1), N = v.size(2);
  const ScalarType acc = accumulate_dtype(dtype);
  check_dtype(v, "v", acc);
  check_optional(grad_spikes, "grad_spikes", {T, B, N}, dtype, v);
  check_optional(grad_v, "grad_v", {T, B, N}, acc, v);
  check_optional(grad_state, "grad_state", {B, N}, acc, v);
  check_optional(grad_loss, "grad_loss", {}, acc, v);
  check_optional(state, "state", {B, N}, acc, v);
  check_optional(target, "target", {T, B, words_for(N)}, ScalarType::Int, v);
  STD_TORCH_CHECK(target.has_value() == grad_loss.has_value(), "spikefuse: target and grad_loss come together");
  check_same_device(decay, "decay", v);
  check_same_device(threshold, "threshold", v);

  Tensor grad_z = torch::stable::new_empty(v, {T, B, N}, dtype);
  Tensor grad_initial_state = torch::stable::new_empty(v, {B, N}, acc);
  const int64_t samples = parameter_gradients ? B : 0;
  Tensor grad_decay = torch::stable::new_empty(v, {samples, N}, acc);
  Tensor grad_threshold = torch::stable::new_empty(v, {samples, N}, acc);
  const Tensor v_rows = torch::stable::contiguous(v);
  const auto state_rows = contiguous(state), grad_state_rows = contiguous(grad_state), target_rows = contiguous(target);
  const auto grad_spikes_rows = grad_spikes ? std::optional<Tensor>(rows(*grad_spikes)) : grad_spikes;
  const auto grad_v_rows = grad_v ? std::optional<Tensor>(rows(*grad_v)) : grad_v;
  with_io_type(dtype, [&](auto acc_zero, auto io_zero) {
    using acc_t = decltype(acc_zero);
    using io_t = decltype(io_zero);
    LifBackward<acc_t, io_t> p;
    p.grad_spikes = optional_data<io_t>(grad_spikes_rows);
    p.grad_spikes_stride_t = grad_spikes_rows ? grad_spikes_rows->stride(0) : 0;
    p.grad_spikes_stride_b = grad_spikes_rows ? grad_spikes_rows->stride(1) : 0;
    p.grad_v = optional_data<acc_t>(grad_v_rows);
    p.grad_v_stride_t = grad_v_rows ? grad_v_rows->stride(0) : 0;
    p.grad_v_stride_b = grad_v_rows ? grad_v_rows->stride(1) : 0;
    p.grad_state = optional_data<acc_t>(grad_state_rows);
    p.grad_loss = grad_loss ? *grad_loss->const_data_ptr<acc_t>() : acc_t(0);
    p.v = v_rows.const_data_ptr<acc_t>();
    p.state = optional_data<acc_t>(state_rows);
    p.decay_stride = parameter_stride(decay, "decay", N, acc);
    p.decay = decay.const_data_ptr<acc_t>();
    p.threshold_stride = parameter_stride(threshold, "threshold", N, acc);
    p.threshold = threshold.const_data_ptr<acc_t>();
    p.target = target_rows ? words_data(*target_rows) : nullptr;
    p.reset = static_cast<Reset>(reset);
    p.detach_reset = detach_reset;
    p.surrogate = static_cast<Surrogate>(surrogate);
    p.slope = static_cast<acc_t>(slope);
    p.T = T, p.B = B, p.N = N;
    p.grad_z = grad_z.mutable_data_ptr<io_t>();
    p.grad_initial_state = grad_initial_state.mutable_data_ptr<acc_t>();
    p.grad_decay = parameter_gradients ? grad_decay.mutable_data_ptr<acc_t>() : nullptr;
    p.grad_threshold = parameter_gradients ? grad_threshold.mutable_data_ptr<acc_t>() : nullptr;
    run_backward(p);
  });
  return {grad_z, grad_initial_state, grad_decay, grad_threshold};
}

}  // namespace spikefuse::cpu
