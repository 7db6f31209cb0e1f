// Weight updates of the online rule: a thread's columns, and the rows of a later layer.
#pragma once

#include "online_batch.cuh"

namespace spikefuse::cuda {

// Columns of weights that a thread updates at a time.
constexpr int kUpdateColumns = 8;

// Updates one weight and its moments by the sum of its gradients over samples.
template <class acc_t>
__device__ __forceinline__ acc_t updated(const OnlineBatch<acc_t>& p, const UpdateStep<acc_t>& step, acc_t w,
                                         acc_t gradient, acc_t& m, acc_t& v) {
  const acc_t mean = gradient * (acc_t(1) / acc_t(p.B));
  return p.optimizer == Optimizer::sgd ? sgd_update(step, w, mean) : adam_update(step, w, mean, m, v);
}

// Calls each(j, column) for each of a thread's kUpdateColumns columns below `columns`. The columns start at `first` and
// are a block's width apart.
template <class Each>
__device__ __forceinline__ void for_each_column(int64_t first, int64_t columns, const Each& each) {
  SF_UNROLL for (int j = 0; j < kUpdateColumns; ++j) {
    const int64_t column = first + int64_t(j) * blockDim.x + threadIdx.x;
    if (column < columns) each(j, column);
  }
}

// A thread's columns in registers: weights, moments, gradients.
template <class acc_t>
struct Columns {
  acc_t w[kUpdateColumns], m[kUpdateColumns], v[kUpdateColumns], gradient[kUpdateColumns];
};

// Updates the weights of neuron m of a later layer by this step's error and traces.
template <class acc_t>
__device__ void update_neuron(const OnlineBatch<acc_t>& p, int l, int64_t m, int64_t t,
                              const OnlineScratch<acc_t>& scratch) {
  const OnlineLayer<acc_t>& layer = p.layer[l];
  const UpdateStep<acc_t> step = p.step[t];
  const bool adam = p.optimizer == Optimizer::adam;
  for (int64_t first = 0; first < layer.in; first += int64_t(kUpdateColumns) * blockDim.x) {
    Columns<acc_t> c;
    SF_UNROLL for (int j = 0; j < kUpdateColumns; ++j) c.gradient[j] = acc_t(0);
    for_each_kept(
        p.B, scratch.list, [&](int64_t b) { return layer.delta[b * layer.out + m] != acc_t(0); },
        [&](int64_t b) {
          const acc_t delta = layer.delta[b * layer.out + m];
          const int64_t row = p.trace == Trace::shared ? b : b * p.T + t - layer.age[b * layer.out + m];
          const acc_t* trace = layer.trace + row * layer.in;
          for_each_column(first, layer.in, [&](int j, int64_t n) {
            c.gradient[j] = fused_multiply_add(delta, trace[n], c.gradient[j]);
          });
        });
    for_each_column(first, layer.in, [&](int j, int64_t n) {
      const int64_t at = m * layer.in + n;
      acc_t moment = adam && t > 0 ? layer.m[at] : acc_t(0), square = adam && t > 0 ? layer.v[at] : acc_t(0);
      const acc_t w = updated(p, step, layer.transposed[at], c.gradient[j], moment, square);
      layer.transposed[at] = w;
      layer.weight[n * layer.out + m] = w;
      if (adam) {
        layer.m[at] = moment;
        layer.v[at] = square;
      }
    });
  }
}

}  // namespace spikefuse::cuda
