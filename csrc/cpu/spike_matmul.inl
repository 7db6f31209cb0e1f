// Kernels of the product Z = X W of packed spikes. Every element is summed over its inputs in a fixed order: gathered
// words first, then tables. The result depends neither on threads nor on block sizes.

#include "gather.inl"
#include "spike_matmul.h"
#include "tile.inl"

namespace spikefuse::cpu::SF_ISA {

// Counts the spikes in each of `count` word columns over all rows.
inline void count_spikes(const uint32_t* words, int64_t stride, int64_t rows, int64_t count, int64_t* spikes) {
  for (int64_t w = 0; w < count; ++w) spikes[w] = 0;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t w = 0; w < count; ++w) spikes[w] += __builtin_popcount(words[r * stride + w]);
}

// Counts the events of row r in each block.
inline void count_events(const SpikePlan& plan, const uint32_t* row, int64_t r, int64_t* counts) {
  const int64_t words = plan.event_words.size();
  for (int64_t block = 0, i = 0; i < words; ++block) {
    const int64_t end = i + plan.words_per_block < words ? i + plan.words_per_block : words;
    int64_t count = 0;
    for (; i < end; ++i) count += __builtin_popcount(row[plan.event_words.data()[i]]);
    counts[block * plan.rows + r] = count;
  }
}

// Lists the events of rows begin ... end - 1. Elements written behind a row's list are overwritten by the next rows.
// Near the end of the last row, where another thread's list may follow, exactly the events are written.
inline void list_events(const SpikePlan& plan, const uint32_t* words, int64_t stride, int64_t begin, int64_t end,
                        uint16_t* events) {
  const int64_t count = plan.event_words.size();
  for (int64_t r = begin; r < end; ++r) {
    const uint32_t* row = words + r * stride;
    for (int64_t block = 0, i = 0; i < count; ++block) {
      const int64_t* begins = plan.events_begin.data() + block * plan.rows;
      uint16_t *next = events + begins[r], *const limit = events + begins[end];
      const int64_t first = i, last = i + plan.words_per_block < count ? i + plan.words_per_block : count;
      for (; i < last; ++i) {
        const uint32_t word = row[plan.event_words.data()[i]];
        const int64_t position = (i - first) * kWordBits;
        const bool has_slack = limit - next >= kWordBits + kAppendSlack;
        next = has_slack ? append_positions(word, position, next) : append_exactly(word, position, next);
      }
    }
  }
}

// Copies the weights of whole words of inputs, `columns` of a tile, to rows of `width`; fills the rest with zeros.
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

// Computes rows begin ... end of z for the `columns` columns at `weight`: gathered blocks first, then tables. z [lines,
// rows, one line] and the tile are separate memory: row strides that are powers of two would crowd into few sets of a
// cache.
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
    const int64_t* events_begin = plan.events_begin.data() + block * plan.rows + begin;
    add_events(lines, tile, events_begin, events_begin + 1, plan.events.data(), rows, z);
  }
  for (int64_t group = 0; group < plan.groups(); ++group) {
    const int64_t first = group * kTableWords;
    const int64_t count = table_words - first < kTableWords ? table_words - first : kTableWords;
    copy_tile(weight, N, M, plan.table_words.data() + first, count, columns, width, tile);
    // A missing word selects the empty sum of its table.
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

// Computes a row of few spikes, reading the weights in place. `list` holds N + kAppendSlack entries.
template <class acc_t>
void multiply_row(const uint32_t* words, int64_t N, const acc_t* weight, int64_t M, int64_t columns, int32_t* list,
                  acc_t* z) {
  const int64_t count = list_spikes(words, 1, N, list);
  gather_rows(weight, M, list, count, columns, z);
}

// Computes the words of X^T [N, words of R] that come from words first ... last - 1 of every row of X [R, W].
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

}  // namespace spikefuse::cpu::SF_ISA
