// Updates one weight by SGD, or by Adam with moments that start from zero in every batch (PAPER eqs after 17; Kingma &
// Ba 2015). The gradient is already averaged over the batch.
#pragma once

#include <cmath>

#include "macros.h"

namespace spikefuse {

// Same values as spikefuse.online.OPTIMIZERS.
enum class Optimizer : int { adam = 0, sgd = 1 };

// Per-step constants of the update, computed in double and rounded once.
template <class acc_t>
struct UpdateStep {
  acc_t beta1, one_minus_beta1, beta2, one_minus_beta2;
  acc_t step_size;           // lr / (1 - beta1^k) for Adam, lr for SGD
  acc_t inverse_sqrt_bias2;  // 1 / sqrt(1 - beta2^k)
  acc_t epsilon;
  acc_t l2;      // added to the gradient as l2 * w
  acc_t shrink;  // decoupled weight decay: w <- shrink * w - update
};

template <class acc_t>
SF_HD UpdateStep<acc_t> make_update_step(Optimizer optimizer, int64_t k, double lr, double beta1, double beta2,
                                         double epsilon, double weight_decay, bool decoupled) {
  const double bias1 = 1.0 - std::pow(beta1, double(k));
  const double bias2 = 1.0 - std::pow(beta2, double(k));
  UpdateStep<acc_t> step;
  step.beta1 = acc_t(beta1);
  step.one_minus_beta1 = acc_t(1.0 - beta1);
  step.beta2 = acc_t(beta2);
  step.one_minus_beta2 = acc_t(1.0 - beta2);
  step.step_size = acc_t(optimizer == Optimizer::adam ? lr / bias1 : lr);
  step.inverse_sqrt_bias2 = acc_t(1.0 / std::sqrt(bias2));
  step.epsilon = acc_t(epsilon);
  step.l2 = acc_t(decoupled ? 0.0 : weight_decay);
  step.shrink = acc_t(decoupled ? 1.0 - lr * weight_decay : 1.0);
  return step;
}

SF_HD float square_root(float x) { return sqrtf(x); }
SF_HD double square_root(double x) { return sqrt(x); }

template <class acc_t>
SF_HD acc_t adam_update(const UpdateStep<acc_t>& step, acc_t w, acc_t gradient, acc_t& m, acc_t& v) {
  const acc_t g = fused_multiply_add(step.l2, w, gradient);
  m = fused_multiply_add(step.beta1, m, step.one_minus_beta1 * g);
  v = fused_multiply_add(step.beta2, v, step.one_minus_beta2 * g * g);
  const acc_t scale = fused_multiply_add(square_root(v), step.inverse_sqrt_bias2, step.epsilon);
  return fused_multiply_add(step.shrink, w, -(step.step_size * m / scale));
}

template <class acc_t>
SF_HD acc_t sgd_update(const UpdateStep<acc_t>& step, acc_t w, acc_t gradient) {
  const acc_t g = fused_multiply_add(step.l2, w, gradient);
  return fused_multiply_add(step.shrink, w, -(step.step_size * g));
}

}  // namespace spikefuse
