// Prototypes of every op, one list for all backends. TORCH_BOX does not compare a C++ signature with its schema, so
// each prototype stands here once, beside schemas.h, and both backends implement exactly these.
//
// T: time steps, B: samples, N: neurons, W: words of 32 spikes, acc: fp32, or fp64 if the input is fp64.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

namespace spikefuse {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Callback that exchanges spikes between ranks. The thread that called the op calls it at each time step, once
// `gathered` holds the spikes of this rank's neurons. It fills in the other ranks' spikes and returns 1. Any other
// value stops the batch, for example the 0 of a callback that raised an exception.
using ExchangeSpikes = int32_t (*)(int64_t step);

#define SPIKEFUSE_OP_PROTOTYPES                                                                                        \
  /* z [T, B, N] -> spikes [T, B, N] like z, v [T, B, N] acc, state [B, N] acc, loss [] acc, mismatches [] int64 */    \
  std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lif_forward(Tensor z, std::optional<Tensor> state, Tensor decay,  \
                                                                 Tensor threshold, std::optional<Tensor> target,       \
                                                                 int64_t reset);                                       \
  /* -> grad z [T, B, N] of `dtype`, grad state [B, N], and per sample grad decay [B, N] and grad threshold [B, N] */  \
  std::tuple<Tensor, Tensor, Tensor, Tensor> lif_backward(                                                             \
      std::optional<Tensor> grad_spikes, std::optional<Tensor> grad_v, std::optional<Tensor> grad_state,               \
      std::optional<Tensor> grad_loss, Tensor v, std::optional<Tensor> state, Tensor decay, Tensor threshold,          \
      std::optional<Tensor> target, ScalarType dtype, int64_t reset, bool detach_reset, int64_t surrogate,             \
      double slope, bool parameter_gradients);                                                                         \
  /* x [R, N] -> words [R, W] int32, spikes [] int64, elements that are neither 0 nor 1 [] int64 */                    \
  std::tuple<Tensor, Tensor, Tensor> pack_spikes(Tensor x);                                                            \
  /* words [R, W] -> [R, N] of `dtype` */                                                                              \
  Tensor unpack_spikes(Tensor words, int64_t neurons, ScalarType dtype);                                               \
  /* rates [B, N] -> words [T, B, W] int32 */                                                                          \
  Tensor poisson_encode(Tensor rates, int64_t steps, int64_t seed, int64_t offset);                                    \
  /* words [R, W], weight [N, M] -> [R, M] */                                                                          \
  Tensor spike_matmul(Tensor words, Tensor weight);                                                                    \
  /* words [R, W], grad [R, M] -> [N, M] */                                                                            \
  Tensor spike_matmul_transposed(Tensor words, Tensor grad, int64_t neurons);                                          \
  /* words [T, B, W], weight [N, M], bias [M], state [B, M] -> spikes, v [T, B, M], new state [B, M]; all fp32 */      \
  std::tuple<Tensor, Tensor, Tensor> lif_linear_forward(Tensor words, Tensor weight, std::optional<Tensor> bias,       \
                                                        std::optional<Tensor> state, Tensor decay, Tensor threshold,   \
                                                        int64_t reset);                                                \
  /* input [T, B, W], target [T, B, W], weights L x [out, in], changed in place */                                     \
  /* -> loss [] fp64 summed over samples, mismatches [] int64, spike counts [B, sum of out] int32 */                   \
  /* With several ranks, weights[0] is this rank's slice of the first layer, exchange the address of an */             \
  /* ExchangeSpikes, and gathered [ranks, words of the longest slice, B] int32 the buffer that it exchanges. */        \
  std::tuple<Tensor, Tensor, Tensor> online_batch_(                                                                    \
      Tensor input, Tensor target, std::vector<Tensor> weights, double decay, double threshold, int64_t trace,         \
      double trace_divisor, bool v_clamp, int64_t surrogate, double slope, int64_t optimizer, double lr, double beta1, \
      double beta2, double epsilon, double weight_decay, bool decoupled, std::optional<Tensor> gathered,               \
      int64_t exchange, int64_t rank)

namespace cpu {
SPIKEFUSE_OP_PROTOTYPES;
// Returns the instruction set in use: "avx512", "avx2" or "default".
std::string instruction_set();
}  // namespace cpu

namespace cuda {
SPIKEFUSE_OP_PROTOTYPES;
}  // namespace cuda

}  // namespace spikefuse
