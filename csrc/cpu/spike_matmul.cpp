// Products with packed spikes on the CPU: Z = X W, and dW = X^T g for its backward pass. Both are the same product once
// the bits of X are transposed.
//
// Rows are processed in chunks. In each chunk, a word of 32 inputs without spikes is skipped. A dense word is looked up
// in tables of sums of its inputs' weights. The spikes of all other words are listed once. Every column tile gathers by
// these lists from a copy of its weights that stays in the second-level cache.
#include "spike_matmul.h"

#include <algorithm>
#include <limits>

#include "../checks.h"
#include "parallel.h"

#define SF_KERNELS "spike_matmul.inl"
#include "foreach_isa.h"

namespace spikefuse::cpu {

// Event lists hold 32-bit row numbers.
static void check_list_range(int64_t rows, const char* name) {
  STD_TORCH_CHECK(rows <= std::numeric_limits<int32_t>::max(), "spikefuse: expected at most 2^31 - 1 ", name, ", got ",
                  rows);
}

static int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Words per task that only reads bits: some tens of microseconds.
constexpr int64_t kScanWords = 1 << 16;

// Counts the spikes in every word column of `rows` rows.
static std::vector<int64_t> count_word_spikes(const uint32_t* words, int64_t rows, int64_t W) {
  std::vector<int64_t> spikes(W);
  // Neighbouring words, at least a cache line of them, so that rows are read by whole lines.
  const int64_t columns = std::max<int64_t>(64, kScanWords / rows);
  parallel_for(0, divide_up(W, columns), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      SF_DISPATCH_ISA(
          count_spikes(words + i * columns, W, rows, std::min(columns, W - i * columns), spikes.data() + i * columns));
  });
  return spikes;
}

static void copy_table_words(const uint32_t* words, int64_t W, SpikePlan& plan) {
  plan.table_bits.assign(plan.groups() * plan.rows * kTableWords, 0);
  parallel_for(0, plan.groups(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      uint32_t* bits = plan.table_bits.data() + group * plan.rows * kTableWords;
      const int64_t first = group * kTableWords;
      const int64_t count = std::min<int64_t>(kTableWords, plan.table_words.size() - first);
      for (int64_t r = 0; r < plan.rows; ++r)
        for (int64_t i = 0; i < count; ++i) bits[r * kTableWords + i] = words[r * W + plan.table_words[first + i]];
    }
  });
}

static void collect_events(const uint32_t* words, int64_t W, SpikePlan& plan) {
  const int64_t grain = std::max<int64_t>(1, kScanWords / std::max<int64_t>(plan.event_words.size(), 1));
  std::vector<int64_t>& begins = plan.events_begin;
  begins.assign(plan.blocks() * plan.rows + 1, 0);
  parallel_for(0, plan.rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) SF_DISPATCH_ISA(count_events(plan, words + r * W, r, begins.data()));
  });
  int64_t total = 0;
  for (int64_t& value : begins) {
    const int64_t count = value;
    value = total;
    total += count;
  }
  plan.events.resize(total);
  parallel_for(0, plan.rows, grain, [&](int64_t begin, int64_t end) {
    SF_DISPATCH_ISA(list_events(plan, words, W, begin, end, plan.events.data()));
  });
}

// Number of input words whose weights make one tile. A tile fills an eighth of the second-level cache; z, the events
// and the weights to be copied pass through the rest. If spikes are so few that a row would find only one or two in a
// tile, which costs less than loading and storing z, the tile grows up to half of the cache. Positions within a block
// are 16-bit numbers.
template <class acc_t>
static int64_t words_per_block(double density) {
  const double fit = double(second_level_cache()) / double(kTile<acc_t> * sizeof(acc_t));
  const double inputs = std::min(std::max(fit / 8, 4 / density), fit / 2);
  return std::min<int64_t>(65536, std::max<int64_t>(int64_t(inputs), kTableWords * kWordBits)) / kWordBits;
}

template <class acc_t>
static void multiply_rows(const uint32_t* words, int64_t rows, int64_t N, const acc_t* weight, int64_t M, acc_t* z) {
  constexpr int64_t kSlab = 1024;  // columns per task, so that even a single row occupies several threads
  const int64_t slabs = divide_up(M, kSlab), W = words_for(N);
  parallel_tasks(
      rows * slabs, [&] { return std::vector<int32_t>(N + isa_generic::kAppendSlack); },
      [&](std::vector<int32_t>& list, int64_t task) {
        const int64_t r = task / slabs, column = task % slabs * kSlab;
        SF_DISPATCH_ISA(multiply_row(words + r * W, N, weight + column, M, std::min(kSlab, M - column), list.data(),
                                     z + r * M + column));
      });
}

template <class acc_t>
struct TileScratch {
  AlignedArray<acc_t> tile, table, z;
};

template <class acc_t>
static void multiply_tiles(const SpikePlan& plan, int64_t N, const acc_t* weight, int64_t M, acc_t* out) {
  constexpr int64_t tile = kTile<acc_t>;
  const int64_t tiles = divide_up(M, tile);
  // If there are few tiles, splits them by rows, so that every thread gets a few tasks. Each part copies the weights
  // again.
  const int64_t wanted = divide_up(4 * torch::stable::get_num_threads(), tiles);
  const int64_t part = divide_up(plan.rows, std::min(wanted, std::max<int64_t>(1, plan.rows / 256)));
  const int64_t parts = divide_up(plan.rows, part);
  const int64_t tile_words = std::max(plan.words_per_block, kTableWords);
  parallel_tasks(
      tiles * parts,
      [&] {
        return TileScratch<acc_t>{AlignedArray<acc_t>(tile_words * kWordBits * tile),
                                  AlignedArray<acc_t>(kTableWords * kTableEntries * kLine<acc_t>),
                                  AlignedArray<acc_t>(part * tile)};
      },
      [&](TileScratch<acc_t>& scratch, int64_t task) {
        const int64_t column = task / parts * tile, columns = std::min(tile, M - column);
        const int64_t begin = task % parts * part, end = std::min(begin + part, plan.rows);
        SF_DISPATCH_ISA(multiply_tile(plan, begin, end, weight + column, N, M, columns, scratch.tile.data(),
                                      scratch.table.data(), scratch.z.data()));
        SF_DISPATCH_ISA(store_tile(scratch.z.data(), end - begin, columns, out + begin * M + column, M));
      });
}

template <class acc_t>
static void multiply_chunk(const uint32_t* words, int64_t rows, int64_t N, const acc_t* weight, int64_t M, acc_t* z) {
  const int64_t W = words_for(N);
  const std::vector<int64_t> word_spikes = count_word_spikes(words, rows, W);
  SpikePlan plan;
  plan.rows = rows;
  int64_t spikes = 0, events = 0;
  for (int64_t w = 0; w < W; ++w) {
    const bool dense = double(word_spikes[w]) > kTableBuild + kTableUse * double(rows);
    if (word_spikes[w] > 0) (dense ? plan.table_words : plan.event_words).push_back(int32_t(w));
    spikes += word_spikes[w];
    if (!dense) events += word_spikes[w];
  }
  const int64_t inputs = (plan.table_words.size() + plan.event_words.size()) * kWordBits;
  if (spikes < kTiledSpikes * inputs) return multiply_rows(words, rows, N, weight, M, z);
  const double event_inputs = double(rows) * double(plan.event_words.size() * kWordBits);
  plan.words_per_block = words_per_block<acc_t>(double(events) / std::max(event_inputs, 1.0));
  copy_table_words(words, W, plan);
  collect_events(words, W, plan);
  multiply_tiles(plan, N, weight, M, z);
}

// Computes z [R, M] = X [R, N] times weight [N, M].
template <class acc_t>
static void multiply_chunks(const uint32_t* words, int64_t R, int64_t N, const acc_t* weight, int64_t M, acc_t* z) {
  if (R == 0 || M == 0) return;
  use_huge_pages(z, R * M * int64_t(sizeof(acc_t)));
  const int64_t chunk = divide_up(R, divide_up(R, kChunkRows)), W = words_for(N);
  for (int64_t r = 0; r < R; r += chunk) multiply_chunk(words + r * W, std::min(chunk, R - r), N, weight, M, z + r * M);
}

static void multiply(const uint32_t* words, int64_t R, int64_t N, const Tensor& weight, int64_t M, Tensor& z) {
  if (weight.scalar_type() == ScalarType::Double)
    multiply_chunks(words, R, N, weight.const_data_ptr<double>(), M, z.mutable_data_ptr<double>());
  else
    multiply_chunks(words, R, N, weight.const_data_ptr<float>(), M, z.mutable_data_ptr<float>());
}

// Transposes the bits of X [R, N] to X^T, [N, words of R].
static std::vector<uint32_t> transpose_words(const uint32_t* words, int64_t R, int64_t N) {
  constexpr int64_t kColumns = 16;  // words per task: their rows of X are a cache line, their rows of X^T fit L2
  const int64_t W = words_for(N);
  std::vector<uint32_t> out(N * words_for(R));
  parallel_for(0, divide_up(W, kColumns), 1, [&](int64_t begin, int64_t end) {
    SF_DISPATCH_ISA(transpose_columns(words, R, N, begin * kColumns, std::min(end * kColumns, W), out.data()));
  });
  return out;
}

Tensor spike_matmul(Tensor words, Tensor weight) {
  check_spike_matmul(words, weight);
  const int64_t R = words.size(0), N = weight.size(0), M = weight.size(1);
  check_list_range(N, "inputs");
  Tensor z = torch::stable::new_empty(weight, {R, M});
  const Tensor rows = torch::stable::contiguous(words), input_major = torch::stable::contiguous(weight);
  multiply(words_data(rows), R, N, input_major, M, z);
  return z;
}

Tensor spike_matmul_transposed(Tensor words, Tensor grad, int64_t neurons) {
  check_spike_matmul_transposed(words, grad, neurons);
  const int64_t R = grad.size(0), M = grad.size(1);
  check_list_range(R, "rows");
  Tensor out = torch::stable::new_empty(grad, {neurons, M});
  const Tensor rows = torch::stable::contiguous(words), grad_rows = torch::stable::contiguous(grad);
  const std::vector<uint32_t> transposed = transpose_words(words_data(rows), R, neurons);
  multiply(transposed.data(), neurons, R, grad_rows, M, out);
  return out;
}

}  // namespace spikefuse::cpu
