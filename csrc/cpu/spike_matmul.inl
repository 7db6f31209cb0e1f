// Kernels of the product Z = X W of packed spikes. Every element is summed over its inputs in one fixed order, first
// the gathered ones and then the tables, so that it depends neither on threads nor on the size of the blocks.

#include "gather.h"

// Spikes of each of `count` word columns over all rows.
inline void count_spikes(const uint32_t* words, int64_t stride, int64_t rows, int64_t count, int64_t* spikes) {
  for (int64_t w = 0; w < count; ++w) spikes[w] = 0;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t w = 0; w < count; ++w) spikes[w] += __builtin_popcount(words[r * stride + w]);
}

// How many events row r has in each block.
inline void count_events(const SpikePlan& plan, const uint32_t* row, int64_t r, int64_t* counts) {
  const int64_t words = plan.event_words.size();
  for (int64_t block = 0, i = 0; i < words; ++block) {
    const int64_t end = i + plan.words_per_block < words ? i + plan.words_per_block : words;
    int64_t count = 0;
    for (; i < end; ++i) count += __builtin_popcount(row[plan.event_words.data()[i]]);
    counts[block * plan.rows + r] = count;
  }
}

#if SF_VECTOR_BYTES == 64
// A mispredicted branch a word, where the loop over bits ends, costs more than both halves of the word by compression.
inline uint16_t* append_positions(uint32_t word, int64_t first, uint16_t* next) {
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  for (int half = 0; half < 2; ++half, word >>= 16, first += 16) {
    const __mmask16 bits = __mmask16(word);
    const int count = __builtin_popcount(bits);
    const __m512i positions = _mm512_add_epi32(_mm512_maskz_compress_epi32(bits, lane), _mm512_set1_epi32(int(first)));
    // masked: what follows may be another thread's
    _mm256_mask_storeu_epi16(next, __mmask16((1u << count) - 1), _mm512_cvtepi32_epi16(positions));
    next += count;
  }
  return next;
}
#else
inline uint16_t* append_positions(uint32_t word, int64_t first, uint16_t* next) {
  for (; word; word &= word - 1) *next++ = uint16_t(first + __builtin_ctz(word));
  return next;
}
#endif

inline void list_events(const SpikePlan& plan, const uint32_t* row, int64_t r, uint16_t* events) {
  const int64_t words = plan.event_words.size();
  for (int64_t block = 0, i = 0; i < words; ++block) {
    uint16_t* next = events + plan.events_begin.data()[block * plan.rows + r];
    const int64_t begin = i, end = i + plan.words_per_block < words ? i + plan.words_per_block : words;
    for (; i < end; ++i) next = append_positions(row[plan.event_words.data()[i]], (i - begin) * kWordBits, next);
  }
}

// Copies the weights of whole words of inputs, `columns` of a tile, to rows of `width`; zeros where there are none.
template <class acc_t>
void copy_tile(const acc_t* weight, int64_t N, int64_t M, const int32_t* words, int64_t count, int64_t columns,
               int64_t width, acc_t* tile) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t first = int64_t(words[i]) * kWordBits;
    for (int64_t j = 0; j < kWordBits; ++j, tile += width) {
      const bool inside = first + j < N;
      for (int64_t c = 0; c < columns; ++c) tile[c] = inside ? weight[(first + j) * M + c] : acc_t(0);
      for (int64_t c = columns; c < width; ++c) tile[c] = acc_t(0);
    }
  }
}

// z[r] += the tile's rows of the inputs that spiked, for all rows; z is [lines, rows, one line].
template <int lines, class acc_t>
void add_events(const acc_t* tile, const int64_t* begin, const uint16_t* events, int64_t rows, acc_t* z) {
  using vec = typename VectorOf<acc_t, SF_VECTOR_BYTES>::type;
  constexpr int lanes = VectorOf<acc_t, SF_VECTOR_BYTES>::lanes;
  constexpr int vectors = 64 / SF_VECTOR_BYTES;
  constexpr int64_t line = kLine<acc_t>, width = lines * line;
  // as many sums at once as registers hold beside the addresses
  constexpr int together = lines * vectors <= 8 ? lines : 8 / vectors;
  for (int64_t r = 0; r < rows; ++r) {
    const uint16_t* const end = events + begin[r + 1];
    for (int l = 0; l < lines; l += together) {
      const int count = lines - l < together ? lines - l : together;
      vec sum[together][vectors];
      for (int i = 0; i < count; ++i)
        for (int v = 0; v < vectors; ++v)
          sum[i][v] = *reinterpret_cast<const vec*>(z + ((l + i) * rows + r) * line + v * lanes);
      for (const uint16_t* event = events + begin[r]; event < end; ++event) {
        const acc_t* row = tile + *event * width + l * line;
        for (int i = 0; i < count; ++i)
          for (int v = 0; v < vectors; ++v) sum[i][v] += *reinterpret_cast<const vec*>(row + i * line + v * lanes);
      }
      for (int i = 0; i < count; ++i)
        for (int v = 0; v < vectors; ++v)
          *reinterpret_cast<vec*>(z + ((l + i) * rows + r) * line + v * lanes) = sum[i][v];
    }
  }
}

template <class acc_t>
void add_events(int64_t lines, const acc_t* tile, const int64_t* begin, const uint16_t* events, int64_t rows,
                acc_t* z) {
  switch (lines) {
    case 1:
      return add_events<1>(tile, begin, events, rows, z);
    case 2:
      return add_events<2>(tile, begin, events, rows, z);
    case 3:
      return add_events<3>(tile, begin, events, rows, z);
    default:
      return add_events<4>(tile, begin, events, rows, z);
  }
}

// Every sum of each group's rows of a line's weights: table [words][kTableEntries][one line].
template <class acc_t>
void build_tables(const acc_t* weight, int64_t width, int64_t words, acc_t* table) {
  constexpr int64_t line = kLine<acc_t>;
  for (int64_t w = 0; w < words; ++w) {
    for (int bits : kTableWidths) {
      for (int64_t c = 0; c < line; ++c) table[c] = acc_t(0);
      for (int i = 0; i < bits; ++i, weight += width) {
        acc_t* sum = table + (int64_t(1) << i) * line;
        for (int64_t entry = 0; entry < int64_t(1) << i; ++entry)
          for (int64_t c = 0; c < line; ++c) sum[entry * line + c] = table[entry * line + c] + weight[c];
      }
      table += (int64_t(1) << bits) * line;
    }
  }
}

// z[r] += the sums that the bits of kTableWords words pick, one line wide. Rows go `together` at a time: as many chains
// of additions, each in the order of the inputs.
template <int together, class acc_t>
SF_HD void add_table_rows(const acc_t* table, const uint32_t* bits, acc_t* z) {
  using vec = typename VectorOf<acc_t, SF_VECTOR_BYTES>::type;
  constexpr int lanes = VectorOf<acc_t, SF_VECTOR_BYTES>::lanes;
  constexpr int vectors = 64 / SF_VECTOR_BYTES;
  constexpr int64_t line = kLine<acc_t>;
  vec sum[together][vectors];
  for (int r = 0; r < together; ++r)
    for (int v = 0; v < vectors; ++v) sum[r][v] = *reinterpret_cast<const vec*>(z + r * line + v * lanes);
  const acc_t* entries = table;
#pragma GCC unroll 2
  for (int w = 0; w < kTableWords; ++w) {
    // Moved up by a line's size, the bits of a group become, masked, the offset of its entry.
    uint64_t moved[together];
    for (int r = 0; r < together; ++r) moved[r] = uint64_t(bits[r * kTableWords + w]) * line;
    int shift = 0;
#pragma GCC unroll 8
    for (int width : kTableWidths) {
      const uint64_t mask = ((uint64_t(1) << width) - 1) * line;
      for (int r = 0; r < together; ++r) {
        const acc_t* entry = entries + (moved[r] >> shift & mask);
        for (int v = 0; v < vectors; ++v) sum[r][v] += *reinterpret_cast<const vec*>(entry + v * lanes);
      }
      entries += (int64_t(1) << width) * line;
      shift += width;
    }
  }
  for (int r = 0; r < together; ++r)
    for (int v = 0; v < vectors; ++v) *reinterpret_cast<vec*>(z + r * line + v * lanes) = sum[r][v];
}

template <class acc_t>
void add_tables(const acc_t* table, const uint32_t* bits, int64_t rows, acc_t* z) {
  constexpr int together = SF_VECTOR_BYTES == 16 ? 1 : 2;
  int64_t r = 0;
  for (; r + together <= rows; r += together)
    add_table_rows<together>(table, bits + r * kTableWords, z + r * kLine<acc_t>);
  for (; r < rows; ++r) add_table_rows<1>(table, bits + r * kTableWords, z + r * kLine<acc_t>);
}

// Rows begin ... end of z for the `columns` columns at `weight`: gathered blocks, then tables. z [lines, rows, one
// line] and the tile are memory of their own, without the power-of-two row strides that crowd into few sets of a cache.
template <class acc_t>
void multiply_tile(const SpikePlan& plan, int64_t begin, int64_t end, const acc_t* weight, int64_t N, int64_t M,
                   int64_t columns, acc_t* tile, acc_t* table, acc_t* z) {
  constexpr int64_t line = kLine<acc_t>;
  const int64_t lines = (columns + line - 1) / line, width = lines * line, rows = end - begin;
  for (int64_t i = 0; i < rows * width; ++i) z[i] = acc_t(0);
  const int64_t event_words = plan.event_words.size(), table_words = plan.table_words.size();
  for (int64_t block = 0; block < plan.blocks(); ++block) {
    const int64_t first = block * plan.words_per_block;
    const int64_t count = event_words - first < plan.words_per_block ? event_words - first : plan.words_per_block;
    copy_tile(weight, N, M, plan.event_words.data() + first, count, columns, width, tile);
    add_events(lines, tile, plan.events_begin.data() + block * plan.rows + begin, plan.events.data(), rows, z);
  }
  for (int64_t group = 0; group < plan.groups(); ++group) {
    const int64_t first = group * kTableWords;
    const int64_t count = table_words - first < kTableWords ? table_words - first : kTableWords;
    copy_tile(weight, N, M, plan.table_words.data() + first, count, columns, width, tile);
    // a word that is not there picks the empty sum of whatever table stands there
    for (int64_t i = count * kWordBits * width; i < kTableWords * kWordBits * width; ++i) tile[i] = acc_t(0);
    for (int64_t l = 0; l < lines; ++l) {
      build_tables(tile + l * line, width, kTableWords, table);
      add_tables(table, plan.table_bits.data() + (group * plan.rows + begin) * kTableWords, rows, z + l * rows * line);
    }
  }
}

template <class acc_t>
void store_tile(const acc_t* z, int64_t rows, int64_t columns, acc_t* out, int64_t M) {
  constexpr int64_t line = kLine<acc_t>;
  for (int64_t r = 0; r < rows; ++r, out += M) {
    for (int64_t first = 0; first < columns; first += line) {
      const acc_t* from = z + first * rows + r * line;
      if (columns - first >= line)
        for (int64_t c = 0; c < line; ++c) out[first + c] = from[c];
      else
        for (int64_t c = 0; c < columns - first; ++c) out[first + c] = from[c];
    }
  }
}

// A row of few spikes, its weights read where they lie. `list` holds N entries.
template <class acc_t>
void multiply_row(const uint32_t* words, int64_t N, const acc_t* weight, int64_t M, int64_t columns, int32_t* list,
                  acc_t* z) {
  const int64_t count = list_spikes(words, N, list);
  gather_rows<false, acc_t>(weight, M, list, nullptr, count, columns, z);
}

// 32 x 32 bits of neighbouring words at once, one word a lane: bit c of word r becomes bit r of word c (Warren,
// Hacker's Delight 7-3, for little-endian bit order).
template <class vec>
SF_HD void transpose_bits(vec* a) {
  uint32_t mask = 0x0000ffffu;
  for (int width = 16; width; width >>= 1, mask ^= mask << width) {
    for (int k = 0; k < kWordBits; k = (k + width + 1) & ~width) {
      const vec swap = ((a[k] >> width) ^ a[k + width]) & mask;
      a[k] ^= swap << width;
      a[k + width] ^= swap;
    }
  }
}

// The words of X^T [N, words of R] that come from words first ... last - 1 of every row of X [R, W].
inline void transpose_columns(const uint32_t* words, int64_t R, int64_t N, int64_t first, int64_t last, uint32_t* out) {
  using vec = typename VectorOf<uint32_t, SF_VECTOR_BYTES>::type;
  constexpr int lanes = VectorOf<uint32_t, SF_VECTOR_BYTES>::lanes;
  const int64_t W = words_for(N), W_out = words_for(R);
  for (int64_t w = first; w < last; w += lanes) {
    const int64_t count = last - w < lanes ? last - w : lanes;
    for (int64_t i = 0; i < W_out; ++i) {
      vec a[kWordBits] = {};
      const int64_t rows = R - i * kWordBits < kWordBits ? R - i * kWordBits : kWordBits;
      for (int64_t r = 0; r < rows; ++r) {
        const uint32_t* row = words + (i * kWordBits + r) * W + w;
        if (count == lanes)
          a[r] = *reinterpret_cast<const vec*>(row);
        else
          for (int64_t lane = 0; lane < count; ++lane) a[r][lane] = row[lane];
      }
      transpose_bits(a);
      for (int64_t lane = 0; lane < count; ++lane) {
        const int64_t neuron = (w + lane) * kWordBits;
        const int64_t neurons = N - neuron < kWordBits ? N - neuron : kWordBits;
        for (int64_t n = 0; n < neurons; ++n) out[(neuron + n) * W_out + i] = a[n][lane];
      }
    }
  }
}
