// Fully connected LIF layer in one kernel. A block's tile of the product holds all time steps of a few samples. The
// currents z go from the accumulators through shared memory into the recursion, never to global memory.
#pragma once

#include "../lif.h"
#include "spike_mma.cuh"

namespace spikefuse::cuda {

struct LifLinear {
  const uint32_t* words;  // [T, B, words(N)]
  const float* weight;    // [N, M]
  const float* bias;      // [M] or null
  const float* state;     // [B, M] or null for zeros
  const float *decay, *threshold;
  int64_t decay_stride, threshold_stride;  // 0: one value for all neurons
  Reset reset;
  int64_t T, B, N, M;
  float *spikes, *v;  // [T, B, M]
  float* new_state;   // [B, M]
};

// Bytes of shared memory: the product's buffers first, then in the same place the tile of z, whose rows are padded by
// one element against bank conflicts.
template <class Tile>
constexpr size_t kLifLinearSharedBytes = Tile::kSharedBytes > Tile::kRows*(Tile::kColumns + 1) * sizeof(float)
                                             ? Tile::kSharedBytes
                                             : Tile::kRows * (Tile::kColumns + 1) * sizeof(float);

// A tile takes `steps` time steps of each of its samples: all T steps if they fit. Longer sequences are processed in
// chunks that carry the state through new_state.
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1) lif_linear_kernel(LifLinear p, int steps) {
  constexpr int kPitch = Tile::kColumns + 1;
  const int samples = Tile::kRows / steps;
  const int64_t columns = (p.M + Tile::kColumns - 1) / Tile::kColumns, groups = (p.B + samples - 1) / samples;
  for (int64_t tile = blockIdx.x; tile < groups * columns; tile += gridDim.x) {
    const int64_t first_sample = tile % groups * samples, column = tile / groups * Tile::kColumns;
    for (int64_t first_step = 0; first_step < p.T; first_step += steps) {
      Accumulator<Tile> sum;
      clear<Tile>(sum);
      multiply_tile<Tile>(
          p.words, p.N, p.weight, p.M, column,
          [&](int i) {
            const int64_t b = first_sample + i / steps, t = first_step + i % steps;
            return i < samples * steps && b < p.B && t < p.T ? t * p.B + b : int64_t(-1);
          },
          sum);
      auto* z = shared_memory<float>();
      for_each_sum<Tile>(sum, [&](int row, int m, float value) { z[row * kPitch + m] = value; });
      __syncthreads();
      for (int item = int(threadIdx.x); item < samples * Tile::kColumns; item += int(Tile::kThreads)) {
        const int sample = item / Tile::kColumns, tile_column = item % Tile::kColumns;
        const int64_t b = first_sample + sample, m = column + tile_column;
        if (b >= p.B || m >= p.M) continue;
        const float decay = p.decay[m * p.decay_stride], threshold = p.threshold[m * p.threshold_stride];
        float* carried = p.new_state + b * p.M + m;
        float state = first_step > 0 ? *carried : p.state ? p.state[b * p.M + m] : 0.0f;
        const float* current = z + sample * steps * kPitch + tile_column;
        for (int64_t t = first_step; t < p.T && t < first_step + steps; ++t, current += kPitch) {
          const float v = lif_integrate(decay, state, p.bias ? *current + p.bias[m] : *current);
          const bool spike = lif_fires(v, threshold);
          state = lif_reset(p.reset, v, spike, threshold);
          const int64_t at = (t * p.B + b) * p.M + m;
          p.v[at] = v;
          p.spikes[at] = spike ? 1.0f : 0.0f;
        }
        *carried = state;
      }
      __syncthreads();  // the next product overwrites z
    }
  }
}

}  // namespace spikefuse::cuda
