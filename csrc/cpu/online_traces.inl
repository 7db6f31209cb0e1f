// Traces of the online rule: leaky sums for the shared trace, window sums for the gated one.
#if defined(SF_ONLINE_TRACES_INL) == defined(SF_ISA_PARITY)
#if defined(SF_ONLINE_TRACES_INL)
#undef SF_ONLINE_TRACES_INL
#else
#define SF_ONLINE_TRACES_INL
#endif

#include <type_traits>

#include "gather.inl"
#include "online_batch.h"

namespace spikefuse::cpu::SF_ISA {

// Advances the ages of 32 neurons. After a spike, a neuron's window begins anew and is one step long, as all windows
// are at first.
SF_HD void advance_age(uint16_t* age, uint32_t spiked) {
  for (int64_t i = 0; i < kWordBits; ++i) age[i] = spiked >> i & 1u ? uint16_t(0) : uint16_t(age[i] + 1);
}

inline int64_t count_spikes(const uint32_t* words, int64_t stride, int64_t count) {
  int64_t spikes = 0;
  for (int64_t w = 0; w < count; ++w) spikes += __builtin_popcount(words[w * stride]);
  return spikes;
}

// Computes e[t] = factor * e[t-1] + x[t]. `factor` is the same for all elements or one per element; `width` is a
// multiple of a vector.
template <class acc_t, class Factor>
SF_HD void advance_shared_trace(const Factor& factor, const uint32_t* x, int64_t stride, int64_t width, acc_t* e) {
  using vec = typename VectorOf<acc_t, SF_VECTOR_BYTES>::type;
  constexpr int lanes = VectorOf<acc_t, SF_VECTOR_BYTES>::lanes;
  for (int64_t n = 0; n < width; n += lanes) {
    vec* trace = reinterpret_cast<vec*>(e + n);
    *trace = multiply_add(factor(n), *trace, spread_bits<acc_t>(x[n / kWordBits * stride] >> (n % kWordBits)));
  }
}

// Lists the shared trace of input n at steps layer.updated_until[n] ... t, for its active samples: coefficient [steps,
// B]. The input has not spiked after the first of these steps; a spike would have triggered the update.
template <class acc_t>
void list_shared_traces(const OnlineBatch<acc_t>& p, OnlineLayer<acc_t>& layer, int64_t n, int64_t t,
                        acc_t* coefficient) {
  acc_t* e = layer.trace + n * p.sample_width;
  const int32_t* samples = layer.active_sample + n * p.list_stride(p.B);
  for (int64_t s = layer.updated_until[n]; s <= t; ++s, coefficient += p.B) {
    const acc_t* factor = layer.trace_factor + s % p.depth * p.sample_width;
    if (layer.traced[n] <= s) {
      for (int64_t k = 0; k < layer.active_count[n]; ++k) e[samples[k]] = factor[samples[k]] * e[samples[k]];
      layer.traced[n] = int32_t(s + 1);
    }
    for (int64_t k = 0; k < layer.active_count[n]; ++k) coefficient[k] = e[samples[k]];
  }
}

// Advances window sums to step t: those that some neuron uses, and the one that begins at t.
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

// Counts the neurons whose windows begin at each step. A neuron that spikes at t gets a new window from step t + 1 on.
template <class acc_t>
void count_windows(const OnlineBatch<acc_t>& p, const OnlineLayer<acc_t>& layer, int64_t b, int64_t t,
                   const OnlineScratch<acc_t>& scratch) {
  int32_t* neurons = layer.window_neurons + b * (p.T + 1);
  const uint16_t* age = layer.age + b * layer.out_width;
  const int64_t count = list_spikes(spikes_at(p, layer, b, t), p.B, layer.out, scratch.list);
  for (int64_t k = 0; k < count; ++k) --neurons[t - age[scratch.list[k]]];
  neurons[t + 1] += int32_t(count);
}

// Returns 64 steps of the history of one (input, sample); its bit `at`, the newest step, becomes bit 0.
SF_HD uint64_t recent_history(const uint64_t* history, int64_t at) {
  const int64_t word = at / 64, bit = at % 64;
  return bit ? history[word] >> bit | history[word + 1] << (64 - bit) : history[word];
}

// Computes the window sums of ages 0 ... t, rounded up to whole bytes. table [256, 8] holds the sums of 8 steps; those
// of a later byte add to the last sum before it, weighted by decay^8 per byte.
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
// Up to 128 window sums in eight registers; a permutation looks them up for 16 neurons at once.
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
  // Looks up the sums of `count` registers, a power of two, from `first` on.
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
#endif

// Most changes of a window that are listed. Window sums change only at the ages of spikes, and an input of a large
// first layer spikes seldom.
constexpr int kMostChanges = 4;

template <class acc_t>
struct WindowChanges {
  int32_t age[kMostChanges];
  acc_t sum[kMostChanges];  // from that age on, the same bits as make_window's

  // Lists the changes of ages 0 ... t; returns their number, or -1 if there are more than kMostChanges.
  SF_HD int list(const acc_t* table, acc_t decay8, const uint64_t* history, int64_t shift, int64_t t) {
    acc_t carried = 0, power = 1;
    int count = 0;
    for (int64_t i = 0; 8 * i <= t; ++i, power *= decay8) {
      const uint32_t inside = t - 8 * i >= 7 ? 255u : (2u << (t - 8 * i)) - 1u;
      const uint32_t spikes = uint32_t(recent_history(history, shift + 8 * i)) & inside;
      if (spikes == 0) continue;
      const acc_t* sums = table + spikes * 8;
      for (uint32_t rest = spikes; rest; rest &= rest - 1, ++count) {
        if (count == kMostChanges) return -1;
        const int a = __builtin_ctz(rest);
        age[count] = int32_t(8 * i + a);
        sum[count] = fused_multiply_add(power, sums[a], carried);
      }
      carried = fused_multiply_add(power, sums[7], carried);
    }
    return count;
  }

  // Computes gradient[m] += delta[m] * the window sum at neuron m's age.
  template <int count>
  SF_HD void add(const acc_t* delta, const uint16_t* ages, int64_t neurons, acc_t* gradient) const {
    for (int64_t m = 0; m < neurons; ++m) {
      const int32_t neuron_age = ages[m];
      acc_t window = 0;
      SF_UNROLL
      for (int j = 0; j < count; ++j) window = neuron_age >= age[j] ? sum[j] : window;
      gradient[m] = fused_multiply_add(delta[m], window, gradient[m]);
    }
  }
};

}  // namespace spikefuse::cpu::SF_ISA

#endif
