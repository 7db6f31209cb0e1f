// How work is cut into blocks: pure host functions, tested over sizes without a GPU.
#pragma once

#include <algorithm>
#include <cstdint>

namespace spikefuse::cuda {

constexpr unsigned kThreads = 256;

// Blocks of a grid-stride loop over `work` items: at least one, and no more than keep any current GPU busy, so that the
// count fits every grid dimension whatever the work is.
constexpr int64_t kMostBlocks = 32768;
inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline unsigned grid_for(int64_t work, int64_t per_block) {
  return static_cast<unsigned>(std::clamp<int64_t>(divide_up(work, per_block), 1, kMostBlocks));
}

// Threads of a block, where each walks through time on its own and holds many registers: no more than leave no
// multiprocessor of a large GPU (some 150) without a block, since a short walk over few neurons is bound by latency.
constexpr unsigned kScanThreads = 128;
inline unsigned scan_threads(int64_t work) {
  unsigned threads = kScanThreads;
  while (threads > 32 && work < int64_t(threads) * 150) threads /= 2;
  return threads;
}

// Threads of a block that gathers rows of `columns` weights, `per_thread` of them each.
inline unsigned gather_threads(int64_t columns, int per_thread) {
  return static_cast<unsigned>(std::clamp<int64_t>(divide_up(divide_up(columns, per_thread), 32) * 32, 64, kThreads));
}

// The two products of packed spikes, [R, N] times [N, M] in fp32. Gathering reads density * R N M weights, for the most
// part from the second-level cache; the tensor cores do 3 R N M multiplications. By their rates on a Hopper GPU, some 5
// TB/s and 400 Tflop/s, both take as long at a density of 2 %: an estimate, which no GPU has confirmed.
inline uint64_t gathered_spikes(int64_t R, int64_t N) { return static_cast<uint64_t>(0.02 * double(R) * double(N)); }

// Small products take some microseconds either way, less than it takes to count the spikes. The number of columns plays
// no part, nor in what is above: an element of a product is the same whatever columns stand beside it.
inline bool tensor_cores_may_pay(int64_t R, int64_t N) {
  return R >= 32 && N >= 32 && double(R) * double(N) >= 1 << 18;
}

// Tiles of 128 x 128, where they are enough to occupy some 150 multiprocessors; else of 64 x 64.
inline bool large_tiles(int64_t R, int64_t M) { return divide_up(R, 128) * divide_up(M, 128) >= 150; }

}  // namespace spikefuse::cuda
