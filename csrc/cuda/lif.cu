// LIF layer on CUDA: one launch computes all T time steps forward, another the reverse scan. A loss takes a second,
// small launch.
#include "../lif_op.h"
#include "launch.h"
#include "lif.cuh"

namespace spikefuse::cuda {

// Returns true if every row of [T, B, N] can be read `count` elements at a time: neurons adjacent in memory, rows
// aligned.
template <class T>
static bool reads_packed(const Strided<T>& x, int count) {
  return !x.data || (x.n == 1 && x.t % count == 0 && x.b % count == 0 && reinterpret_cast<uintptr_t>(x.data) % 16 == 0);
}

// Does the same for a contiguous [B, N] or [T, B, N], whose row length is known to fit.
template <class T>
static bool reads_packed(const T* x) {
  return reinterpret_cast<uintptr_t>(x) % 16 == 0;
}

// If samples and neurons are contiguous and all neurons share their constants, treats them as one long row. Rows of an
// odd number of neurons can then be read 16 bytes at a time, too.
template <class T>
static bool is_one_row(const Strided<T>& x, int64_t B, int64_t N) {
  return !x.data || ((x.n == 1 || N == 1) && (x.b == N || B == 1));
}
template <class P, class... T>
static void make_one_row(P& p, Strided<T>&... read) {
  p.N *= p.B;
  p.B = 1;
  // The only row starts at 0, so the stride to a next row must not decide how it is read.
  ((read.b = 0, read.n = 1), ...);
}

template <class acc_t, class io_t>
static void run_forward(LifForward<acc_t, io_t> p, const Tensor& z) {
  if (p.decay_stride == 0 && p.threshold_stride == 0 && !p.target && is_one_row(p.z, p.B, p.N)) {
    make_one_row(p, p.z);
  }
  const DeviceStreamGuard device(z);
  constexpr int count = kNeurons<acc_t>;
  const bool packed = p.N % count == 0 && reads_packed(p.z, count) && reads_packed(p.state);
  const int64_t items = p.B * p.N / (packed ? count : 1);
  const unsigned threads = scan_threads(items), blocks = grid_for(items, threads);
  Tensor loss = torch::stable::new_empty(z, {p.target ? blocks : 0}, ScalarType::Double);
  Tensor mismatches = torch::stable::new_empty(z, {p.target ? blocks : 0}, ScalarType::Long);
  const BlockErrors errors{loss.mutable_data_ptr<double>(), mismatches.mutable_data_ptr<int64_t>()};
  const size_t shared = p.target ? threads / 32 * sizeof(double) : 0;
  if (packed)
    launch(lif_forward_kernel<acc_t, io_t, count>, blocks, threads, shared, device.stream(), p, errors);
  else
    launch(lif_forward_kernel<acc_t, io_t, 1>, blocks, threads, shared, device.stream(), p, errors);
  if (p.target)
    launch(sum_errors_kernel<acc_t>, 1, kThreads, kThreads / 32 * sizeof(double), device.stream(), errors, blocks,
           p.loss, p.mismatches);
}

template <class acc_t, class io_t>
static void run_backward(LifBackward<acc_t, io_t> p, const Tensor& v) {
  if (p.B * p.N == 0) return;
  if (p.decay_stride == 0 && p.threshold_stride == 0 && !p.target && is_one_row(p.grad_spikes, p.B, p.N) &&
      is_one_row(p.grad_v, p.B, p.N)) {
    make_one_row(p, p.grad_spikes, p.grad_v);
  }
  const DeviceStreamGuard device(v);
  constexpr int count = kNeurons<acc_t>;
  const bool packed = p.N % count == 0 && reads_packed(p.grad_spikes, count) && reads_packed(p.grad_v, count) &&
                      reads_packed(p.v) && reads_packed(p.state) && reads_packed(p.grad_state);
  const int64_t items = p.B * p.N / (packed ? count : 1);
  const unsigned threads = scan_threads(items), blocks = grid_for(items, threads);
  if (packed)
    launch(lif_backward_kernel<acc_t, io_t, count>, blocks, threads, 0, device.stream(), p);
  else
    launch(lif_backward_kernel<acc_t, io_t, 1>, blocks, threads, 0, device.stream(), p);
}

// The kernels read any strides in place.
static const Tensor& as_it_is(const Tensor& t) { return t; }

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lif_forward(Tensor z, std::optional<Tensor> state, Tensor decay,
                                                               Tensor threshold, std::optional<Tensor> target,
                                                               int64_t reset) {
  return lif_forward_op(z, state, decay, threshold, target, reset, as_it_is, [&](const auto& p) { run_forward(p, z); });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> lif_backward(std::optional<Tensor> grad_spikes, std::optional<Tensor> grad_v,
                                                        std::optional<Tensor> grad_state,
                                                        std::optional<Tensor> grad_loss, Tensor v,
                                                        std::optional<Tensor> state, Tensor decay, Tensor threshold,
                                                        std::optional<Tensor> target, ScalarType dtype, int64_t reset,
                                                        bool detach_reset, int64_t surrogate, double slope,
                                                        bool parameter_gradients) {
  return lif_backward_op(grad_spikes, grad_v, grad_state, grad_loss, v, state, decay, threshold, target, dtype, reset,
                         detach_reset, surrogate, slope, parameter_gradients, as_it_is,
                         [&](const auto& p) { run_backward(p, v); });
}

}  // namespace spikefuse::cuda
