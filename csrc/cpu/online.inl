// The online rule, one time step in sweeps over independent tasks: the samples through the first layer, the tiles of
// each later layer, which are updated by the errors of the step before and then go forward (online_tiles.inl), the
// samples again with the errors from the top down, and the rows of the first layer (online_inputs.inl). Each task is
// done by one thread in a fixed order, so the result does not depend on how many threads there are.

#include "gather.h"
#include "tile.inl"

template <class acc_t>
constexpr int64_t kWordLines = kWordBits / kLine<acc_t>;

// The spikes of 32 neurons.
template <class acc_t>
SF_HD uint32_t spike_word(const acc_t* v, acc_t threshold) {
#if SF_VECTOR_BYTES == 64
  if constexpr (std::is_same_v<acc_t, float>) {
    const __m512 level = _mm512_set1_ps(threshold);
    const uint32_t low = _mm512_cmp_ps_mask(_mm512_loadu_ps(v), level, _CMP_GE_OQ);
    return low | uint32_t(_mm512_cmp_ps_mask(_mm512_loadu_ps(v + 16), level, _CMP_GE_OQ)) << 16;
  }
#endif
  return word_where(v, [threshold](acc_t x) { return lif_fires(x, threshold); });
}

// v, v' and the spikes of 32 neurons; v' and z lie in lines, whose beginnings are `stride` apart.
template <class acc_t>
SF_HD uint32_t integrate_word(const OnlineBatch<acc_t>& p, const acc_t* z, acc_t* state, int64_t stride, acc_t* v) {
  constexpr int64_t line = kLine<acc_t>;
  const acc_t threshold = p.threshold, decay = p.decay;
  for (int64_t l = 0; l < kWordLines<acc_t>; ++l) {
    for (int64_t i = 0; i < line; ++i) {
      const acc_t vi = lif_integrate(decay, state[l * stride + i], z[l * stride + i]);
      state[l * stride + i] = lif_reset(Reset::zero, vi, lif_fires(vi, threshold), threshold);
      v[l * line + i] = vi;
    }
  }
  const uint32_t word = spike_word(v, threshold);
  if (p.v_clamp)
    for (int64_t i = 0; i < kWordBits; ++i) v[i] = v[i] > threshold ? threshold : v[i];
  return word;
}

// A neuron that spiked in the step before has a trace that begins now: its window is one step long, as all are at
// first.
SF_HD void advance_age(uint16_t* age, uint32_t spiked) {
  for (int64_t i = 0; i < kWordBits; ++i) age[i] = spiked >> i & 1u ? uint16_t(0) : uint16_t(age[i] + 1);
}

inline int64_t count_spikes(const uint32_t* words, int64_t stride, int64_t count) {
  int64_t spikes = 0;
  for (int64_t w = 0; w < count; ++w) spikes += __builtin_popcount(words[w * stride]);
  return spikes;
}

// -E (eqs 6-7, 13) for 32 neurons; returns those where the mask is open, and adds their squares, lane by lane.
template <class acc_t>
SF_HD uint32_t word_error(const OnlineBatch<acc_t>& p, int64_t neurons, uint32_t target, uint32_t spikes,
                          const acc_t* v, acc_t* delta, acc_t* squares) {
  const uint32_t inside = neurons_of_word(0, neurons);
  target &= inside;
  const acc_t threshold = p.threshold;
  int32_t wanted[kWordBits];
  acc_t error[kWordBits];
  for (int i = 0; i < kWordBits; ++i) wanted[i] = int32_t(target >> i & 1u);
  for (int i = 0; i < kWordBits; ++i)
    error[i] = masked_error<acc_t>(wanted[i], lif_fires(v[i], threshold), v[i], threshold);
  for (int i = 0; i < kWordBits; ++i) delta[i] = -error[i];
  for (int i = 0; i < kWordBits; ++i) squares[i] = fused_multiply_add(error[i], error[i], squares[i]);
  return target ^ spikes;
}

// 1/2 E^2 (eq 8)
template <class acc_t>
SF_HD double loss_of(const acc_t* squares) {
  double sum = 0;
  for (int i = 0; i < kWordBits; ++i) sum += double(squares[i]);
  return 0.5 * sum;
}

// Lists the spikes of sample b that enter layer l.
template <class acc_t>
void online_list(const OnlineBatch<acc_t>& p, int64_t l, int64_t b, int64_t t) {
  const OnlineLayer<acc_t>& layer = p.layer[l];
  static_assert(kAppendSlack <= 16);
  const int64_t begin = b * p.list_stride(layer.in);
  layer.events_begin[b] = begin;
  const uint32_t* spikes = spikes_at(p, p.layer[l - 1], b, t);
  layer.events_end[b] = begin + list_spikes(spikes, p.B, layer.in, layer.events + begin);
}

// Sample b through the first layer.
template <class acc_t>
void online_sample(const OnlineBatch<acc_t>& p, int64_t b, int64_t t, const OnlineScratch<acc_t>& own) {
  OnlineLayer<acc_t>& layer = p.layer[0];
  const int64_t W = words_for(layer.in), W_out = words_for(layer.out);
  const int64_t count = list_spikes(p.input + (t * p.B + b) * W, 1, layer.in, own.list);
  gather_rows(layer.weight, layer.out_stride, own.list, count, layer.out_stride, own.row);
  for (int64_t m = layer.out_stride; m < layer.out_width; ++m) own.row[m] = acc_t(0);

  if (t > 0) {
    const int64_t now = t % p.depth, last = (t - 1) % p.depth;
    if (p.trace == Trace::shared) {
      const int64_t spikes_before = count_spikes(spikes_at(p, layer, b, t - 1), p.B, words_for(layer.neurons));
      layer.trace_factor[now * p.sample_width + b] = shared_trace_factor(p, layer.in, spikes_before);
    } else {
      const uint32_t* before = own_spikes_at(p, b, t - 1);
      uint16_t* age = layer.age + (now * p.B + b) * layer.out_width;
      std::memmove(age, layer.age + (last * p.B + b) * layer.out_width, layer.out_width * sizeof(uint16_t));
      for (int64_t w = 0; w < W_out; ++w) advance_age(age + w * kWordBits, before[w * p.B]);
    }
  }

  uint32_t* spikes = own_spikes_at(p, b, t);
  acc_t* potential = layer.potential + b * layer.out_width;
  for (int64_t w = 0; w < W_out; ++w) {
    const int64_t first = w * kWordBits;
    spikes[w * p.B] =
        integrate_word(p, own.row + first, layer.state + b * layer.out_width + first, kLine<acc_t>, potential + first);
  }
  if (p.exchange.call) return;
  if (p.layers > 1) return online_list(p, 1, b, t);

  acc_t squares[kWordBits] = {};
  acc_t* delta = layer.delta + (t % p.depth * p.B + b) * layer.out_width;
  for (int64_t w = 0; w < W_out; ++w) {
    const int64_t first = w * kWordBits;
    const uint32_t target = p.target[(t * p.B + b) * W_out + w];
    p.open_errors[b] += __builtin_popcount(
        word_error(p, layer.out - first, target, spikes[w * p.B], potential + first, delta + first, squares));
  }
  p.loss[b] += loss_of(squares);
}

// `count` neighbouring weights and their moments, which are zero where this is their first update of the batch, from
// the sum of their gradients over samples.
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

// `lines` lines of a row of weights: the gradient, sum over k of weight(k) * row(k), goes from registers into the
// update while the next gradient is already under way. The division and the root of the update, which take longer than
// all of the rest, so hide the sums.
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

// e[t] = factor * e[t-1] + x[t]; `factor` is one for all or one for each, `width` whole vectors
template <class acc_t, class Factor>
SF_HD void advance_shared_trace(const Factor& factor, const uint32_t* x, int64_t stride, int64_t width, acc_t* e) {
  using vec = typename VectorOf<acc_t, SF_VECTOR_BYTES>::type;
  constexpr int lanes = VectorOf<acc_t, SF_VECTOR_BYTES>::lanes;
  for (int64_t n = 0; n < width; n += lanes) {
    vec* trace = reinterpret_cast<vec*>(e + n);
    *trace = multiply_add(factor(n), *trace, spread_bits<acc_t>(x[n / kWordBits * stride] >> (n % kWordBits)));
  }
}

// Window sums that begin at steps 0 ... t, brought to step t: those that are some neuron's trace, and the one that
// begins.
template <class acc_t>
void advance_windows(acc_t decay, const uint32_t* x, int64_t stride, int64_t t, int64_t width, const int32_t* neurons,
                     acc_t* windows) {
  using vec = typename VectorOf<acc_t, SF_VECTOR_BYTES>::type;
  constexpr int lanes = VectorOf<acc_t, SF_VECTOR_BYTES>::lanes;
  for (int64_t begin = 0; begin <= t; ++begin) {
    if (neurons[begin] == 0) continue;
    acc_t* window = windows + begin * width;
    for (int64_t n = 0; n < width; n += lanes) {
      const vec spike = spread_bits<acc_t>(x[n / kWordBits * stride] >> (n % kWordBits));
      vec* sum = reinterpret_cast<vec*>(window + n);
      *sum = begin == t ? spike : multiply_add(decay, *sum, spike);
    }
  }
}

// Counts the neurons whose windows begin at each step: one that spikes at t has, from the next step on, a new one.
template <class acc_t>
void count_windows(const OnlineBatch<acc_t>& p, const OnlineLayer<acc_t>& layer, int64_t b, int64_t t,
                   const OnlineScratch<acc_t>& own) {
  int32_t* neurons = layer.window_neurons + b * (p.T + 1);
  const uint16_t* age = layer.age + b * layer.out_width;
  const int64_t count = list_spikes(spikes_at(p, layer, b, t), p.B, layer.out, own.list);
  for (int64_t k = 0; k < count; ++k) --neurons[t - age[own.list[k]]];
  neurons[t + 1] += int32_t(count);
}

// delta_l = (W_{l+1}^T delta_{l+1}) * ds/dv of this time step only (eqs 14-15), of 32 neurons at a time; the words of
// `delta` are `stride` apart.
template <class acc_t>
void hidden_error(const OnlineBatch<acc_t>& p, const OnlineLayer<acc_t>& layer, int64_t b, const acc_t* propagated,
                  acc_t* delta, int64_t stride) {
  const acc_t* v = layer.potential + b * layer.out_width;
  const acc_t threshold = p.threshold, slope = p.slope;
  for (int64_t first = 0; first < layer.out_width; first += kWordBits, delta += stride) {
    if (p.surrogate == Surrogate::sigmoid) {
      for (int64_t i = 0; i < kWordBits; ++i)
        delta[i] = propagated[first + i] * surrogate_sigmoid(v[first + i] - threshold, slope);
    } else {
      for (int64_t i = 0; i < kWordBits; ++i)
        delta[i] = propagated[first + i] * surrogate_derivative(p.surrogate, v[first + i] - threshold, slope);
    }
  }
}

// Sample b from the top down: the errors of the hidden layers, and the traces of all layers but the first.
template <class acc_t>
void online_errors(const OnlineBatch<acc_t>& p, int64_t b, int64_t t, const OnlineScratch<acc_t>& own) {
  constexpr int64_t line = kLine<acc_t>;
  for (int64_t l = p.layers - 1; l > 0; --l) {
    OnlineLayer<acc_t>& layer = p.layer[l];
    const uint32_t* x = spikes_at(p, p.layer[l - 1], b, t);
    const int64_t W = words_for(layer.out);
    const bool is_output = l + 1 == p.layers;
    const auto delta = [&](int64_t m) { return layer.delta[(m / kWordBits * p.B + b) * kWordBits + m % kWordBits]; };
    const int64_t count = is_output ? list_spikes(layer.open + b, p.B, layer.out, own.list) : layer.out;
    for_each_part(layer.in_stride / line, [&](int64_t first, auto lines) {
      Sums<acc_t, lines * line> sums;
      sums.clear();
      for (int64_t k = 0; k < count; ++k) {
        const int64_t m = is_output ? own.list[k] : k;
        sums.add(delta(m), layer.weight + m * layer.in_stride + first * line);
      }
      sums.store(own.row + first * line);
    });
    const OnlineLayer<acc_t>& below = p.layer[l - 1];
    if (l == 1 && p.exchange.call)
      std::memmove(own.row, own.row + p.exchange.rank * p.exchange.slice, below.out * sizeof(acc_t));
    for (int64_t n = below.out; n < below.out_width; ++n) own.row[n] = acc_t(0);
    if (l == 1)
      hidden_error(p, below, b, own.row, below.delta + (t % p.depth * p.B + b) * below.out_width, kWordBits);
    else
      hidden_error(p, below, b, own.row, below.delta + b * kWordBits, p.B * kWordBits);
    if (p.trace == Trace::shared) {
      const acc_t factor = layer.trace_factor[b];
      advance_shared_trace<acc_t>([=](int64_t) { return factor; }, x, p.B, layer.in_stride,
                                  layer.trace + b * layer.in_stride);
      layer.trace_factor[b] = shared_trace_factor(p, layer.in, count_spikes(spikes_at(p, layer, b, t), p.B, W));
    } else {
      int32_t* neurons = layer.window_neurons + b * (p.T + 1);
      if (t == 0) neurons[0] = int32_t(layer.out);
      advance_windows(p.decay, x, p.B, t, layer.in_stride, neurons, layer.trace + b * p.T * layer.in_stride);
      count_windows(p, layer, b, t, own);
    }
  }
}

// Sample b's spikes of all layers, summed over time.
template <class acc_t>
void online_counts(const OnlineBatch<acc_t>& p, int64_t b) {
  for (int64_t l = 0; l < p.layers; ++l) {
    const OnlineLayer<acc_t>& layer = p.layer[l];
    int32_t* counts = layer.counts + b * p.counts_stride;
    for (int64_t first = 0; first < layer.neurons; first += kWordBits) {
      int32_t sums[kWordBits] = {};
      for (int64_t t = 0; t < p.T; ++t) {
        const uint32_t word = spikes_at(p, layer, b, t)[first / kWordBits * p.B];
        for (int64_t i = 0; i < kWordBits; ++i) sums[i] += int32_t(word >> i & 1u);
      }
      for (int64_t i = 0; i < kWordBits && first + i < layer.neurons; ++i) counts[first + i] = sums[i];
    }
  }
}

#include "online_inputs.inl"
#include "online_tiles.inl"
