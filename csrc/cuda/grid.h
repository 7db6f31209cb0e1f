// Launch geometry: pure host functions, tested over sizes without a GPU.
#pragma once

#include <algorithm>
#include <cstdint>

namespace spikefuse::cuda {

constexpr unsigned kThreads = 256;

// Number of blocks of a grid-stride loop over `work` items: at least one, at most as many as keep any current GPU busy.
// This fits every grid dimension.
constexpr int64_t kMostBlocks = 32768;
inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline unsigned grid_for(int64_t work, int64_t per_block) {
  return static_cast<unsigned>(std::clamp<int64_t>(divide_up(work, per_block), 1, kMostBlocks));
}

// Threads per block of a kernel whose threads walk through time independently and hold many registers. Small work gets
// small blocks, so that each of a large GPU's multiprocessors (some 150) has a block: a short walk over few neurons is
// bound by latency.
constexpr unsigned kScanThreads = 128;
inline unsigned scan_threads(int64_t work) {
  unsigned threads = kScanThreads;
  while (threads > 32 && work < int64_t(threads) * 150) threads /= 2;
  return threads;
}

// Threads per block that gathers rows of `columns` weights, `per_thread` weights each.
inline unsigned gather_threads(int64_t columns, int per_thread) {
  return static_cast<unsigned>(std::clamp<int64_t>(divide_up(divide_up(columns, per_thread), 32) * 32, 32, kThreads));
}

// Spike count up to which gathering is faster than tensor cores, for [R, N] times [N, M] in fp32. Gathering reads
// density * R N M weights, mostly from the second-level cache; the tensor cores do 3 R N M multiplications. By their
// rates on a Hopper GPU, some 5 TB/s and 400 Tflop/s, both take equally long at a density of 2 %. This is an estimate;
// no GPU has confirmed it.
inline uint64_t gathered_spikes(int64_t R, int64_t N) { return static_cast<uint64_t>(0.02 * double(R) * double(N)); }

// A small product takes some microseconds either way, less than counting its spikes. Neither this choice nor the one
// above depends on the number of columns: an element of a product is the same whichever columns are beside it.
inline bool tensor_cores_may_pay(int64_t R, int64_t N) {
  return R >= 32 && N >= 32 && double(R) * double(N) >= 1 << 18;
}

// Selects tiles of 128 x 128 if there are enough of them for some 150 multiprocessors, else of 64 x 64.
inline bool large_tiles(int64_t R, int64_t M) { return divide_up(R, 128) * divide_up(M, 128) >= 150; }

}  // namespace spikefuse::cuda
