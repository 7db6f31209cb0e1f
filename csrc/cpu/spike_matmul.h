// Plan of a spike product: how rows are prepared for the kernels, and block sizes.
#pragma once

#include <vector>

#include "tile.h"

namespace spikefuse::cpu {

// A column tile is four cache lines wide. A gathered row then costs one address for four vectors, and four independent
// sums hide the latency of an addition.
constexpr int64_t kTileLines = 4;
template <class acc_t>
constexpr int64_t kTile = kTileLines * kLine<acc_t>;

// Rows prepared at a time. The words to look up are chosen per chunk, so the choice does not depend on how threads
// share the work.
constexpr int64_t kChunkRows = 4096;

// With fewer spikes per input than this, copying tiles of the weights costs more than it saves.
constexpr int64_t kTiledSpikes = 2;

// Spikes of a chunk of rows in the form that the kernels read.
struct SpikePlan {
  int64_t rows;
  std::vector<int32_t> table_words;  // words to look up in tables
  std::vector<uint32_t>
      table_bits;  // [groups of kTableWords, rows, kTableWords]; 0 in the missing words of the last group
  std::vector<int32_t> event_words;   // words whose spikes are gathered one by one; words without a spike are left out
  int64_t words_per_block;            // number of event words whose weights make one tile
  std::vector<int64_t> events_begin;  // [blocks, rows] and one end: start of a row's events of a block
  std::vector<uint16_t> events;       // position of a spiking input within its block

  int64_t blocks() const { return (int64_t(event_words.size()) + words_per_block - 1) / words_per_block; }
  int64_t groups() const { return (int64_t(table_words.size()) + kTableWords - 1) / kTableWords; }
};

}  // namespace spikefuse::cpu
