// The list of ops with their schemas. Every library defines and implements its ops from this list. To add an op, add it
// here and add its prototype to ops.h.
#pragma once

#include "ops.h"

// OP(context, name, schema)
#define SPIKEFUSE_OPS(OP, context)                                                                                     \
  OP(context, lif_forward,                                                                                             \
     "(Tensor z, Tensor? state, Tensor decay, Tensor threshold, Tensor? target, int reset) "                           \
     "-> (Tensor spikes, Tensor v, Tensor new_state, Tensor loss, Tensor mismatches)")                                 \
  OP(context, lif_backward,                                                                                            \
     "(Tensor? grad_spikes, Tensor? grad_v, Tensor? grad_state, Tensor? grad_loss, Tensor v, "                         \
     "Tensor? state, Tensor decay, Tensor threshold, Tensor? target, ScalarType dtype, int reset, bool detach_reset, " \
     "int surrogate, float slope, bool parameter_gradients) "                                                          \
     "-> (Tensor grad_z, Tensor grad_initial_state, Tensor grad_decay, Tensor grad_threshold)")                        \
  OP(context, pack_spikes, "(Tensor x) -> (Tensor words, Tensor spikes, Tensor not_spikes)")                           \
  OP(context, unpack_spikes, "(Tensor words, int neurons, ScalarType dtype) -> Tensor")                                \
  OP(context, poisson_encode, "(Tensor rates, int steps, int seed, int offset) -> Tensor")                             \
  OP(context, lif_linear_forward,                                                                                      \
     "(Tensor words, Tensor weight, Tensor? bias, Tensor? state, Tensor decay, Tensor threshold, "                     \
     "int reset) -> (Tensor spikes, Tensor v, Tensor new_state)")                                                      \
  OP(context, spike_matmul, "(Tensor words, Tensor weight) -> Tensor")                                                 \
  OP(context, spike_matmul_transposed, "(Tensor words, Tensor grad, int neurons) -> Tensor")                           \
  OP(context, online_batch_,                                                                                           \
     "(Tensor input, Tensor target, Tensor(a!)[] weights, float decay, float threshold, int trace, "                   \
     "float trace_divisor, bool v_clamp, int surrogate, float slope, int optimizer, float lr, float beta1, "           \
     "float beta2, float epsilon, float weight_decay, bool decoupled, Tensor(b!)? gathered=None, int exchange=0, "     \
     "int rank=0) "                                                                                                    \
     "-> (Tensor loss, Tensor mismatches, Tensor spike_counts)")

#define SPIKEFUSE_DEFINE_OP(m, name, schema) m.def(#name schema);
#define SPIKEFUSE_IMPLEMENT_OP(backend, name, schema) m.impl(#name, TORCH_BOX(&backend::name));

// Defines every op, in the block of a STABLE_TORCH_LIBRARY whose library is `m`.
#define SPIKEFUSE_DEFINE_OPS(m) SPIKEFUSE_OPS(SPIKEFUSE_DEFINE_OP, m)
// Implements every op by the namespace `backend`, in the block of a STABLE_TORCH_LIBRARY_IMPL whose library is `m`.
#define SPIKEFUSE_IMPLEMENT_OPS(backend) SPIKEFUSE_OPS(SPIKEFUSE_IMPLEMENT_OP, backend)
