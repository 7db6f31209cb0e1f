// SIMD vectors of the current instruction set, and sums of rows held in registers: the inner loop of both spike
// products and of the online rule.
#if defined(SF_GATHER_INL) == defined(SF_ISA_PARITY)
#if defined(SF_GATHER_INL)
#undef SF_GATHER_INL
#else
#define SF_GATHER_INL
#endif

#include <cstdint>
#include <type_traits>

#include "../packing.h"
#include "kernel.h"
#include "tile.h"

namespace spikefuse::cpu::SF_ISA {

template <class acc_t, int bytes>
struct VectorOf {
  // Unaligned; may alias the scalar elements that it is loaded from.
  typedef acc_t type __attribute__((vector_size(bytes), aligned(sizeof(acc_t)), may_alias));
  static constexpr int lanes = bytes / sizeof(acc_t);
};

// Computes y + a * x, fused lane by lane.
template <class vec, class acc_t>
SF_HD vec multiply_add(acc_t a, vec x, vec y) {
  vec result;
  for (unsigned i = 0; i < sizeof(vec) / sizeof(acc_t); ++i) result[i] = fused_multiply_add(a, x[i], y[i]);
  return result;
}

template <class vec>
SF_HD vec multiply_add(vec a, vec x, vec y) {
  vec result;
  for (unsigned i = 0; i < sizeof(vec) / sizeof(a[0]); ++i) result[i] = fused_multiply_add(a[i], x[i], y[i]);
  return result;
}

// Spreads the lowest bits of `bits` over the lanes, as 0 or 1.
template <class acc_t>
SF_HD typename VectorOf<acc_t, SF_VECTOR_BYTES>::type spread_bits(uint32_t bits) {
  using vec = typename VectorOf<acc_t, SF_VECTOR_BYTES>::type;
  using word_t = std::conditional_t<sizeof(acc_t) == 8, uint64_t, uint32_t>;
  using words = typename VectorOf<word_t, SF_VECTOR_BYTES>::type;
  words lane;
  for (unsigned i = 0; i < sizeof(vec) / sizeof(acc_t); ++i) lane[i] = i;
  return __builtin_convertvector(((words{} + word_t(bits)) >> lane) & word_t(1), vec);
}

// Holds `count` elements in registers; `count` is a multiple of the elements in one vector.
template <class acc_t, int count, int bytes = SF_VECTOR_BYTES>
struct Sums {
  using vec = typename VectorOf<acc_t, bytes>::type;
  static constexpr int lanes = VectorOf<acc_t, bytes>::lanes;
  static constexpr int vectors = count / lanes;
  static_assert(count % lanes == 0);
  vec sum[vectors];

  SF_HD void clear() {
    SF_UNROLL
    for (int j = 0; j < vectors; ++j) sum[j] = vec{};
  }
  SF_HD void load(const acc_t* from) {
    SF_UNROLL
    for (int j = 0; j < vectors; ++j) sum[j] = *reinterpret_cast<const vec*>(from + j * lanes);
  }
  SF_HD void store(acc_t* to) const {
    SF_UNROLL
    for (int j = 0; j < vectors; ++j) *reinterpret_cast<vec*>(to + j * lanes) = sum[j];
  }
  SF_HD void add(const acc_t* row) {
    SF_UNROLL
    for (int j = 0; j < vectors; ++j) sum[j] += *reinterpret_cast<const vec*>(row + j * lanes);
  }
  SF_HD void add(acc_t weight, const acc_t* row) {
    SF_UNROLL
    for (int j = 0; j < vectors; ++j)
      sum[j] = multiply_add(weight, *reinterpret_cast<const vec*>(row + j * lanes), sum[j]);
  }
};

// Number of cache lines summed at once. Eight vectors are eight independent chains of additions: enough to hide an
// addition's latency, and half of the registers stay free.
constexpr int kLinesAtOnce = SF_VECTOR_BYTES / 8;

// Calls body(line, integral_constant<lines>) for `lines` lines, in as few and as equal parts as the registers allow: 13
// lines become 7 and 6.
template <class Body>
SF_HD void for_each_part(int64_t lines, const Body& body) {
  const int64_t parts = (lines + kLinesAtOnce - 1) / kLinesAtOnce;
  for (int64_t part = 0, line = 0; part < parts; ++part) {
    const int64_t next = (part + 1) * lines / parts;
    switch (next - line) {
      case 1:
        body(line, std::integral_constant<int, 1>{});
        break;
      case 2:
        body(line, std::integral_constant<int, 2>{});
        break;
#if SF_VECTOR_BYTES >= 32
      case 3:
        body(line, std::integral_constant<int, 3>{});
        break;
      case 4:
        body(line, std::integral_constant<int, 4>{});
        break;
#endif
#if SF_VECTOR_BYTES >= 64
      case 5:
        body(line, std::integral_constant<int, 5>{});
        break;
      case 6:
        body(line, std::integral_constant<int, 6>{});
        break;
      case 7:
        body(line, std::integral_constant<int, 7>{});
        break;
      case 8:
        body(line, std::integral_constant<int, 8>{});
        break;
#endif
    }
    line = next;
  }
}

// Computes out[0 ... columns) = sum over k of rows[index[k]][0 ... columns), adding rows in the order of `index`.
template <class acc_t>
inline void gather_rows(const acc_t* rows, int64_t row_stride, const int32_t* index, int64_t count, int64_t columns,
                        acc_t* out) {
  constexpr int64_t line = kLine<acc_t>;
  for_each_part(columns / line, [&](int64_t first, auto lines) {
    Sums<acc_t, lines * line> sums;
    sums.clear();
    for (int64_t k = 0; k < count; ++k) sums.add(rows + index[k] * row_stride + first * line);
    sums.store(out + first * line);
  });
  int64_t c = columns / line * line;
  constexpr int64_t narrow = VectorOf<acc_t, 16>::lanes;
  for (; c + narrow <= columns; c += narrow) {
    Sums<acc_t, narrow, 16> sums;
    sums.clear();
    for (int64_t k = 0; k < count; ++k) sums.add(rows + index[k] * row_stride + c);
    sums.store(out + c);
  }
  for (; c < columns; ++c) {
    acc_t sum = 0;
    for (int64_t k = 0; k < count; ++k) sum += rows[index[k] * row_stride + c];
    out[c] = sum;
  }
}

// Sets bit i if test(values[i]).
template <class acc_t, class Test>
SF_HD uint32_t word_where(const acc_t* values, const Test& test) {
  uint32_t bit[kWordBits], word = 0;
  for (int i = 0; i < kWordBits; ++i) bit[i] = test(values[i]) ? 1u << i : 0u;
  for (int i = 0; i < kWordBits; ++i) word |= bit[i];
  return word;
}

// Appends the positions of the set bits of `word`, each plus `first`; returns the end of the list.
template <class index_t>
SF_HD index_t* append_exactly(uint32_t word, int64_t first, index_t* next) {
  for (; word; word &= word - 1) *next++ = index_t(first + __builtin_ctz(word));
  return next;
}

// Does the same, but may write up to kAppendSlack elements behind the end.
constexpr int64_t kAppendSlack = 16;
#if SF_VECTOR_BYTES == 64
// Compresses 16 bits at a time. A loop over the bits would mispredict its last branch, and masked stores are slow: both
// cost more.
SF_HD void store_positions(int32_t* to, __m512i positions) { _mm512_storeu_si512(to, positions); }
SF_HD void store_positions(uint16_t* to, __m512i positions) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(positions));
}
template <class index_t>
SF_HD index_t* append_positions(uint32_t word, int64_t first, index_t* next) {
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  for (int half = 0; half < 2; ++half, word >>= 16, first += 16) {
    const __mmask16 bits = __mmask16(word);
    store_positions(next, _mm512_maskz_compress_epi32(bits, _mm512_add_epi32(lane, _mm512_set1_epi32(int(first)))));
    next += __builtin_popcount(bits);
  }
  return next;
}
#else
template <class index_t>
SF_HD index_t* append_positions(uint32_t word, int64_t first, index_t* next) {
  return append_exactly(word, first, next);
}
#endif

// Lists the spiking neurons of one row of words, `stride` apart, in ascending order; returns their number. Padding bits
// are ignored. The list has room for kAppendSlack more elements than there are neurons.
inline int64_t list_spikes(const uint32_t* row, int64_t stride, int64_t neurons, int32_t* list) {
  int32_t* next = list;
  for (int64_t w = 0; w < words_for(neurons); ++w)
    next = append_positions(row[w * stride] & neurons_of_word(w, neurons), w * kWordBits, next);
  return next - list;
}

// Transposes 32 x 32 bits, of one word or of one word per lane: bit c of a[r] becomes bit r of a[c] (Warren, Hacker's
// Delight 7-3, for little-endian bit order).
template <class word_t>
SF_HD void transpose_bits(word_t* a) {
  uint32_t mask = 0x0000ffffu;
  for (int width = 16; width; width >>= 1, mask ^= mask << width) {
    for (int k = 0; k < kWordBits; k = (k + width + 1) & ~width) {
      const word_t swap = ((a[k] >> width) ^ a[k + width]) & mask;
      a[k] ^= swap << width;
      a[k + width] ^= swap;
    }
  }
}

}  // namespace spikefuse::cpu::SF_ISA

#endif
