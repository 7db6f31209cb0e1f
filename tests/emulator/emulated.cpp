// Library of ops spikefuse_emulated: the launchers and kernels of csrc/cuda on the emulator, and ops for the tests of
// the emulator itself.
#include "../../csrc/checks.h"
#include "../../csrc/cuda/device.cuh"
#include "../../csrc/cuda/grid.h"
#include "../../csrc/cuda/launch.h"
#include "../../csrc/cuda/spike_mma.cuh"
#include "../../csrc/schemas.h"

namespace spikefuse::cuda {

// Reverses x within each block of `threads` elements, through shared memory.
__global__ void reverse_kernel(const float* x, float* out, bool barrier) {
  auto* memory = shared_memory<float>();
  const int64_t first = int64_t(blockIdx.x) * blockDim.x;
  memory[threadIdx.x] = x[first + threadIdx.x];
  if (barrier) __syncthreads();
  out[first + threadIdx.x] = memory[blockDim.x - 1 - threadIdx.x];
}

// Deliberate mistakes for the tests.
enum class Mistake : int64_t {
  none,
  no_barrier,
  half_at_barrier,
  half_in_warp,
  shared_too_small,
  reads_past_the_end,
  one_block_misses_grid_barrier,
  not_cooperative,
};

__global__ void diverging_kernel(bool in_warp) {
  if (threadIdx.x % 2) return;
  if (in_warp)
    __syncwarp();
  else
    __syncthreads();
}

__global__ void copy_kernel(const float* x, float* out, int64_t count) {
  for (int64_t i = global_thread(); i < count; i += all_threads()) out[i] = x[i];
}

// Each block sums the values that all blocks have written before the barrier.
__global__ void meeting_kernel(float* written, float* sums, bool barrier, bool one_leaves) {
  written[global_thread()] = 1.0f;
  if (one_leaves && blockIdx.x == 1) return;
  if (barrier) grid_barrier();
  float sum = 0.0f;
  for (int64_t i = 0; i < all_threads(); ++i) sum += written[i];
  sums[global_thread()] = sum;
}

// Returns, for each of `blocks` times 64 threads, how many threads had written their value before a grid barrier.
Tensor meet_in_grid(Tensor like, int64_t blocks, int64_t mistake) {
  const int64_t count = blocks * 64;
  Tensor written = torch::stable::new_zeros(like, {count}), sums = torch::stable::new_zeros(like, {count});
  float *from = written.mutable_data_ptr<float>(), *to = sums.mutable_data_ptr<float>();
  const auto kind = static_cast<Mistake>(mistake);
  if (kind == Mistake::not_cooperative)
    launch(meeting_kernel, unsigned(blocks), 64, 0, nullptr, from, to, true, false);
  else
    launch_cooperative(meeting_kernel, unsigned(blocks), 64, 0, nullptr, from, to, kind != Mistake::no_barrier,
                       kind == Mistake::one_block_misses_grid_barrier);
  return sums;
}

Tensor reverse_blocks(Tensor x, int64_t threads, int64_t mistake) {
  const int64_t count = x.numel();
  Tensor out = torch::stable::new_empty(x, {count});
  const float* from = x.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  const auto blocks = unsigned(count / threads), size = unsigned(threads);
  switch (static_cast<Mistake>(mistake)) {
    case Mistake::half_at_barrier:
    case Mistake::half_in_warp:
      launch(diverging_kernel, blocks, size, 0, nullptr, static_cast<Mistake>(mistake) == Mistake::half_in_warp);
      break;
    case Mistake::shared_too_small:
      launch(reverse_kernel, blocks, size, (threads - 1) * sizeof(float), nullptr, from, to, true);
      break;
    case Mistake::reads_past_the_end: {
      Tensor longer = torch::stable::new_empty(x, {count + 1});
      launch(copy_kernel, blocks, size, 0, nullptr, from, longer.mutable_data_ptr<float>(), count + 1);
      break;
    }
    default:
      launch(reverse_kernel, blocks, size, threads * sizeof(float), nullptr, from, to,
             static_cast<Mistake>(mistake) == Mistake::none);
  }
  return out;
}

// Multiplies words [R, W] by weight [N, M] on tensor cores, with one size of tiles.
Tensor tensor_core_product(Tensor words, Tensor weight, bool large) {
  const int64_t R = words.size(0), N = weight.size(0), M = weight.size(1);
  Tensor z = torch::stable::new_empty(weight, {R, M});
  const auto run = [&](auto tile) {
    using Tile = decltype(tile);
    launch(spike_mma_kernel<Tile>, grid_for(divide_up(R, Tile::kRows) * divide_up(M, Tile::kColumns), 1),
           Tile::kThreads, Tile::kSharedBytes, nullptr, words_data(words), R, N, weight.const_data_ptr<float>(), M,
           z.mutable_data_ptr<float>(), DensitySwitch{nullptr, 0});
  };
  if (large)
    run(LargeTile{});
  else
    run(SmallTile{});
  return z;
}

void set_seed(int64_t seed) { emulator::set_seed(uint64_t(seed)); }

// Calls a host function of grid.h by name.
int64_t grid(std::string name, int64_t a, int64_t b) {
  if (name == "grid_for") return grid_for(a, b);
  if (name == "scan_threads") return scan_threads(a);
  if (name == "gather_threads") return gather_threads(a, int(b));
  if (name == "gathered_spikes") return int64_t(gathered_spikes(a, b));
  if (name == "tensor_cores_may_pay") return tensor_cores_may_pay(a, b);
  if (name == "large_tiles") return large_tiles(a, b);
  STD_TORCH_CHECK(false, "no such function: ", name);
}

}  // namespace spikefuse::cuda

STABLE_TORCH_LIBRARY(spikefuse_emulated, m) {
  SPIKEFUSE_DEFINE_OPS(m);
  m.def("reverse_blocks(Tensor x, int threads, int mistake) -> Tensor");
  m.def("meet_in_grid(Tensor like, int blocks, int mistake) -> Tensor");
  m.def("tensor_core_product(Tensor words, Tensor weight, bool large) -> Tensor");
  m.def("set_seed(int seed) -> ()");
  m.def("take_launches() -> str[]");
  m.def("grid(str name, int a, int b) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(spikefuse_emulated, CPU, m) {
  SPIKEFUSE_IMPLEMENT_OPS(spikefuse::cuda);
  m.impl("reverse_blocks", TORCH_BOX(&spikefuse::cuda::reverse_blocks));
  m.impl("meet_in_grid", TORCH_BOX(&spikefuse::cuda::meet_in_grid));
  m.impl("tensor_core_product", TORCH_BOX(&spikefuse::cuda::tensor_core_product));
}

STABLE_TORCH_LIBRARY_IMPL(spikefuse_emulated, CompositeExplicitAutograd, m) {
  m.impl("set_seed", TORCH_BOX(&spikefuse::cuda::set_seed));
  m.impl("take_launches", TORCH_BOX(&emulator::take_launches));
  m.impl("grid", TORCH_BOX(&spikefuse::cuda::grid));
}
