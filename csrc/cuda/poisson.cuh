// Kernel of Poisson encoding: raw pointers and sizes, no torch.
#pragma once

#include "../packing.h"
#include "../philox.h"
#include "device.cuh"

namespace spikefuse::cuda {

// Draws one word per thread: eight draws of four inputs each.
template <class io_t>
__global__ void poisson_kernel(const io_t* rates, int64_t T, int64_t B, int64_t N, uint64_t seed, uint32_t offset,
                               uint32_t* words) {
  const int64_t W = words_for(N), total = T * B * W;
  for (int64_t i = global_thread(); i < total; i += all_threads()) {
    const int64_t w = i % W, b = i / W % B, t = i / W / B;
    uint32_t word = 0;
    for (int q = 0; q < 8; ++q) {
      const int64_t first = w * kWordBits + 4 * q;
      if (first >= N) break;
      const PhiloxResult draws = poisson_draws(uint32_t(first / 4), uint32_t(b), uint32_t(t), seed, offset);
      for (int j = 0; j < 4 && first + j < N; ++j) {
        const uint64_t threshold = poisson_threshold(static_cast<double>(rates[b * N + first + j]));
        word |= uint32_t(draws.x[j] < threshold) << (4 * q + j);
      }
    }
    words[i] = word;
  }
}

}  // namespace spikefuse::cuda
