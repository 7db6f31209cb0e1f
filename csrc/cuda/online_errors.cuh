// Backward pass of the online rule: propagates errors from the output layer down.
#pragma once

#include "online_batch.cuh"

namespace spikefuse::cuda {

// Computes delta_{l-1} = (W_l^T delta_l) * ds/dv of this time step only (eqs 13-15).
template <class acc_t>
__device__ void online_errors(const OnlineBatch<acc_t>& p, int l, int64_t t, const OnlineScratch<acc_t>& scratch) {
  const OnlineLayer<acc_t>&layer = p.layer[l], &below = p.layer[l - 1];
  const int64_t slabs = (below.out + blockDim.x - 1) / blockDim.x, slot = l == 1 ? t % p.depth : 0;
  for (int64_t task = blockIdx.x; task < p.B * slabs; task += gridDim.x) {
    const int64_t b = task / slabs, n = task % slabs * blockDim.x + threadIdx.x;
    const bool inside = n < below.out;
    const acc_t* delta = layer.delta + b * layer.out;
    const acc_t* column = layer.transposed + below.first + n;
    acc_t propagated = acc_t(0);
    for_each_kept(
        layer.out, scratch.list, [&](int64_t m) { return delta[m] != acc_t(0); },
        [&](int64_t m) {
          if (inside) propagated = fused_multiply_add(delta[m], column[m * layer.in], propagated);
        });
    if (!inside) continue;
    const int64_t at = b * below.out + n;
    const acc_t slope = surrogate_derivative(p.surrogate, below.potential[at] - p.threshold, p.slope);
    below.delta[slot * p.B * below.out + at] = propagated * slope;
  }
}

}  // namespace spikefuse::cuda
