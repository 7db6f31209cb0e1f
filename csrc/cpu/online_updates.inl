// Weight updates of the online rule: a part of a row, and the rows of a later layer.
#if defined(SF_ONLINE_UPDATES_INL) == defined(SF_ISA_PARITY)
#if defined(SF_ONLINE_UPDATES_INL)
#undef SF_ONLINE_UPDATES_INL
#else
#define SF_ONLINE_UPDATES_INL
#endif

#include "gather.inl"
#include "online_batch.h"

namespace spikefuse::cpu::SF_ISA {

// Updates `count` neighbouring weights and their moments from the sum of their gradients over samples. The moments
// start from zero at the first update of a batch.
template <class acc_t>
SF_HD void update_weights(const OnlineBatch<acc_t>& p, const OnlineLayer<acc_t>& layer, const UpdateStep<acc_t>& step,
                          bool first_update, const acc_t* gradient, int64_t count, int64_t at) {
  const acc_t batch_mean = acc_t(1) / acc_t(p.B);
  acc_t* __restrict w = layer.weight + at;
  if (p.optimizer == Optimizer::sgd) {
    for (int64_t i = 0; i < count; ++i) w[i] = sgd_update(step, w[i], gradient[i] * batch_mean);
    return;
  }
  acc_t* __restrict m = layer.m + at, * __restrict v = layer.v + at;
  if (first_update)
    for (int64_t i = 0; i < count; ++i) m[i] = v[i] = acc_t(0);
  for (int64_t i = 0; i < count; ++i) w[i] = adam_update(step, w[i], gradient[i] * batch_mean, m[i], v[i]);
}

// Updates `lines` lines of a row of weights by the gradient, the sum over k of weight(k) * row(k). The gradient stays
// in registers. The sums of one part overlap with the division and square root of the part before, which take longer.
template <int lines, class acc_t, class Row, class Weight>
SF_HD void update_lines(const OnlineBatch<acc_t>& p, const OnlineLayer<acc_t>& layer, const UpdateStep<acc_t>& step,
                        bool first_update, int64_t at, int64_t count, const Row& row, const Weight& weight) {
  constexpr int64_t elements = lines * kLine<acc_t>;
  Sums<acc_t, elements> sums;
  sums.clear();
  for (int64_t k = 0; k < count; ++k) sums.add(weight(k), row(k));
  acc_t gradient[elements];
  sums.store(gradient);
  update_weights(p, layer, step, first_update, gradient, elements, at);
}

// Updates the 32 output rows of tile i by the errors of time step t; returns true if a weight may have changed. A row
// without an error so far in this batch has no gradient and no moments, only weight decay.
template <class acc_t>
bool update_tile(const OnlineBatch<acc_t>& p, const OnlineLayer<acc_t>& layer, int64_t i, int64_t t) {
  constexpr int64_t line = kLine<acc_t>;
  const UpdateStep<acc_t>& step = p.step[t];
  const int64_t first = i * kWordBits;
  const int64_t count = layer.out - first < kWordBits ? layer.out - first : kWordBits;
  const int64_t windows = p.trace == Trace::gated ? p.T : 1;
  const acc_t* delta = layer.delta + i * p.B * kWordBits;
  uint32_t has_moments = step.l2 == acc_t(0) ? layer.has_moments[i] : t == 0 ? 0u : ~0u;
  for (int64_t j = 0; j < count; ++j) {
    const int64_t m = first + j;
    // The output layer's errors are listed; a hidden layer's are dense.
    const int32_t* samples = layer.error_count ? layer.error_samples + m * p.B : nullptr;
    const int64_t errors = layer.error_count ? layer.error_count[m] : p.B;
    const bool first_update = !(has_moments >> j & 1u);
    acc_t* weight = layer.weight + m * layer.in_stride;
    if (first_update && errors == 0 && step.l2 == acc_t(0)) {
      if (step.shrink != acc_t(1))
        for (int64_t n = 0; n < layer.in_stride; ++n) weight[n] *= step.shrink;
      continue;
    }
    has_moments |= 1u << j;
    const auto sample = [=](int64_t k) { return samples ? int64_t(samples[k]) : k; };
    for_each_part(layer.in_stride / line, [&](int64_t part, auto lines) {
      update_lines<lines>(
          p, layer, step, first_update, m * layer.in_stride + part * line, errors,
          [&](int64_t k) {
            const int64_t b = sample(k);
            const int64_t window = layer.age ? t - layer.age[b * layer.out_width + m] : 0;
            return layer.trace + (b * windows + window) * layer.in_stride + part * line;
          },
          [&](int64_t k) { return delta[sample(k) * kWordBits + j]; });
    });
  }
  layer.has_moments[i] = has_moments;
  return has_moments != 0 || step.shrink != acc_t(1);
}

}  // namespace spikefuse::cpu::SF_ISA

#endif
