// Sizes of the tiles that products with spikes work on, and of their tables.
#pragma once

#include "../packing.h"

namespace spikefuse::cpu {

// Elements of one cache line, the width that tiles and tables are multiples of.
template <class acc_t>
constexpr int64_t kLine = 64 / sizeof(acc_t);

// Table lookup: the 32 inputs of a word fall into groups, and every possible sum of a group's weights stands in a
// table, one cache line wide. Six additions then do for 32 inputs. Wider groups would need fewer, but twice the tables
// for each bit; the tables of two words, 32 KB, are read almost as fast as one word's, and z half as often.
constexpr int kTableWidths[] = {6, 6, 5, 5, 5, 5};
constexpr int64_t kTableEntries = 64 + 64 + 32 + 32 + 32 + 32;
constexpr int64_t kTableWords = 2;

// A word of inputs is looked up where it has more spikes than this in all rows: its tables cost as much as some 170
// gathered spikes to build, and as much as 4.8 in each row to use, 15 % of its bits (measured for AVX-512; a gathered
// spike comes from the second-level cache, a table's entry from the first).
constexpr double kTableBuild = 170, kTableUse = 4.8;

}  // namespace spikefuse::cpu
