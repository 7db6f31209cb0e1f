// First layer of the online rule. Its inputs are sparse: this schedules and computes the updates of its rows of
// weights.
#if defined(SF_ONLINE_ROWS_INL) == defined(SF_ISA_PARITY)
#if defined(SF_ONLINE_ROWS_INL)
#undef SF_ONLINE_ROWS_INL
#else
#define SF_ONLINE_ROWS_INL
#endif

#include <type_traits>

#include "gather.inl"
#include "online_batch.h"
#include "online_traces.inl"
#include "online_updates.inl"

namespace spikefuse::cpu::SF_ISA {

// Loads the rows of inputs 32 w ... 32 w + 31, if the caller's weights are not whole lines in input-major order.
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

#if SF_VECTOR_BYTES == 64
// Updates input n's weights by steps begin ... end. The gradient of weight m is the sum of delta[b, m] * window[age[b,
// m]] over the samples b in which n has spiked.
template <int registers>
SF_HD void update_gated_row(const OnlineBatch<float>& p, const OnlineLayer<float>& layer, int64_t n, int64_t begin,
                            int64_t end, bool first_update, float decay8) {
  const int32_t* samples = layer.active_sample + n * p.list_stride(p.B);
  const uint64_t* history = layer.history + n * p.B * p.history_words;
  const int64_t count = layer.active_count[n];
  for_each_part(layer.out_stride / 16, [&](int64_t first, auto part_lines) {
    constexpr int lines = decltype(part_lines)::value;
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
                      int64_t end, bool first_update, const OnlineScratch<acc_t>& scratch) {
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
  acc_t* gradient = scratch.row;
  const int64_t neurons = layer.out_stride;
  for (int64_t t = begin; t < end; ++t) {
    for (int64_t m = 0; m < neurons; ++m) gradient[m] = acc_t(0);
    for (int64_t k = 0; k < layer.active_count[n]; ++k) {
      const int64_t b = layer.active_sample[n * p.list_stride(p.B) + k], shift = p.T - 1 - t;
      const uint64_t* history = layer.history + (n * p.B + b) * p.history_words;
      const int64_t row = (t % p.depth * p.B + b) * layer.out_width;
      const acc_t* delta = layer.delta + row;
      const uint16_t* ages = layer.age + row;
      WindowChanges<acc_t> changes;
      switch (changes.list(p.window_table, decay8, history, shift, t)) {
        case 1:
          changes.template add<1>(delta, ages, neurons, gradient);
          break;
        case 2:
          changes.template add<2>(delta, ages, neurons, gradient);
          break;
        case 3:
          changes.template add<3>(delta, ages, neurons, gradient);
          break;
        case 4:
          changes.template add<4>(delta, ages, neurons, gradient);
          break;
        default:
          make_window(p.window_table, decay8, history, shift, t / 8 + 1, scratch.window);
          for (int64_t m = 0; m < neurons; ++m)
            gradient[m] = fused_multiply_add(delta[m], scratch.window[ages[m]], gradient[m]);
      }
    }
    update_weights(p, layer, p.step[t], first_update && t == begin, gradient, neurons, n * layer.out_stride);
  }
}

// Transposes the words of 32 inputs, one per sample and `stride` apart: bit b of by_input[i] [words(B)] is the spike of
// input i in sample b.
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

// Adds the spikes of input n at step t to its history, and new samples to its list of active samples.
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

// Applies the weight decay that a silent row has missed before step t. Multiplies once per step, to get the same bits
// as a row that is updated at every step.
template <class acc_t>
void decay_row(const OnlineBatch<acc_t>& p, OnlineLayer<acc_t>& layer, int64_t n, int64_t t) {
  const acc_t shrink = p.step[0].shrink;
  acc_t* w = layer.weight + n * layer.out_stride;
  for (int64_t s = layer.updated_until[n]; s < t && shrink != acc_t(1); ++s)
    for (int64_t m = 0; m < layer.out_stride; ++m) w[m] *= shrink;
  layer.updated_until[n] = int32_t(t);
}

// Applies the updates up to step t by the shared trace, to the rows first ... first + 31 whose bit is set. The rows
// take turns on a few lines of the errors at a time, so that these lines stay in the caches.
template <class acc_t>
void update_shared_rows(const OnlineBatch<acc_t>& p, OnlineLayer<acc_t>& layer, int64_t first, uint32_t rows,
                        uint32_t first_updates, int64_t t, const OnlineScratch<acc_t>& scratch) {
  constexpr int64_t line = kLine<acc_t>;
  for (uint32_t rest = rows; rest; rest &= rest - 1) {
    const int i = __builtin_ctz(rest);
    list_shared_traces(p, layer, first + i, t, scratch.coefficient + i * p.depth * p.B);
  }
  for_each_part(layer.out_stride / line, [&](int64_t part, auto lines) {
    for (uint32_t rest = rows; rest; rest &= rest - 1) {
      const int i = __builtin_ctz(rest);
      const int64_t n = first + i, begin = layer.updated_until[n];
      const int32_t* samples = layer.active_sample + n * p.list_stride(p.B);
      const acc_t* coefficient = scratch.coefficient + i * p.depth * p.B;
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

// Handles the rows of inputs 32 w ... 32 w + 31 at step t. All inputs are known beforehand, so a row's updates are
// deferred until the row is read (the step before its input's next spike, or the end of the batch), or until `depth`
// steps are pending. They are then applied one after the other while the row is in the cache; the result is the same.
//
// A row whose input has not spiked in this batch has no gradient and no moments, only weight decay. Decay of the "l2"
// kind is a gradient, so with it every row is updated.
template <class acc_t>
void online_rows(const OnlineBatch<acc_t>& p, int64_t w, int64_t t, const OnlineScratch<acc_t>& scratch) {
  using vec = typename VectorOf<acc_t, SF_VECTOR_BYTES>::type;
  OnlineLayer<acc_t>& layer = p.layer[0];
  const bool l2 = p.step[t].l2 != acc_t(0);
  const int64_t first = w * kWordBits, W = words_for(layer.in), sample_words = words_for(p.B);
  const int64_t inputs = layer.in - first < kWordBits ? layer.in - first : kWordBits;
  uint32_t read_next = t + 1 == p.T ? ~0u : 0u, spiking = 0;
  for (int64_t b = 0; b < p.B; ++b) spiking |= p.input[(t * p.B + b) * W + w];
  if (spiking) transpose_samples(p.input + t * p.B * W + w, W, p.B, scratch.bits);
  if (t + 1 < p.T)
    for (int64_t b = 0; b < p.B; ++b) read_next |= p.input[((t + 1) * p.B + b) * W + w];

  uint32_t rows = 0;
  for (int64_t i = 0; i < inputs; ++i) {
    const int64_t n = first + i;
    if (spiking >> i & 1u) {
      const uint32_t* x = scratch.bits + i * sample_words;
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
    } else if (read || t + 1 - layer.updated_until[n] == p.depth) {
      rows |= 1u << i;
    }
  }
  const uint32_t first_updates = rows & ~layer.has_moments[w];
  if (p.trace == Trace::shared) update_shared_rows(p, layer, first, rows, first_updates, t, scratch);
  for (uint32_t rest = rows; rest; rest &= rest - 1) {
    const int i = __builtin_ctz(rest);
    const int64_t n = first + i;
    if (p.trace == Trace::gated)
      update_gated_row(p, layer, n, layer.updated_until[n], t + 1, first_updates >> i & 1u, scratch);
    layer.updated_until[n] = int32_t(t + 1);
  }
  layer.has_moments[w] |= rows;
  if (t + 1 == p.T && layer.weight != layer.stored) store_inputs(layer, w);
}

}  // namespace spikefuse::cpu::SF_ISA

#endif
