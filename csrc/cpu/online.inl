// The online rule, one time step in sweeps over independent tasks: the samples through the first layer, the tiles of
// each later layer, which are updated by the errors of the step before and then go forward, the samples again with the
// errors from the top down, and the rows of the first layer, which are updated at once. Each task is done by one thread
// in a fixed order, so the result does not depend on how many threads there are.

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

// What the trace e decays by from the step before: e[t] = decay * e'[t-1] + x[t], e'[t-1] = e[t-1] * (1 - spikes / D).
template <class acc_t>
SF_HD acc_t shared_trace_factor(const OnlineBatch<acc_t>& p, const OnlineLayer<acc_t>& layer, int64_t spikes) {
  const acc_t divisor = p.trace_divisor > acc_t(0) ? p.trace_divisor : acc_t(layer.in);
  return p.decay * (acc_t(1) - acc_t(spikes) / divisor);
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

  uint32_t* spikes = spikes_at(p, layer, b, t);
  if (t > 0) {
    const uint32_t* before = spikes_at(p, layer, b, t - 1);
    const int64_t now = t % p.depth, last = (t - 1) % p.depth;
    if (p.trace == Trace::shared) {
      layer.trace_factor[now * p.sample_width + b] = shared_trace_factor(p, layer, count_spikes(before, p.B, W_out));
    } else {
      uint16_t* age = layer.age + (now * p.B + b) * layer.out_width;
      std::memmove(age, layer.age + (last * p.B + b) * layer.out_width, layer.out_width * sizeof(uint16_t));
      for (int64_t w = 0; w < W_out; ++w) advance_age(age + w * kWordBits, before[w * p.B]);
    }
  }

  acc_t* potential = layer.potential + b * layer.out_width;
  for (int64_t w = 0; w < W_out; ++w) {
    const int64_t first = w * kWordBits;
    spikes[w * p.B] =
        integrate_word(p, own.row + first, layer.state + b * layer.out_width + first, kLine<acc_t>, potential + first);
  }
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

// a0 b0 a1 b1 ..., of the lower or of the upper halves
template <int half, class vec, int... i>
SF_HD vec interleave(vec a, vec b, std::integer_sequence<int, i...>) {
  constexpr int lanes = sizeof...(i);
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, (i / 2 + half * lanes / 2 + i % 2 * lanes)...);
#else
  vec result;
  ((result[i] = i % 2 ? b[i / 2 + half * lanes / 2] : a[i / 2 + half * lanes / 2]), ...);
  return result;
#endif
}

// to[c][r] = from[r][c], both sides a multiple of a vector. After log2(lanes) rounds in which each row is interleaved
// with the one half a square below, a square of vectors is transposed.
template <class acc_t>
void transpose(const acc_t* from, int64_t from_stride, int64_t rows, int64_t columns, acc_t* to, int64_t to_stride) {
  using vec = typename VectorOf<acc_t, SF_VECTOR_BYTES>::type;
  constexpr int lanes = VectorOf<acc_t, SF_VECTOR_BYTES>::lanes;
  using order = std::make_integer_sequence<int, lanes>;
  for (int64_t c = 0; c < columns; c += lanes) {
    for (int64_t r = 0; r < rows; r += lanes) {
      vec a[lanes], b[lanes];
      SF_UNROLL
      for (int i = 0; i < lanes; ++i) a[i] = *reinterpret_cast<const vec*>(from + (r + i) * from_stride + c);
      for (int round = 1; round < lanes; round *= 2) {
        SF_UNROLL
        for (int i = 0; i < lanes / 2; ++i) {
          b[2 * i] = interleave<0>(a[i], a[i + lanes / 2], order{});
          b[2 * i + 1] = interleave<1>(a[i], a[i + lanes / 2], order{});
        }
        SF_UNROLL
        for (int i = 0; i < lanes; ++i) a[i] = b[i];
      }
      SF_UNROLL
      for (int i = 0; i < lanes; ++i) *reinterpret_cast<vec*>(to + (c + i) * to_stride + r) = a[i];
    }
  }
}

// Tile i of a later layer from the caller's weights, and its rows from the tile.
template <class acc_t>
void load_tile(const OnlineLayer<acc_t>& layer, int64_t i, acc_t* tile) {
  const int64_t first = i * kWordBits;
  const int64_t count = layer.out - first < kWordBits ? layer.out - first : kWordBits;
  for (int64_t n = 0; n < layer.in; ++n) {
    const acc_t* from = layer.stored + n * layer.stored_in + first * layer.stored_out;
    for (int64_t j = 0; j < count; ++j) tile[n * kWordBits + j] = from[j * layer.stored_out];
  }
  transpose(tile, kWordBits, layer.in_stride, kWordBits, layer.weight + first * layer.in_stride, layer.in_stride);
}

template <class acc_t>
void store_tile(const OnlineLayer<acc_t>& layer, int64_t i, const acc_t* tile) {
  const int64_t first = i * kWordBits;
  const int64_t count = layer.out - first < kWordBits ? layer.out - first : kWordBits;
  for (int64_t n = 0; n < layer.in; ++n) {
    acc_t* to = layer.stored + n * layer.stored_in + first * layer.stored_out;
    for (int64_t j = 0; j < count; ++j) to[j * layer.stored_out] = tile[n * kWordBits + j];
  }
}

// The first layer's rows of inputs 32 w ... 32 w + 31, where the caller's are no whole lines in input-major order.
template <class acc_t>
void load_inputs(const OnlineLayer<acc_t>& layer, int64_t w) {
  for (int64_t n = w * kWordBits; n < layer.in && n < (w + 1) * kWordBits; ++n) {
    acc_t* to = layer.weight + n * layer.out_stride;
    for (int64_t m = 0; m < layer.out; ++m) to[m] = layer.stored[n * layer.stored_in + m * layer.stored_out];
    for (int64_t m = layer.out; m < layer.out_stride; ++m) to[m] = acc_t(0);
  }
}

template <class acc_t>
void store_inputs(const OnlineLayer<acc_t>& layer, int64_t w) {
  for (int64_t n = w * kWordBits; n < layer.in && n < (w + 1) * kWordBits; ++n) {
    const acc_t* from = layer.weight + n * layer.out_stride;
    for (int64_t m = 0; m < layer.out; ++m) layer.stored[n * layer.stored_in + m * layer.stored_out] = from[m];
  }
}

// Update of the 32 output rows of tile i by the errors of time step t; returns whether any weight may have changed. A
// row that has had no error in this batch has no gradient and no moments, only its weight decay.
template <class acc_t>
bool update_tile(const OnlineBatch<acc_t>& p, const OnlineLayer<acc_t>& layer, int64_t i, int64_t t) {
  constexpr int64_t line = kLine<acc_t>;
  const UpdateStep<acc_t>& step = p.step[t];
  const int64_t first = i * kWordBits;
  const int64_t count = layer.out - first < kWordBits ? layer.out - first : kWordBits;
  const int64_t windows = p.trace == Trace::gated ? p.T : 1;
  const acc_t* delta = layer.delta + i * p.B * kWordBits;
  uint32_t learning = step.l2 == acc_t(0) ? layer.learning[i] : t == 0 ? 0u : ~0u;
  for (int64_t j = 0; j < count; ++j) {
    const int64_t m = first + j;
    // the output layer's errors are listed, a hidden layer's are dense
    const int32_t* samples = layer.error_count ? layer.error_samples + m * p.B : nullptr;
    const int64_t errors = layer.error_count ? layer.error_count[m] : p.B;
    const bool first_update = !(learning >> j & 1u);
    acc_t* weight = layer.weight + m * layer.in_stride;
    if (first_update && errors == 0 && step.l2 == acc_t(0)) {
      if (step.shrink != acc_t(1))
        for (int64_t n = 0; n < layer.in_stride; ++n) weight[n] *= step.shrink;
      continue;
    }
    learning |= 1u << j;
    const auto sample = [=](int64_t k) { return samples ? int64_t(samples[k]) : k; };
    for_each_part(layer.in_stride / line, [&](int64_t part, auto lines) {
      update_lines<lines>(
          p, layer, step, first_update, m * layer.in_stride + part * line, errors,
          [&](int64_t k) {
            const int64_t b = sample(k);
            const int64_t window = layer.age ? layer.age[b * layer.out_width + m] : 0;
            return layer.trace + (b * windows + window) * layer.in_stride + part * line;
          },
          [&](int64_t k) { return delta[sample(k) * kWordBits + j]; });
    });
  }
  layer.learning[i] = learning;
  return learning != 0 || step.shrink != acc_t(1);
}

// z [lines, B, one line] of tile i: the weights of the inputs that spiked, summed by events or by table lookup.
template <class acc_t>
void multiply_tile(const OnlineBatch<acc_t>& p, int64_t l, int64_t t, const acc_t* tile,
                   const OnlineScratch<acc_t>& own) {
  const OnlineLayer<acc_t>& layer = p.layer[l];
  constexpr int64_t lines = kWordLines<acc_t>, line = kLine<acc_t>;
  const int64_t W = words_for(layer.in);
  acc_t* z = own.tile;
  for (int64_t i = 0; i < p.B * kWordBits; ++i) z[i] = acc_t(0);
  int64_t events = 0;
  for (int64_t b = 0; b < p.B; ++b) events += layer.events_end[b] - layer.events_begin[b];
  if (double(events) <= double(W) * (kTableBuild + kTableUse * double(p.B)))
    return add_events<lines>(tile, layer.events_begin, layer.events_end, layer.events, p.B, z);
  const uint32_t* spikes = spikes_at(p, p.layer[l - 1], 0, t);
  for (int64_t w = 0; w < W; w += kTableWords) {
    for (int64_t b = 0; b < p.B; ++b)
      for (int64_t j = 0; j < kTableWords; ++j)
        own.bits[b * kTableWords + j] = w + j < W ? spikes[(w + j) * p.B + b] : 0u;
    for (int64_t j = 0; j < lines; ++j) {
      build_tables(tile + w * kWordBits * kWordBits + j * line, kWordBits, kTableWords, own.table);
      add_tables(own.table, own.bits, p.B, z + j * p.B * line);
    }
  }
}

// Tile i of a later layer, 32 neurons: its update by the step before, and while its weights are in the cache, all
// samples forward. The tile of step 0 is read from the caller's weights; step T updates for the last time and gives it
// back.
template <class acc_t>
void online_tile(const OnlineBatch<acc_t>& p, int64_t l, int64_t i, int64_t t, const OnlineScratch<acc_t>& own) {
  OnlineLayer<acc_t>& layer = p.layer[l];
  constexpr int64_t line = kLine<acc_t>;
  const int64_t first = i * kWordBits, W = words_for(layer.out);
  const int64_t neurons = layer.out - first < kWordBits ? layer.out - first : kWordBits;
  acc_t* tile = layer.tiles + i * layer.tile_inputs * kWordBits;
  if (t == 0) {
    load_tile(layer, i, tile);
  } else if (update_tile(p, layer, i, t - 1)) {
    transpose(layer.weight + first * layer.in_stride, layer.in_stride, kWordBits, layer.in_stride, tile, kWordBits);
  }
  if (t == p.T) return store_tile(layer, i, tile);
  multiply_tile(p, l, t, tile, own);

  const bool is_output = l + 1 == p.layers;
  if (is_output)
    for (int64_t m = first; m < first + neurons; ++m) layer.error_count[m] = 0;
  acc_t* state = layer.state + i * p.B * kWordBits;
  acc_t* delta = layer.delta + i * p.B * kWordBits;
  acc_t squares[kWordBits] = {};
  int64_t open_errors = 0;
  for (int64_t b = 0; b < p.B; ++b) {
    acc_t v[kWordBits];
    const int64_t row = b * layer.out_width + first;
    if (layer.age && t > 0) advance_age(layer.age + row, spikes_at(p, layer, b, t - 1)[i * p.B]);
    const uint32_t spikes = integrate_word(p, own.tile + b * line, state + b * line, p.B * line, v);
    spikes_at(p, layer, b, t)[i * p.B] = spikes;
    if (!is_output) {
      for (int64_t j = 0; j < kWordBits; ++j) layer.potential[row + j] = v[j];
      continue;
    }
    const uint32_t target = p.target[(t * p.B + b) * W + i];
    const uint32_t open = word_error(p, neurons, target, spikes, v, delta + b * kWordBits, squares);
    for (uint32_t rest = open; rest; rest &= rest - 1) {
      const int64_t m = first + __builtin_ctz(rest);
      layer.error_samples[m * p.B + layer.error_count[m]++] = int32_t(b);
    }
    layer.open[i * p.B + b] = open;
    open_errors += __builtin_popcount(open);
  }
  if (is_output) {
    p.loss[i] += loss_of(squares);
    p.open_errors[i] += open_errors;
  }
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

// windows[a] <- decay * windows[a - 1] + x[t], descending so that it can be done in place
template <class acc_t>
void advance_windows(acc_t decay, const uint32_t* x, int64_t stride, int64_t t, int64_t width, acc_t* windows) {
  using vec = typename VectorOf<acc_t, SF_VECTOR_BYTES>::type;
  constexpr int lanes = VectorOf<acc_t, SF_VECTOR_BYTES>::lanes;
  for (int64_t n = 0; n < width; n += lanes) {
    const vec spike = spread_bits<acc_t>(x[n / kWordBits * stride] >> (n % kWordBits));
    acc_t* window = windows + t * width + n;
    for (int64_t a = t; a > 0; --a, window -= width)
      *reinterpret_cast<vec*>(window) = multiply_add(decay, *reinterpret_cast<const vec*>(window - width), spike);
    *reinterpret_cast<vec*>(window) = spike;
  }
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
    for (int64_t n = layer.in_stride; n < below.out_width; ++n) own.row[n] = acc_t(0);
    if (l == 1)
      hidden_error(p, below, b, own.row, below.delta + (t % p.depth * p.B + b) * below.out_width, kWordBits);
    else
      hidden_error(p, below, b, own.row, below.delta + b * kWordBits, p.B * kWordBits);
    if (p.trace == Trace::shared) {
      const acc_t factor = layer.trace_factor[b];
      advance_shared_trace<acc_t>([=](int64_t) { return factor; }, x, p.B, layer.in_stride,
                                  layer.trace + b * layer.in_stride);
      layer.trace_factor[b] = shared_trace_factor(p, layer, count_spikes(spikes_at(p, layer, b, t), p.B, W));
    } else {
      advance_windows(p.decay, x, p.B, t, layer.in_stride, layer.trace + b * p.T * layer.in_stride);
    }
  }
}

// 64 steps of the history of (input, sample), of which the newest is its bit `at`, as bit 0.
SF_HD uint64_t recent_history(const uint64_t* history, int64_t at) {
  const int64_t word = at / 64, bit = at % 64;
  return bit ? history[word] >> bit | history[word + 1] << (64 - bit) : history[word];
}

// Window sums of ages 0 ... t, and up to whole bytes. table [256, 8] holds those of 8 steps: a later byte's begin where
// the one before it ended, and count decay^8 for each byte between.
template <class acc_t>
void make_window(const acc_t* table, acc_t decay8, const uint64_t* history, int64_t shift, int64_t bytes,
                 acc_t* window) {
  acc_t carried = 0, power = 1;
  for (int64_t i = 0; i < bytes; ++i, power *= decay8) {
    const acc_t* sums = table + (recent_history(history, shift + 8 * i) & 255u) * 8;
    for (int64_t a = 0; a < 8; ++a) window[8 * i + a] = fused_multiply_add(power, sums[a], carried);
    carried = window[8 * i + 7];
  }
}

#if SF_VECTOR_BYTES == 64
// Up to 128 window sums in eight registers, looked up for 16 neurons at once by permutation.
template <int registers>
struct Window {
  __m512 sums[registers];

  SF_HD void make(const float* table, float decay8, const uint64_t* history, int64_t shift) {
    __m256 carried = _mm256_setzero_ps(), half[2];
    float power = 1;
    uint64_t recent = 0;
    SF_UNROLL
    for (int i = 0; i < 2 * registers; ++i, recent >>= 8, power *= decay8) {
      if (i % 8 == 0) recent = recent_history(history, shift + 8 * i);
      half[i % 2] = _mm256_fmadd_ps(_mm256_set1_ps(power), _mm256_loadu_ps(table + (recent & 255u) * 8), carried);
      carried = _mm256_permutexvar_ps(_mm256_set1_epi32(7), half[i % 2]);
      if (i % 2) sums[i / 2] = _mm512_insertf32x8(_mm512_castps256_ps512(half[0]), half[1], 1);
    }
  }
  // those of `count` registers, a power of two, from the first
  template <int count>
  SF_HD __m512 at(int first, __m512i age) const {
    if constexpr (count == 1) return _mm512_permutexvar_ps(age, sums[first]);
    if constexpr (count == 2) return _mm512_permutex2var_ps(sums[first], age, sums[first + 1]);
    if constexpr (count > 2) {
      const __mmask16 upper = _mm512_test_epi32_mask(age, _mm512_set1_epi32(8 * count));
      return _mm512_mask_blend_ps(upper, at<count / 2>(first, age), at<count / 2>(first + count / 2, age));
    }
  }
};

// Steps begin ... end of the updates of input n's weights: gradients sum, over the samples in which n has spiked,
// delta[b, m] * the window sum that neuron (b, m)'s age picks.
template <int registers>
SF_HD void update_gated_row(const OnlineBatch<float>& p, const OnlineLayer<float>& layer, int64_t n, int64_t begin,
                            int64_t end, bool first_update, float decay8) {
  const int32_t* samples = layer.active_sample + n * p.list_stride(p.B);
  const uint64_t* history = layer.history + n * p.B * p.history_words;
  const int64_t count = layer.active_count[n];
  for_each_part(layer.out_stride / 16, [&](int64_t first, auto lines) {
    const int64_t at = n * layer.out_stride + first * 16;
    for (int64_t t = begin; t < end; ++t) {
      __m512 sum[lines];
      SF_UNROLL
      for (int j = 0; j < lines; ++j) sum[j] = _mm512_setzero_ps();
      for (int64_t k = 0; k < count; ++k) {
        const int64_t row = (t % p.depth * p.B + samples[k]) * layer.out_width + first * 16;
        Window<registers> window;
        window.make(p.window_table, decay8, history + samples[k] * p.history_words, p.T - 1 - t);
        SF_UNROLL
        for (int j = 0; j < lines; ++j) {
          const __m512i age =
              _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(layer.age + row + j * 16)));
          sum[j] = _mm512_fmadd_ps(_mm512_loadu_ps(layer.delta + row + j * 16), window.template at<registers>(0, age),
                                   sum[j]);
        }
      }
      float gradient[lines * 16];
      SF_UNROLL
      for (int j = 0; j < lines; ++j) _mm512_storeu_ps(gradient + j * 16, sum[j]);
      update_weights(p, layer, p.step[t], first_update && t == begin, gradient, lines * 16, at);
    }
  });
}
#endif

template <class acc_t>
void update_gated_row(const OnlineBatch<acc_t>& p, const OnlineLayer<acc_t>& layer, int64_t n, int64_t begin,
                      int64_t end, bool first_update, const OnlineScratch<acc_t>& own) {
  acc_t decay8 = 1;
  for (int i = 0; i < 8; ++i) decay8 *= p.decay;
#if SF_VECTOR_BYTES == 64
  if constexpr (std::is_same_v<acc_t, float>) {
    if (end <= 16) return update_gated_row<1>(p, layer, n, begin, end, first_update, decay8);
    if (end <= 32) return update_gated_row<2>(p, layer, n, begin, end, first_update, decay8);
    if (end <= 64) return update_gated_row<4>(p, layer, n, begin, end, first_update, decay8);
    if (end <= 128) return update_gated_row<8>(p, layer, n, begin, end, first_update, decay8);
  }
#endif
  acc_t* gradient = own.row;
  for (int64_t t = begin; t < end; ++t) {
    for (int64_t m = 0; m < layer.out_stride; ++m) gradient[m] = acc_t(0);
    for (int64_t k = 0; k < layer.active_count[n]; ++k) {
      const int64_t b = layer.active_sample[n * p.list_stride(p.B) + k];
      make_window(p.window_table, decay8, layer.history + (n * p.B + b) * p.history_words, p.T - 1 - t, t / 8 + 1,
                  own.window);
      const int64_t row = (t % p.depth * p.B + b) * layer.out_width;
      for (int64_t m = 0; m < layer.out_stride; ++m)
        gradient[m] = fused_multiply_add(layer.delta[row + m], own.window[layer.age[row + m]], gradient[m]);
    }
    update_weights(p, layer, p.step[t], first_update && t == begin, gradient, layer.out_stride, n * layer.out_stride);
  }
}

// Bit b of x_sample[i] [words(B)] is the spike of input 32 w + i in sample b.
inline void transpose_samples(const uint32_t* x, int64_t stride, int64_t B, uint32_t* by_input) {
  const int64_t sample_words = words_for(B);
  for (int64_t s = 0; s < sample_words; ++s) {
    uint32_t block[kWordBits];
    for (int64_t i = 0; i < kWordBits; ++i) {
      const int64_t b = s * kWordBits + i;
      block[i] = b < B ? x[b * stride] : 0u;
    }
    transpose_bits(block);
    for (int64_t i = 0; i < kWordBits; ++i) by_input[i * sample_words + s] = block[i];
  }
}

// Enters the spikes of input n at step t: into its history, and new samples into the list of those it is active in.
template <class acc_t>
SF_HD void enter_spikes(const OnlineBatch<acc_t>& p, OnlineLayer<acc_t>& layer, int64_t n, int64_t t,
                        const uint32_t* x) {
  const int64_t sample_words = words_for(p.B);
  uint32_t* active = layer.active + n * sample_words;
  int32_t* next = layer.active_sample + n * p.list_stride(p.B) + layer.active_count[n];
  const int64_t bit = p.T - 1 - t;
  for (int64_t s = 0; s < sample_words; ++s) {
    if (const uint32_t fresh = x[s] & ~active[s]) {
      next = append_positions(fresh, s * kWordBits, next);
      active[s] |= fresh;
    }
    if (!layer.history) continue;
    for (uint32_t rest = x[s]; rest; rest &= rest - 1) {
      const int64_t b = s * kWordBits + __builtin_ctz(rest);
      layer.history[(n * p.B + b) * p.history_words + bit / 64] |= uint64_t(1) << (bit % 64);
    }
  }
  layer.active_count[n] = int32_t(next - (layer.active_sample + n * p.list_stride(p.B)));
}

// The weight decay of a silent row that it has not had yet, up to and without step t. One product a step, as a row that
// is updated at every step has.
template <class acc_t>
void decay_row(const OnlineBatch<acc_t>& p, OnlineLayer<acc_t>& layer, int64_t n, int64_t t) {
  const acc_t shrink = p.step[0].shrink;
  acc_t* w = layer.weight + n * layer.out_stride;
  for (int64_t s = layer.done[n]; s < t && shrink != acc_t(1); ++s)
    for (int64_t m = 0; m < layer.out_stride; ++m) w[m] *= shrink;
  layer.done[n] = int32_t(t);
}

// The shared trace of input n at steps layer.done[n] ... t, for the samples it is active in: coefficient [steps, B].
// Since the first of these steps the input has not spiked, or the row would have had its update.
template <class acc_t>
void list_shared_traces(const OnlineBatch<acc_t>& p, OnlineLayer<acc_t>& layer, int64_t n, int64_t t,
                        acc_t* coefficient) {
  acc_t* e = layer.trace + n * p.sample_width;
  const int32_t* samples = layer.active_sample + n * p.list_stride(p.B);
  for (int64_t s = layer.done[n]; s <= t; ++s, coefficient += p.B) {
    const acc_t* factor = layer.trace_factor + s % p.depth * p.sample_width;
    if (layer.traced[n] <= s) {
      for (int64_t k = 0; k < layer.active_count[n]; ++k) e[samples[k]] = factor[samples[k]] * e[samples[k]];
      layer.traced[n] = int32_t(s + 1);
    }
    for (int64_t k = 0; k < layer.active_count[n]; ++k) coefficient[k] = e[samples[k]];
  }
}

// The updates up to step t of those of the rows first ... first + 31 whose bit is set, by the shared trace. All rows
// take their lines of the errors in turn, few enough of them to stay in the caches.
template <class acc_t>
void update_shared_rows(const OnlineBatch<acc_t>& p, OnlineLayer<acc_t>& layer, int64_t first, uint32_t rows,
                        uint32_t first_updates, int64_t t, const OnlineScratch<acc_t>& own) {
  constexpr int64_t line = kLine<acc_t>;
  for (uint32_t rest = rows; rest; rest &= rest - 1) {
    const int i = __builtin_ctz(rest);
    list_shared_traces(p, layer, first + i, t, own.coefficient + i * p.depth * p.B);
  }
  for_each_part(layer.out_stride / line, [&](int64_t part, auto lines) {
    for (uint32_t rest = rows; rest; rest &= rest - 1) {
      const int i = __builtin_ctz(rest);
      const int64_t n = first + i, begin = layer.done[n];
      const int32_t* samples = layer.active_sample + n * p.list_stride(p.B);
      const acc_t* coefficient = own.coefficient + i * p.depth * p.B;
      for (int64_t s = begin; s <= t; ++s, coefficient += p.B) {
        const acc_t* delta = layer.delta + s % p.depth * p.B * layer.out_width + part * line;
        update_lines<lines>(
            p, layer, p.step[s], s == begin && (first_updates >> i & 1u), n * layer.out_stride + part * line,
            layer.active_count[n], [=](int64_t k) { return delta + samples[k] * layer.out_width; },
            [=](int64_t k) { return coefficient[k]; });
      }
    }
  });
}

// The first layer's rows of inputs 32 w ... 32 w + 31 at step t. Inputs are known beforehand: the updates of a row wait
// until the row is read, at the step before its input's next spike or at the end of the batch, or until no more steps
// can be kept. Then they are done one after the other while the row is in the cache, the same as if they had been done
// at once. A row whose input has not spiked in this batch has no gradient and no moments, only its weight decay; decay
// of the "l2" kind makes gradients, so that every row takes part.
template <class acc_t>
void online_inputs(const OnlineBatch<acc_t>& p, int64_t w, int64_t t, const OnlineScratch<acc_t>& own) {
  using vec = typename VectorOf<acc_t, SF_VECTOR_BYTES>::type;
  OnlineLayer<acc_t>& layer = p.layer[0];
  const bool l2 = p.step[t].l2 != acc_t(0);
  const int64_t first = w * kWordBits, W = words_for(layer.in), sample_words = words_for(p.B);
  const int64_t inputs = layer.in - first < kWordBits ? layer.in - first : kWordBits;
  transpose_samples(p.input + t * p.B * W + w, W, p.B, own.bits);
  uint32_t read_next = t + 1 == p.T ? ~0u : 0u, spiking = 0;
  for (int64_t b = 0; b < p.B; ++b) spiking |= p.input[(t * p.B + b) * W + w];
  if (t + 1 < p.T)
    for (int64_t b = 0; b < p.B; ++b) read_next |= p.input[((t + 1) * p.B + b) * W + w];

  uint32_t rows = 0;
  for (int64_t i = 0; i < inputs; ++i) {
    const int64_t n = first + i;
    if (spiking >> i & 1u) {
      const uint32_t* x = own.bits + i * sample_words;
      enter_spikes(p, layer, n, t, x);
      if (p.trace == Trace::shared) {
        const acc_t* factor = layer.trace_factor + t % p.depth * p.sample_width;
        advance_shared_trace([=](int64_t b) { return *reinterpret_cast<const vec*>(factor + b); }, x, 1, p.sample_width,
                             layer.trace + n * p.sample_width);
        layer.traced[n] = int32_t(t + 1);
      }
    }
    const bool read = read_next >> i & 1u;
    if (layer.active_count[n] == 0 && !l2) {
      if (read) decay_row(p, layer, n, t + 1);
    } else if (read || t + 1 - layer.done[n] == p.depth) {
      rows |= 1u << i;
    }
  }
  const uint32_t first_updates = rows & ~layer.learning[w];
  if (p.trace == Trace::shared) update_shared_rows(p, layer, first, rows, first_updates, t, own);
  for (uint32_t rest = rows; rest; rest &= rest - 1) {
    const int i = __builtin_ctz(rest);
    const int64_t n = first + i;
    if (p.trace == Trace::gated) update_gated_row(p, layer, n, layer.done[n], t + 1, first_updates >> i & 1u, own);
    layer.done[n] = int32_t(t + 1);
  }
  layer.learning[w] |= rows;
  if (t + 1 == p.T && layer.weight != layer.stored) store_inputs(layer, w);
}

// Sample b's spikes of all layers, summed over time.
template <class acc_t>
void online_counts(const OnlineBatch<acc_t>& p, int64_t b) {
  for (int64_t l = 0; l < p.layers; ++l) {
    const OnlineLayer<acc_t>& layer = p.layer[l];
    int32_t* counts = layer.counts + b * p.counts_stride;
    for (int64_t first = 0; first < layer.out; first += kWordBits) {
      int32_t sums[kWordBits] = {};
      for (int64_t t = 0; t < p.T; ++t) {
        const uint32_t word = spikes_at(p, layer, b, t)[first / kWordBits * p.B];
        for (int64_t i = 0; i < kWordBits; ++i) sums[i] += int32_t(word >> i & 1u);
      }
      for (int64_t i = 0; i < kWordBits && first + i < layer.out; ++i) counts[first + i] = sums[i];
    }
  }
}
