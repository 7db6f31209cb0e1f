// Sizes of tiles and tables in products with spikes.
#pragma once

#include "../packing.h"

namespace spikefuse::cpu {

// Elements of one cache line; tiles and tables are whole multiples of it.
template <class acc_t>
constexpr int64_t kLine = 64 / sizeof(acc_t);

// Widths of the groups for table lookup. The 32 inputs of a word are split into groups; a table, one cache line wide,
// holds every possible sum of a group's weights. Six additions then serve 32 inputs. Wider groups need fewer additions,
// but double the tables for each bit. The tables of two words, 32 KB, are read almost as fast as those of one, and z is
// read half as often.
constexpr int kTableWidths[] = {6, 6, 5, 5, 5, 5};
constexpr int64_t kTableEntries = 64 + 64 + 32 + 32 + 32 + 32;
constexpr int64_t kTableWords = 2;

// A word of inputs is looked up if it has more than kTableBuild + kTableUse * rows spikes. Building its tables costs as
// much as some 170 gathered spikes. Using them costs as much as 4.8 spikes per row, 15 % of its bits. (Measured for
// AVX-512; a gathered spike comes from the second-level cache, a table's entry from the first.)
constexpr double kTableBuild = 170, kTableUse = 4.8;

}  // namespace spikefuse::cpu
