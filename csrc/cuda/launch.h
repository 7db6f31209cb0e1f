// What every launcher shares: the device and stream of a tensor, and grid sizes as pure host functions.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <algorithm>

#include "../ops.h"

namespace spikefuse::cuda {

constexpr int kThreads = 256;

// Blocks of a grid-stride loop over `work` items: at least one, and no more than keep any current GPU busy, so that the
// count fits every grid dimension whatever the work is.
constexpr int64_t kMostBlocks = 32768;
inline unsigned grid_for(int64_t work, int64_t per_block) {
  return static_cast<unsigned>(std::clamp<int64_t>((work + per_block - 1) / per_block, 1, kMostBlocks));
}

// Makes a tensor's device current for its lifetime, and gives PyTorch's current stream there.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& t) : guard_(t.get_device_index()) {
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
  cudaStream_t stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

}  // namespace spikefuse::cuda
