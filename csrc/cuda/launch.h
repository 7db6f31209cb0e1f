// Launches kernels on the device and stream of a tensor.
//
// With SPIKEFUSE_EMULATED, a C++ compiler compiles the same sources and a launch runs on the CPU (tests/emulator).
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <utility>

#include "../ops.h"
#include "grid.h"

// Came with torch 2.13: it adds the message of the failed call, which earlier releases leave out.
#if !defined(STABLE_TORCH_ERROR_CODE_CHECK)
#define STABLE_TORCH_ERROR_CODE_CHECK TORCH_ERROR_CODE_CHECK
#endif

namespace spikefuse::cuda {

// Non-deduced parameter type: launch arguments convert to the kernel's types.
template <class T>
struct type_identity {
  using type = T;
};

#if defined(SPIKEFUSE_EMULATED)

class DeviceStreamGuard {
 public:
  explicit DeviceStreamGuard(const Tensor&) {}
  cudaStream_t stream() const { return nullptr; }
};

template <class... Params>
void launch(void (*kernel)(Params...), unsigned blocks, unsigned threads, size_t shared_bytes, cudaStream_t,
            typename type_identity<Params>::type... arguments) {
  emulator::launch({reinterpret_cast<const void*>(kernel), blocks, threads, shared_bytes},
                   [&] { kernel(arguments...); });
}

template <class... Params>
unsigned max_cooperative_blocks(void (*)(Params...), unsigned, size_t) {
  return 3;
}

template <class... Params>
void launch_cooperative(void (*kernel)(Params...), unsigned blocks, unsigned threads, size_t shared_bytes, cudaStream_t,
                        typename type_identity<Params>::type... arguments) {
  emulator::launch({reinterpret_cast<const void*>(kernel), blocks, threads, shared_bytes, true},
                   [&] { kernel(arguments...); });
}

#else

// Makes a tensor's device current for its lifetime, and returns PyTorch's current stream of that device.
class DeviceStreamGuard {
 public:
  explicit DeviceStreamGuard(const Tensor& t) : guard_(t.get_device_index()) {
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
  cudaStream_t stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

// Shared memory that every kernel may use; more must be allowed first.
constexpr size_t kCommonSharedBytes = 48 * 1024;

inline void allow_shared_bytes(const void* function, size_t bytes) {
  if (bytes > kCommonSharedBytes)
    STD_CUDA_CHECK(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)));
}

template <class... Params>
void launch(void (*kernel)(Params...), unsigned blocks, unsigned threads, size_t shared_bytes, cudaStream_t stream,
            typename type_identity<Params>::type... arguments) {
  const void* function = reinterpret_cast<const void*>(kernel);
  allow_shared_bytes(function, shared_bytes);
  void* addresses[] = {static_cast<void*>(&arguments)...};
  STD_CUDA_CHECK(cudaLaunchKernel(function, dim3(blocks), dim3(threads), addresses, shared_bytes, stream));
}

// Returns the number of a kernel's blocks that the current device holds at once.
template <class... Params>
unsigned max_cooperative_blocks(void (*kernel)(Params...), unsigned threads, size_t shared_bytes) {
  const void* function = reinterpret_cast<const void*>(kernel);
  allow_shared_bytes(function, shared_bytes);
  int device = 0, multiprocessors = 0, blocks = 0;
  STD_CUDA_CHECK(cudaGetDevice(&device));
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  STD_CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, function, int(threads), shared_bytes));
  STD_TORCH_CHECK(blocks > 0, "spikefuse: this GPU has no room for a block of ", threads, " threads with ",
                  shared_bytes, " bytes of shared memory");
  return unsigned(multiprocessors) * unsigned(blocks);
}

// Launches at most max_cooperative_blocks blocks, which may meet at grid_barrier.
template <class... Params>
void launch_cooperative(void (*kernel)(Params...), unsigned blocks, unsigned threads, size_t shared_bytes,
                        cudaStream_t stream, typename type_identity<Params>::type... arguments) {
  const void* function = reinterpret_cast<const void*>(kernel);
  allow_shared_bytes(function, shared_bytes);
  void* addresses[] = {static_cast<void*>(&arguments)...};
  STD_CUDA_CHECK(cudaLaunchCooperativeKernel(function, dim3(blocks), dim3(threads), addresses, shared_bytes, stream));
}

#endif

}  // namespace spikefuse::cuda
