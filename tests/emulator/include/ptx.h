// The instructions of csrc/cuda/ptx.cuh in plain code.
#pragma once

#include "../emulator.h"

namespace spikefuse::cuda {

inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Rounds to the nearest bf16, ties to even; NaN stays NaN.
inline uint32_t round_bf16(float x) {
  const uint32_t bits = bits_of(x);
  if (x != x) return 0x7fff;
  return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

inline uint32_t pack_bf16(float low, float high) { return round_bf16(high) << 16 | round_bf16(low); }

inline void unpack_bf16(uint32_t pair, float* two) {
  two[0] = float_of(pair << 16);
  two[1] = float_of(pair & 0xffff0000u);
}

inline void load_matrices_transposed(uint32_t (&x)[4], const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) throw std::logic_error("ldmatrix: a row is not aligned to 16 bytes");
  struct Row {
    uint16_t element[8];
  };
  const auto rows = emulator::exchange(0xffffffffu, "ldmatrix", *static_cast<const Row*>(row));
  const int lane = emulator::lane();
  for (int m = 0; m < 4; ++m) {
    const int first = 8 * m + 2 * (lane % 4), column = lane / 4;
    x[m] = uint32_t(rows[first].element[column]) | uint32_t(rows[first + 1].element[column]) << 16;
  }
}

inline void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Operands {
    uint32_t a[4], b[2];
  };
  const auto of = emulator::exchange(0xffffffffu, "mma", Operands{{a[0], a[1], a[2], a[3]}, {b0, b1}});
  const int g = emulator::lane() / 4, c = emulator::lane() % 4;
  // Lane 4 (row % 8) + k % 8 / 2 holds (row, k); lane 4 column + k % 8 / 2 holds (k, column).
  float left[2][16], right[2][16];
  for (int quarter = 0; quarter < 4; ++quarter) {
    const Operands row = of[4 * g + quarter];
    const Operands columns[2] = {of[4 * (2 * c) + quarter], of[4 * (2 * c + 1) + quarter]};
    for (int half = 0; half < 2; ++half) {
      const int k = 8 * half + 2 * quarter;
      for (int i = 0; i < 2; ++i) {
        unpack_bf16(row.a[i + 2 * half], &left[i][k]);
        unpack_bf16(columns[i].b[half], &right[i][k]);
      }
    }
  }
  for (int k = 0; k < 16; ++k)
    for (int i = 0; i < 4; ++i) d[i] += left[i / 2][k] * right[i % 2][k];
}

}  // namespace spikefuse::cuda
