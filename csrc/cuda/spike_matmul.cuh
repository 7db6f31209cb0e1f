// Kernels of the products with packed spikes, z [R, M] = X [R, N] W [N, M]. One kernel gathers the rows of W that
// spike; the other, in spike_mma.cuh, multiplies on tensor cores. Both are launched. The number of spikes, counted on
// the device, decides which one computes; the other one returns at once.
#pragma once

#include "compaction.cuh"

namespace spikefuse::cuda {

// Device-side switch: gather if the spike count is at most `limit`, tensor cores otherwise. A null count enables both.
struct DensitySwitch {
  const unsigned long long* spikes;
  unsigned long long limit;
};

__device__ __forceinline__ bool use_gather(const DensitySwitch& density) {
  return !density.spikes || *density.spikes <= density.limit;
}
__device__ __forceinline__ bool use_tensor_cores(const DensitySwitch& density) {
  return !density.spikes || *density.spikes > density.limit;
}

// Transposes T matrices X: words [T, R, words of N] -> [N, T, words of R].
void transpose_words(const uint32_t* words, int64_t T, int64_t R, int64_t N, uint32_t* out, cudaStream_t stream);

// Sums the rows of W that spike in a row of N neurons, in order: kCount columns from `rows` on, in rows `stride` apart.
// Returns 0 to a thread that is not `inside`. All threads of the block call this with the same neurons.
template <int kCount, class acc_t>
__device__ __forceinline__ AlignedVector<acc_t, kCount> gather_rows(const uint32_t* words, int64_t N, const acc_t* rows,
                                                                    int64_t stride, bool inside,
                                                                    const SpikeList& list) {
  constexpr int kAhead = 8;
  const int64_t W = words_for(N);
  AlignedVector<acc_t, kCount> sum;
  SF_UNROLL for (int i = 0; i < kCount; ++i) sum.x[i] = acc_t(0);
  for (int64_t first = 0; first < W; first += blockDim.x, rows += blockDim.x * kWordBits * stride) {
    const int64_t w = first + threadIdx.x;
    // Set padding bits would index beyond the weights.
    const uint32_t count = compact_bits(w < W ? words[w] & neurons_of_word(w, N) : 0u, list);
    if (inside) {
      uint32_t k = 0;
      for (; k + kAhead <= count; k += kAhead) {
        AlignedVector<acc_t, kCount> row[kAhead];
        SF_UNROLL for (int i = 0; i < kAhead; ++i) row[i] = load_vector<kCount>(rows + list.position[k + i] * stride);
        SF_UNROLL for (int i = 0; i < kAhead; ++i) {
          SF_UNROLL for (int j = 0; j < kCount; ++j) sum.x[j] += row[i].x[j];
        }
      }
      for (; k < count; ++k) {
        const AlignedVector<acc_t, kCount> row = load_vector<kCount>(rows + list.position[k] * stride);
        SF_UNROLL for (int j = 0; j < kCount; ++j) sum.x[j] += row.x[j];
      }
    }
    __syncthreads();  // the next list overwrites this one
  }
  return sum;
}

// Computes one row of z per block, kCount columns per thread.
template <class acc_t, int kCount>
__global__ void __launch_bounds__(kThreads, 1)
    gather_kernel(const uint32_t* words, int64_t R, int64_t N, const acc_t* weight, int64_t M, acc_t* z,
                  DensitySwitch density) {
  if (!use_gather(density)) return;
  const int64_t columns = int64_t(blockDim.x) * kCount, slabs = (M + columns - 1) / columns;
  for (int64_t task = blockIdx.x; task < R * slabs; task += gridDim.x) {
    const int64_t r = task / slabs, m = task % slabs * columns + int64_t(threadIdx.x) * kCount;
    const AlignedVector<acc_t, kCount> sum =
        gather_rows<kCount>(words + r * words_for(N), N, weight + m, M, m < M, shared_list());
    if (m < M) store_vector(z + r * M + m, sum);
  }
}

}  // namespace spikefuse::cuda
