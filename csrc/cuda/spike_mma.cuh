// Product of packed spikes and fp32 weights on tensor cores: z [R, M] = X [R, N] W [N, M].
//
// Spikes are exact in bf16, and a weight is the sum of three bf16 numbers, so three passes give the result of an fp32
// product. Bits are expanded to bf16 in registers. Each block splits its weights once, on their way into shared memory.
// Shared memory has two buffers: while one is multiplied, the weights of the next 32 inputs are read into registers.
#pragma once

#include "../packing.h"
#include "ptx.cuh"
#include "spike_matmul.cuh"

namespace spikefuse::cuda {

constexpr int kTerms = 3;

// A block's tile of z, shared by kWarpRows x kWarpColumns warps.
template <int kRows_, int kColumns_, int kWarpRows, int kWarpColumns>
struct MmaTile {
  static constexpr int kRows = kRows_, kColumns = kColumns_;
  static constexpr unsigned kThreads = 32 * kWarpRows * kWarpColumns;
  static constexpr int kRowTiles = kRows / kWarpRows / 16, kColumnTiles = kColumns / kWarpColumns / 8;
  static constexpr int kWarpColumnsCount = kWarpColumns;
  // Rows are padded by 16 bytes, so that the eight rows of a matrix lie in different banks.
  static constexpr int kPitch = kColumns + 8;
  static constexpr int kTermSize = int(kWordBits) * kPitch;  // elements of 16 bits
  // vectors of four weights that each thread moves
  static constexpr int kMoves = int(kWordBits) * kColumns / 4 / int(kThreads);
  static constexpr int kPacksPerRow = kColumns / 4;
  static constexpr size_t kStageBytes = kTerms * kTermSize * sizeof(uint16_t) + kRows * sizeof(uint32_t);
  static constexpr size_t kSharedBytes = 2 * kStageBytes;
  static_assert(kMoves * 4 * int(kThreads) == int(kWordBits) * kColumns && kColumnTiles % 2 == 0);
};
using LargeTile = MmaTile<128, 128, 2, 4>;
using SmallTile = MmaTile<64, 64, 2, 2>;

template <class Tile>
using Accumulator = float[Tile::kRowTiles][Tile::kColumnTiles][4];

// Expands the bits `shift` and `shift` + 1 to two bf16 numbers.
__device__ __forceinline__ uint32_t expand_bits(uint32_t word, int shift) {
  const uint32_t pair = word >> shift & 3u;
  return ((pair & 1u) | (pair & 2u) << 15) * 0x3f80u;  // 1.0
}

// Subtracts the bf16 parts from two floats; the rest of an infinite or NaN float is 0.
__device__ __forceinline__ void subtract_bf16(float& low, float& high, uint32_t parts) {
  const uint32_t bits[2] = {parts << 16, parts & 0xffff0000u};
  float part[2];
  memcpy(part, bits, sizeof part);
  low = fabsf(part[0]) < INFINITY ? low - part[0] : 0.0f;
  high = fabsf(part[1]) < INFINITY ? high - part[1] : 0.0f;
}

// Multiplies one tile, columns from `column` on. Row i of the tile is words[row_of(i)], or zero if row_of(i) is
// negative.
template <class Tile, class RowOf>
__device__ __forceinline__ void multiply_tile(const uint32_t* words, int64_t N, const float* weight, int64_t M,
                                              int64_t column, const RowOf& row_of, Accumulator<Tile>& sum) {
  const int64_t W = words_for(N);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_row = warp / Tile::kWarpColumnsCount * Tile::kRowTiles * 16;
  const int warp_column = warp % Tile::kWarpColumnsCount * Tile::kColumnTiles * 8;
  auto* memory = shared_memory<unsigned char>();
  const bool packed = M % 4 == 0 && reinterpret_cast<uintptr_t>(weight) % 16 == 0;

  AlignedVector<float, 4> moved[Tile::kMoves];
  uint32_t moved_word = 0;
  const int64_t loaded_row = threadIdx.x < unsigned(Tile::kRows) ? row_of(int(threadIdx.x)) : -1;
  const auto read = [&](int64_t w) {
    SF_UNROLL for (int i = 0; i < Tile::kMoves; ++i) {
      const int at = int(threadIdx.x) + i * int(Tile::kThreads);
      const int64_t n = w * kWordBits + at / Tile::kPacksPerRow, m = column + at % Tile::kPacksPerRow * 4;
      SF_UNROLL for (int j = 0; j < 4; ++j) moved[i].x[j] = 0.0f;
      if (n < N && packed && m < M) {
        moved[i] = load_vector<4>(weight + n * M + m);
      } else if (n < N && !packed) {
        SF_UNROLL for (int j = 0; j < 4; ++j) if (m + j < M) moved[i].x[j] = weight[n * M + m + j];
      }
    }
    moved_word = loaded_row >= 0 ? words[loaded_row * W + w] : 0u;
  };
  const auto write = [&](int stage) {
    auto* terms = reinterpret_cast<uint16_t*>(memory + stage * Tile::kStageBytes);
    SF_UNROLL for (int i = 0; i < Tile::kMoves; ++i) {
      const int at = int(threadIdx.x) + i * int(Tile::kThreads);
      const int to = at / Tile::kPacksPerRow * Tile::kPitch + at % Tile::kPacksPerRow * 4;
      SF_UNROLL for (int term = 0; term < kTerms; ++term) {
        AlignedVector<uint32_t, 2> parts;
        SF_UNROLL for (int j = 0; j < 2; ++j) {
          float &low = moved[i].x[2 * j], &high = moved[i].x[2 * j + 1];
          parts.x[j] = pack_bf16(low, high);
          subtract_bf16(low, high, parts.x[j]);
        }
        *reinterpret_cast<AlignedVector<uint32_t, 2>*>(terms + term * Tile::kTermSize + to) = parts;
      }
    }
    if (threadIdx.x < unsigned(Tile::kRows))
      reinterpret_cast<uint32_t*>(terms + kTerms * Tile::kTermSize)[threadIdx.x] = moved_word;
  };

  read(0);
  write(0);
  __syncthreads();
  for (int64_t w = 0; w < W; ++w) {
    const int stage = int(w % 2);
    if (w + 1 < W) read(w + 1);
    const auto* terms = reinterpret_cast<const uint16_t*>(memory + stage * Tile::kStageBytes);
    const auto* tile_words = reinterpret_cast<const uint32_t*>(terms + kTerms * Tile::kTermSize);
    SF_UNROLL for (int half = 0; half < 2; ++half) {
      uint32_t a[Tile::kRowTiles][4];
      SF_UNROLL for (int i = 0; i < Tile::kRowTiles; ++i) {
        const int row = warp_row + i * 16 + lane / 4, shift = half * 16 + lane % 4 * 2;
        const uint32_t upper = tile_words[row], lower = tile_words[row + 8];
        a[i][0] = expand_bits(upper, shift);
        a[i][1] = expand_bits(lower, shift);
        a[i][2] = expand_bits(upper, shift + 8);
        a[i][3] = expand_bits(lower, shift + 8);
      }
      SF_UNROLL for (int term = 0; term < kTerms; ++term) {
        SF_UNROLL for (int j = 0; j < Tile::kColumnTiles; j += 2) {
          uint32_t b[4];
          load_matrices_transposed(b, terms + term * Tile::kTermSize + (half * 16 + lane % 16) * Tile::kPitch +
                                          warp_column + j * 8 + lane / 16 * 8);
          SF_UNROLL for (int i = 0; i < Tile::kRowTiles; ++i) {
            multiply_add(sum[i][j], a[i], b[0], b[1]);
            multiply_add(sum[i][j + 1], a[i], b[2], b[3]);
          }
        }
      }
    }
    if (w + 1 < W) write(1 - stage);
    __syncthreads();
  }
}

// Calls body(row, column, sum) for every element of the tile that this thread holds.
template <class Tile, class Body>
__device__ __forceinline__ void for_each_sum(const Accumulator<Tile>& sum, const Body& body) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_row = warp / Tile::kWarpColumnsCount * Tile::kRowTiles * 16;
  const int warp_column = warp % Tile::kWarpColumnsCount * Tile::kColumnTiles * 8;
  SF_UNROLL for (int i = 0; i < Tile::kRowTiles; ++i) {
    SF_UNROLL for (int j = 0; j < Tile::kColumnTiles; ++j) {
      SF_UNROLL for (int k = 0; k < 4; ++k)
          body(warp_row + i * 16 + lane / 4 + k / 2 * 8, warp_column + j * 8 + lane % 4 * 2 + k % 2, sum[i][j][k]);
    }
  }
}

template <class Tile>
__device__ __forceinline__ void clear(Accumulator<Tile>& sum) {
  SF_UNROLL for (int i = 0; i < Tile::kRowTiles; ++i) {
    SF_UNROLL for (int j = 0; j < Tile::kColumnTiles; ++j) {
      SF_UNROLL for (int k = 0; k < 4; ++k) sum[i][j][k] = 0.0f;
    }
  }
}

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads)
    spike_mma_kernel(const uint32_t* words, int64_t R, int64_t N, const float* weight, int64_t M, float* z,
                     DensitySwitch density) {
  if (!use_tensor_cores(density)) return;
  const int64_t columns = (M + Tile::kColumns - 1) / Tile::kColumns, rows = (R + Tile::kRows - 1) / Tile::kRows;
  for (int64_t tile = blockIdx.x; tile < rows * columns; tile += gridDim.x) {
    // Neighbouring blocks share their columns, and so read the same weights.
    const int64_t first_row = tile % rows * Tile::kRows, column = tile / rows * Tile::kColumns;
    Accumulator<Tile> sum;
    clear<Tile>(sum);
    multiply_tile<Tile>(
        words, N, weight, M, column, [&](int i) { return first_row + i < R ? first_row + i : int64_t(-1); }, sum);
    for_each_sum<Tile>(sum, [&](int row, int m, float value) {
      if (first_row + row < R && column + m < M) z[(first_row + row) * M + column + m] = value;
    });
  }
}

}  // namespace spikefuse::cuda
