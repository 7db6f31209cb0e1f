// The online rule, one time step in two sweeps: every sample goes forward and gets its errors (online_sample), then
// every weight row gets its gradient, never stored beyond the row, and its update (update_*). Each sample and each row
// is computed by one thread in a fixed order, so the result does not depend on how many threads there are.

#include "gather.h"

// Writes v[t], the spike words and v'[t]; returns the number of spikes.
template <class acc_t>
int64_t integrate_layer(const OnlineBatch<acc_t>& p, const OnlineLayer<acc_t>& layer, int64_t b, const acc_t* z,
                        acc_t* v) {
  acc_t* state = layer.state + b * layer.out;
  int32_t* counts = layer.counts + b * p.counts_stride;
  uint32_t* spikes = layer.spikes + b * words_for(layer.out);
  const acc_t threshold = p.threshold, decay = p.decay;
  const bool clamp = p.v_clamp;
  for (int64_t m = 0; m < layer.out; ++m) {
    acc_t vm = lif_integrate(decay, state[m], z[m]);
    const bool spike = lif_fires(vm, threshold);
    state[m] = lif_reset(Reset::zero, vm, spike, threshold);
    vm = clamp && vm > threshold ? threshold : vm;
    counts[m] += spike;
    v[m] = vm;
  }
  int64_t total = 0;
  for (int64_t w = 0; w < words_for(layer.out); ++w) {
    const acc_t* values = v + w * kWordBits;
    const int64_t rest = layer.out - w * kWordBits;
    uint32_t word = 0;
    if (rest >= kWordBits) {
      uint32_t bit[kWordBits];
      for (int i = 0; i < kWordBits; ++i) bit[i] = lif_fires(values[i], threshold) ? 1u << i : 0u;
      for (int i = 0; i < kWordBits; ++i) word |= bit[i];
    } else {
      for (int i = 0; i < rest; ++i) word |= uint32_t(lif_fires(values[i], threshold)) << i;
    }
    spikes[w] = word;
    total += __builtin_popcount(word);
  }
  return total;
}

// e[t] = decay * e'[t-1] + x[t], e'[t-1] = e[t-1] * (1 - spikes / D)
template <class acc_t>
void advance_shared_trace(const OnlineBatch<acc_t>& p, const OnlineLayer<acc_t>& layer, int64_t b, const int32_t* list,
                          int64_t count) {
  acc_t* e = layer.trace + b * layer.in;
  const acc_t factor = p.decay * layer.trace_scale[b];
  for (int64_t n = 0; n < layer.in; ++n) e[n] = factor * e[n];
  for (int64_t k = 0; k < count; ++k) e[list[k]] += acc_t(1);
}

// window[a] <- decay * window[a - 1] + x[t], descending so that it can be done in place
template <class acc_t>
void advance_gated_trace(const OnlineBatch<acc_t>& p, const OnlineLayer<acc_t>& layer, bool first, int64_t b, int64_t t,
                         const uint32_t* x, const int32_t* list, int64_t count) {
  const acc_t decay = p.decay;
  if (first) {
    const uint32_t* active = layer.nonzero + b * words_for(layer.in);
    for (int64_t w = 0; w < words_for(layer.in); ++w) {
      for (uint32_t word = active[w]; word; word &= word - 1) {
        const int64_t n = w * kWordBits + __builtin_ctz(word);
        acc_t* window = layer.trace + (b * layer.in + n) * p.window;
        const acc_t spike = spike_at(x, n) ? acc_t(1) : acc_t(0);
        for (int64_t a = t; a > 0; --a) window[a] = fused_multiply_add(decay, window[a - 1], spike);
        window[0] = spike;
      }
    }
    return;
  }
  acc_t* windows = layer.trace + b * p.window * layer.in;
  for (int64_t a = t; a > 0; --a) {
    const acc_t* shorter = windows + (a - 1) * layer.in;
    acc_t* window = windows + a * layer.in;
    for (int64_t n = 0; n < layer.in; ++n) window[n] = decay * shorter[n];
  }
  for (int64_t n = 0; n < layer.in; ++n) windows[n] = acc_t(0);
  for (int64_t a = 0; a <= t; ++a)
    for (int64_t k = 0; k < count; ++k) windows[a * layer.in + list[k]] += acc_t(1);
}

template <class acc_t>
void advance_trace(const OnlineBatch<acc_t>& p, OnlineLayer<acc_t>& layer, bool first, int64_t b, int64_t t,
                   const uint32_t* x, const int32_t* list, int64_t count) {
  if (first) {
    uint32_t* active = layer.nonzero + b * words_for(layer.in);
    for (int64_t w = 0; w < words_for(layer.in); ++w) active[w] |= x[w] & neurons_of_word(w, layer.in);
  }
  if (p.trace == Trace::shared) {
    advance_shared_trace(p, layer, b, list, count);
    return;
  }
  advance_gated_trace(p, layer, first, b, t, x, list, count);
  // A neuron that spiked at t-1 has a trace that began at t: its window is one step long.
  int32_t* age = layer.age + b * layer.out;
  const uint32_t* spiked = layer.spikes + b * words_for(layer.out);
  for (int64_t m = 0; m < layer.out; ++m) age[m] = t == 0 || spike_at(spiked, m) ? 0 : age[m] + 1;
}

// delta_out[t] = -E[t] where the mask is open (eqs 6-7, 13); appends the open outputs to `list` and returns how many.
template <class acc_t>
int64_t output_error(const OnlineBatch<acc_t>& p, OnlineLayer<acc_t>& layer, int64_t b, int64_t t, const acc_t* v,
                     int32_t* list) {
  const int64_t W = words_for(layer.out);
  const uint32_t* target = p.target + (t * p.B + b) * W;
  const uint32_t* spikes = layer.spikes + b * W;
  acc_t* delta = layer.delta + b * layer.out;
  for (int64_t m = 0; m < layer.out; ++m) delta[m] = acc_t(0);
  int64_t count = 0;
  for (int64_t w = 0; w < W; ++w) {
    const uint32_t open = (target[w] ^ spikes[w]) & neurons_of_word(w, layer.out);
    count = append_set_bits(open, int32_t(w * kWordBits), list, count);
    if (p.layers > 1) layer.nonzero[b * W + w] = open;
  }
  double loss = 0;
  for (int64_t k = 0; k < count; ++k) {
    const int64_t m = list[k];
    const acc_t error = masked_error(spike_at(target, m), spike_at(spikes, m), v[m], p.threshold);
    loss += 0.5 * double(error) * double(error);
    delta[m] = -error;
  }
  p.loss[b] += loss;
  p.open_errors[b] += count;
  return count;
}

// Forward through all layers at time step t, then the errors from the top down. `v` holds all layers' potentials, `z`
// and `list` the widest layer; `coefficient` goes with `list`.
template <class acc_t>
void online_sample(const OnlineBatch<acc_t>& p, int64_t b, int64_t t, acc_t* v, acc_t* z, int32_t* list,
                   acc_t* coefficient) {
  acc_t* v_layer = v;
  for (int64_t l = 0; l < p.layers; ++l) {
    OnlineLayer<acc_t>& layer = p.layer[l];
    const int64_t W = words_for(layer.in);
    const uint32_t* x = l == 0 ? p.input + (t * p.B + b) * W : p.layer[l - 1].spikes + b * W;
    const int64_t count = list_spikes(x, layer.in, list);
    advance_trace(p, layer, l == 0, b, t, x, list, count);
    gather_rows<false, acc_t>(layer.weight_in, layer.out, list, nullptr, count, layer.out, z);
    const int64_t spikes = integrate_layer(p, layer, b, z, v_layer);
    if (p.trace == Trace::shared) {
      const acc_t divisor = p.trace_divisor > acc_t(0) ? p.trace_divisor : acc_t(layer.in);
      layer.trace_scale[b] = acc_t(1) - acc_t(spikes) / divisor;
    }
    v_layer += layer.out;
  }
  v_layer -= p.layer[p.layers - 1].out;
  int64_t count = output_error(p, p.layer[p.layers - 1], b, t, v_layer, list);
  for (int64_t l = p.layers - 1; l > 0; --l) {
    // delta_l = (W_{l+1}^T delta_{l+1}) * ds/dv, of this time step only                                 (eqs 14-15)
    const OnlineLayer<acc_t>& above = p.layer[l];
    const acc_t* delta_above = above.delta + b * above.out;
    for (int64_t k = 0; k < count; ++k) coefficient[k] = delta_above[list[k]];
    gather_rows<true, acc_t>(above.weight_out, above.in, list, coefficient, count, above.in, z);
    const OnlineLayer<acc_t>& layer = p.layer[l - 1];
    v_layer -= layer.out;
    acc_t* delta = layer.delta + b * layer.out;
    const acc_t threshold = p.threshold, slope = p.slope;
    if (p.surrogate == Surrogate::sigmoid) {
      for (int64_t m = 0; m < layer.out; ++m) delta[m] = z[m] * surrogate_sigmoid(v_layer[m] - threshold, slope);
    } else {
      for (int64_t m = 0; m < layer.out; ++m)
        delta[m] = z[m] * surrogate_derivative(p.surrogate, v_layer[m] - threshold, slope);
    }
    for (int64_t m = 0; m < layer.out; ++m) list[m] = int32_t(m);
    count = layer.out;
  }
}

// w, m and v of one row from the row's gradient, summed over samples.
template <class acc_t>
void update_row(const OnlineBatch<acc_t>& p, const UpdateStep<acc_t>& step, const acc_t* gradient, acc_t batch_mean,
                int64_t count, acc_t* w, acc_t* m, acc_t* v) {
  if (p.optimizer == Optimizer::adam)
    for (int64_t i = 0; i < count; ++i) w[i] = adam_update(step, w[i], gradient[i] * batch_mean, m[i], v[i]);
  else
    for (int64_t i = 0; i < count; ++i) w[i] = sgd_update(step, w[i], gradient[i] * batch_mean);
}

#if SF_VECTOR_BYTES == 64
// windows[age] for 16 neurons at once: up to 64 window sums are held in four registers and looked up by permutation.
template <int registers>
SF_HD __m512 lookup_windows(const float* windows, __m512i age) {
  const __m512 low = _mm512_loadu_ps(windows);
  if constexpr (registers == 1) return _mm512_permutexvar_ps(age, low);
  const __m512 lower_half = _mm512_permutex2var_ps(low, age, _mm512_loadu_ps(windows + 16));
  if constexpr (registers <= 2) return lower_half;
  const __m512 upper_half = _mm512_permutex2var_ps(_mm512_loadu_ps(windows + 32), age, _mm512_loadu_ps(windows + 48));
  return _mm512_mask_blend_ps(_mm512_test_epi32_mask(age, _mm512_set1_epi32(32)), lower_half, upper_half);
}

template <int registers>
SF_HD void gated_vectors(const OnlineLayer<float>& layer, const float* windows, int64_t windows_stride,
                         const int32_t* list, int64_t count, int64_t columns, float* gradient) {
  for (int64_t m = 0; m < columns; m += 16) {
    const __mmask16 inside = columns - m < 16 ? __mmask16((1u << (columns - m)) - 1) : __mmask16(0xffff);
    __m512 sum = _mm512_setzero_ps();
    for (int64_t k = 0; k < count; ++k) {
      const int64_t offset = list[k] * layer.out + m;
      const __m512i age = _mm512_maskz_loadu_epi32(inside, layer.age + offset);
      const __m512 delta = _mm512_maskz_loadu_ps(inside, layer.delta + offset);
      sum = _mm512_fmadd_ps(delta, lookup_windows<registers>(windows + list[k] * windows_stride, age), sum);
    }
    _mm512_mask_storeu_ps(gradient + m, inside, sum);
  }
}
#endif

// gradient[m] = sum over the samples in `list` of delta[b, m] * the window sum that neuron (b, m)'s age picks
template <class acc_t>
void gated_gradient_row(const OnlineBatch<acc_t>& p, const OnlineLayer<acc_t>& layer, int64_t n, const int32_t* list,
                        int64_t count, acc_t* gradient) {
  const acc_t* windows = layer.trace + n * p.window;
  const int64_t windows_stride = layer.in * p.window;
#if SF_VECTOR_BYTES == 64
  if constexpr (std::is_same_v<acc_t, float>) {
    if (p.window <= 16) return gated_vectors<1>(layer, windows, windows_stride, list, count, layer.out, gradient);
    if (p.window <= 32) return gated_vectors<2>(layer, windows, windows_stride, list, count, layer.out, gradient);
    if (p.window <= 64) return gated_vectors<4>(layer, windows, windows_stride, list, count, layer.out, gradient);
  }
#endif
  for (int64_t m = 0; m < layer.out; ++m) gradient[m] = acc_t(0);
  for (int64_t k = 0; k < count; ++k) {
    const acc_t* window = windows + list[k] * windows_stride;
    const acc_t* delta = layer.delta + list[k] * layer.out;
    const int32_t* age = layer.age + list[k] * layer.out;
    for (int64_t m = 0; m < layer.out; ++m) gradient[m] = fused_multiply_add(delta[m], window[age[m]], gradient[m]);
  }
}

// The samples whose bit is set, for each of `rows` (at most 32) neighbouring neurons: lists[i] has room for B.
inline void list_samples(const uint32_t* bits, int64_t words, int64_t B, int64_t first, int64_t rows, int32_t* lists,
                         int64_t* counts) {
  for (int64_t i = 0; i < rows; ++i) counts[i] = 0;
  const uint32_t inside = rows < kWordBits ? (1u << rows) - 1 : ~0u;
  for (int64_t b = 0; b < B; ++b) {
    uint32_t word = bits[b * words + first / kWordBits] >> (first % kWordBits) & inside;
    for (; word; word &= word - 1) {
      const int i = __builtin_ctz(word);
      lists[i * B + counts[i]++] = int32_t(b);
    }
  }
}

// Update of the first layer's rows of inputs 32 w ... 32 w + 31. A row whose input has not spiked in this batch has no
// gradient and no moments: only its weight decay is left. `gradient` holds one row.
template <class acc_t>
void update_input_rows(const OnlineBatch<acc_t>& p, const UpdateStep<acc_t>& step, int64_t w, int32_t* lists,
                       acc_t* coefficient, acc_t* gradient) {
  OnlineLayer<acc_t>& layer = p.layer[0];
  const int64_t first = w * kWordBits;
  const int64_t rows = layer.in - first < kWordBits ? layer.in - first : kWordBits;
  const acc_t batch_mean = acc_t(1) / acc_t(p.B);
  int64_t counts[kWordBits];
  list_samples(layer.nonzero, words_for(layer.in), p.B, first, rows, lists, counts);
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t n = first + i;
    acc_t* weight = layer.weight_in + n * layer.out;
    const int32_t* list = lists + i * p.B;
    if (counts[i] == 0 && step.l2 == acc_t(0)) {
      if (step.shrink != acc_t(1))
        for (int64_t m = 0; m < layer.out; ++m) weight[m] *= step.shrink;
      continue;
    }
    if (p.trace == Trace::shared) {
      for (int64_t k = 0; k < counts[i]; ++k) coefficient[k] = layer.trace[list[k] * layer.in + n];
      gather_rows<true, acc_t>(layer.delta, layer.out, list, coefficient, counts[i], layer.out, gradient);
    } else {
      gated_gradient_row(p, layer, n, list, counts[i], gradient);
    }
    update_row(p, step, gradient, batch_mean, layer.out, weight, layer.m + n * layer.out, layer.v + n * layer.out);
  }
}

// Update of a later layer's output rows first ... first + rows - 1, and their columns of the input-major copy.
template <class acc_t>
void update_output_rows(const OnlineBatch<acc_t>& p, const UpdateStep<acc_t>& step, int64_t l, int64_t first,
                        int32_t* lists, acc_t* coefficient, acc_t* gradient) {
  OnlineLayer<acc_t>& layer = p.layer[l];
  const int64_t rows = layer.out - first < kOutputRows ? layer.out - first : kOutputRows;
  const acc_t batch_mean = acc_t(1) / acc_t(p.B);
  int64_t counts[kOutputRows];
  list_samples(layer.nonzero, words_for(layer.out), p.B, first, rows, lists, counts);
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t row = first + i;
    int32_t* list = lists + i * p.B;
    for (int64_t k = 0; k < counts[i]; ++k) {
      const int64_t neuron = list[k] * layer.out + row;
      coefficient[k] = layer.delta[neuron];
      if (p.trace == Trace::gated) list[k] = int32_t(list[k] * p.window + layer.age[neuron]);
    }
    gather_rows<true, acc_t>(layer.trace, layer.in, list, coefficient, counts[i], layer.in, gradient);
    update_row(p, step, gradient, batch_mean, layer.in, layer.weight_out + row * layer.in, layer.m + row * layer.in,
               layer.v + row * layer.in);
  }
  for (int64_t n = 0; n < layer.in; ++n)
    for (int64_t i = 0; i < rows; ++i)
      layer.weight_in[n * layer.out + first + i] = layer.weight_out[(first + i) * layer.in + n];
}
