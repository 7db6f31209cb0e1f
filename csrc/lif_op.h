// Host side of the LIF ops for both backends: checks arguments, allocates outputs, and collects pointers and strides.
// Each backend passes in the function that runs its kernels.
#pragma once

#include "checks.h"
#include "dispatch.h"
#include "lif_params.h"

namespace spikefuse {

template <class T>
Strided<T> strided(const std::optional<Tensor>& t) {
  if (!t) return {};
  return {t->const_data_ptr<T>(), t->stride(0), t->stride(1), t->stride(2)};
}

// readable(tensor) returns the tensor, or a copy of it in strides that the backend can read; run(p) runs the kernels.
template <class Readable, class Run>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lif_forward_op(const Tensor& z, const std::optional<Tensor>& state,
                                                                  const Tensor& decay, const Tensor& threshold,
                                                                  const std::optional<Tensor>& target, int64_t reset,
                                                                  const Readable& readable, const Run& run) {
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
  Tensor mismatches = torch::stable::new_empty(z, {}, ScalarType::Long);
  const Tensor z_read = readable(z);
  const auto state_rows = contiguous(state), target_rows = contiguous(target);
  with_io_type(io, [&](auto acc_zero, auto io_zero) {
    using acc_t = decltype(acc_zero);
    using io_t = decltype(io_zero);
    LifForward<acc_t, io_t> p;
    p.z = strided<io_t>(z_read);
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
    p.loss = loss.mutable_data_ptr<acc_t>();
    p.mismatches = mismatches.mutable_data_ptr<int64_t>();
    run(p);
  });
  return {spikes, v, new_state, loss, mismatches};
}

template <class Readable, class Run>
std::tuple<Tensor, Tensor, Tensor, Tensor> lif_backward_op(
    const std::optional<Tensor>& grad_spikes, const std::optional<Tensor>& grad_v,
    const std::optional<Tensor>& grad_state, const std::optional<Tensor>& grad_loss, const Tensor& v,
    const std::optional<Tensor>& state, const Tensor& decay, const Tensor& threshold,
    const std::optional<Tensor>& target, ScalarType dtype, int64_t reset, bool detach_reset, int64_t surrogate,
    double slope, bool parameter_gradients, const Readable& readable, const Run& run) {
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
  const auto grad_spikes_read = grad_spikes ? std::optional<Tensor>(readable(*grad_spikes)) : grad_spikes;
  const auto grad_v_read = grad_v ? std::optional<Tensor>(readable(*grad_v)) : grad_v;
  with_io_type(dtype, [&](auto acc_zero, auto io_zero) {
    using acc_t = decltype(acc_zero);
    using io_t = decltype(io_zero);
    LifBackward<acc_t, io_t> p;
    p.grad_spikes = strided<io_t>(grad_spikes_read);
    p.grad_v = strided<acc_t>(grad_v_read);
    p.grad_state = optional_data<acc_t>(grad_state_rows);
    p.grad_loss = optional_data<acc_t>(grad_loss);
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
    run(p);
  });
  return {grad_z, grad_initial_state, grad_decay, grad_threshold};
}

}  // namespace spikefuse
