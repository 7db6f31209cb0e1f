// Products with packed spikes on CUDA: Z = X W, and dW = X^T g for its backward pass. Both are the same product once
// the bits of X are transposed.
#include "../checks.h"
#include "launch.h"
#include "spike_matmul.cuh"
#include "spike_mma.cuh"

namespace spikefuse::cuda {

// Adds the number of set bits to *spikes: a sum of integers, the same in any order.
__global__ void count_spikes_kernel(const uint32_t* words, int64_t count, unsigned long long* spikes) {
  unsigned long long sum = 0;
  for (int64_t i = global_thread(); i < count; i += all_threads()) sum += __popc(words[i]);
  sum = block_sum(sum, shared_memory<unsigned long long>());
  if (threadIdx.x == 0 && sum) atomicAdd(spikes, sum);
}

// Transposes T matrices X: words [T, R, W] -> [N, T, words of R]. A warp transposes 32 rows of 32 bits.
__global__ void transpose_words_kernel(const uint32_t* words, int64_t T, int64_t R, int64_t N, uint32_t* out) {
  const int64_t W = words_for(N), groups = words_for(R), tiles = T * groups * W;
  const int lane = threadIdx.x % 32;
  // Goes along the words of a group of rows, so that neighbouring warps read the same lines of memory.
  for (int64_t tile = global_thread() / 32; tile < tiles; tile += all_threads() / 32) {
    const int64_t t = tile / W / groups, group = tile / W % groups, w = tile % W;
    const int64_t r = group * kWordBits + lane, n = w * kWordBits + lane;
    const uint32_t word = r < R ? words[(t * R + r) * W + w] : 0u;
    uint32_t turned = 0;
    SF_UNROLL for (int bit = 0; bit < kWordBits; ++bit) {
      const uint32_t column = __ballot_sync(kAllLanes, word >> bit & 1u);
      if (lane == bit) turned = column;
    }
    if (n < N) out[(n * T + t) * groups + group] = turned;
  }
}

void transpose_words(const uint32_t* words, int64_t T, int64_t R, int64_t N, uint32_t* out, cudaStream_t stream) {
  const int64_t tiles = T * words_for(R) * words_for(N);
  launch(transpose_words_kernel, grid_for(tiles, kThreads / 32), kThreads, 0, stream, words, T, R, N, out);
}

template <class acc_t, int kCount>
static void gather(const uint32_t* words, int64_t R, int64_t N, const acc_t* weight, int64_t M, acc_t* z,
                   DensitySwitch density, cudaStream_t stream) {
  const unsigned threads = gather_threads(M, kCount);
  const int64_t tasks = R * divide_up(M, int64_t(threads) * kCount);
  launch(gather_kernel<acc_t, kCount>, grid_for(tasks, 1), threads, list_shared_bytes(threads), stream, words, R, N,
         weight, M, z, density);
}

template <class Tile>
static void multiply_on_tensor_cores(const uint32_t* words, int64_t R, int64_t N, const float* weight, int64_t M,
                                     float* z, DensitySwitch density, cudaStream_t stream) {
  const int64_t tiles = divide_up(R, Tile::kRows) * divide_up(M, Tile::kColumns);
  launch(spike_mma_kernel<Tile>, grid_for(tiles, 1), Tile::kThreads, Tile::kSharedBytes, stream, words, R, N, weight, M,
         z, density);
}

// Computes z [R, M] = X [R, N] times weight [N, M].
template <class acc_t>
static void multiply(const uint32_t* words, int64_t R, int64_t N, const Tensor& weight, int64_t M, Tensor& z,
                     cudaStream_t stream) {
  if (R == 0 || M == 0) return;
  const acc_t* w = weight.const_data_ptr<acc_t>();
  acc_t* out = z.mutable_data_ptr<acc_t>();
  DensitySwitch density{nullptr, 0};
  Tensor spikes;
  if constexpr (std::is_same_v<acc_t, float>) {
    if (tensor_cores_may_pay(R, N)) {
      spikes = torch::stable::new_zeros(weight, {1}, ScalarType::Long);
      auto* count = reinterpret_cast<unsigned long long*>(spikes.mutable_data_ptr<int64_t>());
      density = {count, gathered_spikes(R, N)};
      launch(count_spikes_kernel, grid_for(R * words_for(N), 8 * kThreads), kThreads,
             kThreads / 32 * sizeof(unsigned long long), stream, words, R * words_for(N), count);
      if (large_tiles(R, M))
        multiply_on_tensor_cores<LargeTile>(words, R, N, w, M, out, density, stream);
      else
        multiply_on_tensor_cores<SmallTile>(words, R, N, w, M, out, density, stream);
    }
  }
  constexpr int count = 16 / sizeof(acc_t);
  if (M % count == 0 && reinterpret_cast<uintptr_t>(w) % 16 == 0)
    gather<acc_t, count>(words, R, N, w, M, out, density, stream);
  else
    gather<acc_t, 1>(words, R, N, w, M, out, density, stream);
}

static void multiply(const uint32_t* words, int64_t R, int64_t N, const Tensor& weight, int64_t M, Tensor& z,
                     cudaStream_t stream) {
  if (weight.scalar_type() == ScalarType::Double)
    multiply<double>(words, R, N, weight, M, z, stream);
  else
    multiply<float>(words, R, N, weight, M, z, stream);
}

Tensor spike_matmul(Tensor words, Tensor weight) {
  check_spike_matmul(words, weight);
  const int64_t R = words.size(0), N = weight.size(0), M = weight.size(1);
  const DeviceStreamGuard device(weight);
  Tensor z = torch::stable::new_empty(weight, {R, M});
  const Tensor rows = torch::stable::contiguous(words), input_major = torch::stable::contiguous(weight);
  multiply(words_data(rows), R, N, input_major, M, z, device.stream());
  return z;
}

Tensor spike_matmul_transposed(Tensor words, Tensor grad, int64_t neurons) {
  check_spike_matmul_transposed(words, grad, neurons);
  const int64_t R = grad.size(0), M = grad.size(1);
  const DeviceStreamGuard device(grad);
  Tensor out = torch::stable::new_empty(grad, {neurons, M});
  const Tensor rows = torch::stable::contiguous(words), grad_rows = torch::stable::contiguous(grad);
  Tensor transposed = torch::stable::new_empty(words, {neurons, words_for(R)});
  if (transposed.numel() > 0)
    transpose_words(words_data(rows), 1, R, neurons, mutable_words_data(transposed), device.stream());
  multiply(words_data(transposed), neurons, R, grad_rows, M, out, device.stream());
  return out;
}

}  // namespace spikefuse::cuda
