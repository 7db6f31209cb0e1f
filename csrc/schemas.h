// Every op's schema, for each library of ops that implements ops.h.
#pragma once

#include "ops.h"

namespace spikefuse {

template <class Library>
void define_ops(Library& m) {
  m.def(
      "lif_forward(Tensor z, Tensor? state, Tensor decay, Tensor threshold, Tensor? target, int reset) "
      "-> (Tensor spikes, Tensor v, Tensor new_state, Tensor loss, Tensor mismatches)");
  m.def(
      "lif_backward(Tensor? grad_spikes, Tensor? grad_v, Tensor? grad_state, Tensor? grad_loss, Tensor v, "
      "Tensor? state, Tensor decay, Tensor threshold, Tensor? target, ScalarType dtype, int reset, bool detach_reset, "
      "int surrogate, float slope, bool parameter_gradients) "
      "-> (Tensor grad_z, Tensor grad_initial_state, Tensor grad_decay, Tensor grad_threshold)");
  m.def("pack_spikes(Tensor x) -> (Tensor words, Tensor spikes, Tensor not_spikes)");
  m.def("unpack_spikes(Tensor words, int neurons, ScalarType dtype) -> Tensor");
  m.def("poisson_encode(Tensor rates, int steps, int seed, int offset) -> Tensor");
  m.def(
      "lif_linear_forward(Tensor words, Tensor weight, Tensor? bias, Tensor? state, Tensor decay, Tensor threshold, "
      "int reset) -> (Tensor spikes, Tensor v, Tensor new_state)");
  m.def("spike_matmul(Tensor words, Tensor weight) -> Tensor");
  m.def("spike_matmul_transposed(Tensor words, Tensor grad, int neurons) -> Tensor");
  m.def(
      "online_step_(Tensor input, Tensor target, Tensor(a!)[] weights, float decay, float threshold, int trace, "
      "float trace_divisor, bool v_clamp, int surrogate, float slope, int optimizer, float lr, float beta1, "
      "float beta2, float epsilon, float weight_decay, bool decoupled, Tensor(b!)? gathered=None, int exchange=0, "
      "int rank=0) "
      "-> (Tensor loss, Tensor mismatches, Tensor spike_counts)");
}

}  // namespace spikefuse

// For the block of a STABLE_TORCH_LIBRARY_IMPL: every op, implemented in the namespace `backend`.
#define SPIKEFUSE_IMPLEMENT_OPS(m, backend)                                        \
  m.impl("lif_forward", TORCH_BOX(&backend::lif_forward));                         \
  m.impl("lif_backward", TORCH_BOX(&backend::lif_backward));                       \
  m.impl("lif_linear_forward", TORCH_BOX(&backend::lif_linear_forward));           \
  m.impl("pack_spikes", TORCH_BOX(&backend::pack_spikes));                         \
  m.impl("unpack_spikes", TORCH_BOX(&backend::unpack_spikes));                     \
  m.impl("poisson_encode", TORCH_BOX(&backend::poisson_encode));                   \
  m.impl("spike_matmul", TORCH_BOX(&backend::spike_matmul));                       \
  m.impl("spike_matmul_transposed", TORCH_BOX(&backend::spike_matmul_transposed)); \
  m.impl("online_step_", TORCH_BOX(&backend::online_step_))
