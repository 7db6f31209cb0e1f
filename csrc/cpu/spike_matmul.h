// How the rows of a spike product are prepared for its kernels, and the sizes of their blocks.
#pragma once

#include <vector>

#include "tile.h"

namespace spikefuse::cpu {

// A column tile is four cache lines wide: a gathered row then costs one address for four vectors, and four sums are
// under way at once, which hides the latency of an addition.
constexpr int64_t kTileLines = 4;
template <class acc_t>
constexpr int64_t kTile = kTileLines * kLine<acc_t>;

// Rows prepared at a time. Which words are looked up is decided for each such chunk and so does not depend on how
// threads share the work.
constexpr int64_t kChunkRows = 4096;

// Below this many spikes an input, copying tiles of the weights would cost more than it saves.
constexpr int64_t kTiledSpikes = 2;

// The spikes of a chunk of rows, as the kernels read them.
struct SpikePlan {
  int64_t rows;
  std::vector<int32_t> table_words;   // words that are looked up
  std::vector<uint32_t> table_bits;   // [groups of kTableWords, rows, kTableWords]; 0 where a group is not full
  std::vector<int32_t> event_words;   // words whose spikes are gathered one by one; those without a spike are left out
  int64_t words_per_block;            // event words whose weights make one tile
  std::vector<int64_t> events_begin;  // [blocks, rows] and an end: where a row's events of a block lie
  std::vector<uint16_t> events;       // the position of a spiking input within its block

  int64_t blocks() const { return (int64_t(event_words.size()) + words_per_block - 1) / words_per_block; }
  int64_t groups() const { return (int64_t(table_words.size()) + kTableWords - 1) / kTableWords; }
};

}  // namespace spikefuse::cpu
