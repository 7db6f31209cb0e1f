// Forward pass of the online rule: currents, membrane potentials, spikes, and the output layer's masked error.
#if defined(SF_ONLINE_FORWARD_INL) == defined(SF_ISA_PARITY)
#if defined(SF_ONLINE_FORWARD_INL)
#undef SF_ONLINE_FORWARD_INL
#else
#define SF_ONLINE_FORWARD_INL
#endif

#include <cstring>
#include <type_traits>
#include <utility>

#include "gather.inl"
#include "online_batch.h"
#include "online_traces.inl"
#include "tile.inl"

namespace spikefuse::cpu::SF_ISA {

template <class acc_t>
constexpr int64_t kWordLines = kWordBits / kLine<acc_t>;

// Returns the spikes of 32 neurons.
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

// Computes v, v' and the spikes of 32 neurons. v' and z are stored in cache lines that begin `stride` apart.
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

// Computes -E (eqs 6-7, 13) of 32 neurons and adds its squares to `squares`, lane by lane. Returns the mismatches.
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

// Returns 1/2 E^2 (eq 8).
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

// Takes sample b forward through the first layer.
template <class acc_t>
void online_sample(const OnlineBatch<acc_t>& p, int64_t b, int64_t t, const OnlineScratch<acc_t>& scratch) {
  OnlineLayer<acc_t>& layer = p.layer[0];
  const int64_t W = words_for(layer.in), W_out = words_for(layer.out);
  const int64_t count = list_spikes(p.input + (t * p.B + b) * W, 1, layer.in, scratch.list);
  gather_rows(layer.weight, layer.out_stride, scratch.list, count, layer.out_stride, scratch.row);
  for (int64_t m = layer.out_stride; m < layer.out_width; ++m) scratch.row[m] = acc_t(0);

  if (t > 0) {
    const int64_t now = t % p.depth, last = (t - 1) % p.depth;
    if (p.trace == Trace::shared) {
      const int64_t spikes_before = count_spikes(spikes_at(p, layer, b, t - 1), p.B, words_for(layer.neurons));
      layer.trace_factor[now * p.sample_width + b] = shared_trace_factor(p, layer.in, spikes_before);
    } else {
      const uint32_t* before = slice_spikes_at(p, b, t - 1);
      uint16_t* age = layer.age + (now * p.B + b) * layer.out_width;
      std::memmove(age, layer.age + (last * p.B + b) * layer.out_width, layer.out_width * sizeof(uint16_t));
      for (int64_t w = 0; w < W_out; ++w) advance_age(age + w * kWordBits, before[w * p.B]);
    }
  }

  uint32_t* spikes = slice_spikes_at(p, b, t);
  acc_t* potential = layer.potential + b * layer.out_width;
  for (int64_t w = 0; w < W_out; ++w) {
    const int64_t first = w * kWordBits;
    spikes[w * p.B] = integrate_word(p, scratch.row + first, layer.state + b * layer.out_width + first, kLine<acc_t>,
                                     potential + first);
  }
  if (p.exchange.call) return;
  if (p.layers > 1) return online_list(p, 1, b, t);

  acc_t squares[kWordBits] = {};
  acc_t* delta = layer.delta + (t % p.depth * p.B + b) * layer.out_width;
  for (int64_t w = 0; w < W_out; ++w) {
    const int64_t first = w * kWordBits;
    const uint32_t target = p.target[(t * p.B + b) * W_out + w];
    p.mismatches[b] += __builtin_popcount(
        word_error(p, layer.out - first, target, spikes[w * p.B], potential + first, delta + first, squares));
  }
  p.loss[b] += loss_of(squares);
}

// Returns a0 b0 a1 b1 ..., of the lower or the upper halves.
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

// Transposes: to[c][r] = from[r][c]; both sides are multiples of a vector. A square of vectors takes log2(lanes)
// rounds, each of which interleaves every row with the row half a square below it.
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

// Loads tile i of a later layer, and its rows, from the caller's weights.
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

// Computes z [lines, B, one line] of tile i: sums the weights of the spiking inputs, by events or by table lookup.
template <class acc_t>
void multiply_tile(const OnlineBatch<acc_t>& p, int64_t l, int64_t t, const acc_t* tile,
                   const OnlineScratch<acc_t>& scratch) {
  const OnlineLayer<acc_t>& layer = p.layer[l];
  constexpr int64_t lines = kWordLines<acc_t>, line = kLine<acc_t>;
  const int64_t W = words_for(layer.in);
  acc_t* z = scratch.tile;
  for (int64_t i = 0; i < p.B * kWordBits; ++i) z[i] = acc_t(0);
  int64_t events = 0;
  for (int64_t b = 0; b < p.B; ++b) events += layer.events_end[b] - layer.events_begin[b];
  if (double(events) <= double(W) * (kTableBuild + kTableUse * double(p.B)))
    return add_events<lines>(tile, layer.events_begin, layer.events_end, layer.events, p.B, z);
  const uint32_t* spikes = spikes_at(p, p.layer[l - 1], 0, t);
  for (int64_t w = 0; w < W; w += kTableWords) {
    for (int64_t b = 0; b < p.B; ++b)
      for (int64_t j = 0; j < kTableWords; ++j)
        scratch.bits[b * kTableWords + j] = w + j < W ? spikes[(w + j) * p.B + b] : 0u;
    for (int64_t j = 0; j < lines; ++j) {
      build_tables(tile + w * kWordBits * kWordBits + j * line, kWordBits, kTableWords, scratch.table);
      add_tables(scratch.table, scratch.bits, p.B, z + j * p.B * line);
    }
  }
}

}  // namespace spikefuse::cpu::SF_ISA

#endif
