// Products of spikes with one tile of weights, whose rows are a few cache lines wide: by events or by table lookup.
#if defined(SF_TILE_INL) == defined(SF_ISA_PARITY)
#if defined(SF_TILE_INL)
#undef SF_TILE_INL
#else
#define SF_TILE_INL
#endif

#include <type_traits>

#include "gather.inl"

namespace spikefuse::cpu::SF_ISA {

// Adds the tile's rows of the spiking inputs to z[r], for all rows; z is [lines, rows, one line]. Row r's events are
// events[begin[r] ... end[r]).
template <int lines, class acc_t, class index_t>
void add_events(const acc_t* tile, const int64_t* begin, const int64_t* end, const index_t* events, int64_t rows,
                acc_t* z) {
  constexpr int64_t line = kLine<acc_t>, width = lines * line;
  constexpr int at_once = lines < kLinesAtOnce ? lines : kLinesAtOnce;
  static_assert(lines % at_once == 0 || lines < 2 * at_once);
  for (int64_t r = 0; r < rows; ++r) {
    const index_t *const first_event = events + begin[r], *const last_event = events + end[r];
    const auto add = [&](int first, auto lines_at_once) {
      constexpr int count = decltype(lines_at_once)::value;
      Sums<acc_t, line> sums[count];
      SF_UNROLL
      for (int l = 0; l < count; ++l) sums[l].load(z + ((first + l) * rows + r) * line);
      for (const index_t* event = first_event; event < last_event; ++event) {
        SF_UNROLL
        for (int l = 0; l < count; ++l) sums[l].add(tile + *event * width + (first + l) * line);
      }
      SF_UNROLL
      for (int l = 0; l < count; ++l) sums[l].store(z + ((first + l) * rows + r) * line);
    };
    int first = 0;
    for (; first + at_once <= lines; first += at_once) add(first, std::integral_constant<int, at_once>{});
    if constexpr (lines % at_once != 0) add(first, std::integral_constant<int, lines % at_once>{});
  }
}

template <class acc_t, class index_t>
void add_events(int64_t lines, const acc_t* tile, const int64_t* begin, const int64_t* end, const index_t* events,
                int64_t rows, acc_t* z) {
  switch (lines) {
    case 1:
      return add_events<1>(tile, begin, end, events, rows, z);
    case 2:
      return add_events<2>(tile, begin, end, events, rows, z);
    case 3:
      return add_events<3>(tile, begin, end, events, rows, z);
    default:
      return add_events<4>(tile, begin, end, events, rows, z);
  }
}

// Computes every sum of each group's rows, for one line of weights: table [words][kTableEntries][one line].
template <class acc_t>
void build_tables(const acc_t* weight, int64_t width, int64_t words, acc_t* table) {
  constexpr int64_t line = kLine<acc_t>;
  for (int64_t w = 0; w < words; ++w) {
    for (int bits : kTableWidths) {
      Sums<acc_t, line> sum;
      sum.clear();
      sum.store(table);
      for (int i = 0; i < bits; ++i, weight += width) {
        const int64_t entries = int64_t(1) << i;
        for (int64_t entry = 0; entry < entries; ++entry) {
          sum.load(table + entry * line);
          sum.add(weight);
          sum.store(table + (entries + entry) * line);
        }
      }
      table += (int64_t(1) << bits) * line;
    }
  }
}

// Adds to z[r] the sums selected by the bits of kTableWords words, one line wide. Computes `at_once` rows together:
// independent chains of additions, each in the order of the inputs.
template <int at_once, class acc_t>
SF_HD void add_table_rows(const acc_t* table, const uint32_t* bits, acc_t* z) {
  constexpr int64_t line = kLine<acc_t>;
  Sums<acc_t, line> sums[at_once];
  SF_UNROLL
  for (int r = 0; r < at_once; ++r) sums[r].load(z + r * line);
  const acc_t* entries = table;
  SF_UNROLL
  for (int w = 0; w < kTableWords; ++w) {
    // Multiplied by a line's size and masked, the bits of a group become the offset of its entry.
    uint64_t moved[at_once];
    SF_UNROLL
    for (int r = 0; r < at_once; ++r) moved[r] = uint64_t(bits[r * kTableWords + w]) * line;
    int shift = 0;
    SF_UNROLL
    for (int width : kTableWidths) {
      const uint64_t mask = ((uint64_t(1) << width) - 1) * line;
      SF_UNROLL
      for (int r = 0; r < at_once; ++r) sums[r].add(entries + (moved[r] >> shift & mask));
      entries += (int64_t(1) << width) * line;
      shift += width;
    }
  }
  SF_UNROLL
  for (int r = 0; r < at_once; ++r) sums[r].store(z + r * line);
}

template <class acc_t>
void add_tables(const acc_t* table, const uint32_t* bits, int64_t rows, acc_t* z) {
  constexpr int at_once = SF_VECTOR_BYTES == 16 ? 1 : 2;
  int64_t r = 0;
  for (; r + at_once <= rows; r += at_once)
    add_table_rows<at_once>(table, bits + r * kTableWords, z + r * kLine<acc_t>);
  for (; r < rows; ++r) add_table_rows<1>(table, bits + r * kTableWords, z + r * kLine<acc_t>);
}

}  // namespace spikefuse::cpu::SF_ISA

#endif
