// First layer of the online rule. Its inputs are sparse: this schedules and computes the updates of its rows of
// weights.
#pragma once

#include "online_traces.cuh"
#include "online_updates.cuh"

namespace spikefuse::cuda {

// Lists the rows of the first layer that are updated at step t. All inputs are known beforehand, so a row's updates are
// deferred until the row is read (the step before its input's next spike, or the end of the batch), or until `depth`
// steps are pending.
//
// A row whose input has not spiked has no gradient and no moments, only weight decay. Decay of the "l2" kind is a
// gradient, so with it every row is updated.
template <class acc_t>
__device__ void list_rows(const OnlineBatch<acc_t>& p, int64_t t) {
  const int64_t words = words_for(p.B), inputs = p.layer[0].in;
  const bool l2 = p.step[t].l2 != acc_t(0), decays = p.step[t].shrink != acc_t(1);
  for (int64_t first = int64_t(blockIdx.x) * blockDim.x; first < inputs; first += all_threads()) {
    const int64_t n = first + threadIdx.x;
    bool update = false;
    if (n < inputs) {
      const uint32_t* x = p.by_input + (n * p.T + t) * words;
      uint32_t* active = p.active + n * words;
      bool read = t + 1 == p.T, any = l2;
      for (int64_t s = 0; s < words; ++s) {
        const uint32_t so_far = active[s] | x[s];
        active[s] = so_far;
        any = any || so_far;
        if (t + 1 < p.T) read = read || x[words + s];
      }
      update = any ? read || t + 1 - p.updated_until[n] == p.depth : read && decays;
      if (read && !update) p.updated_until[n] = int32_t(t + 1);
    }
    const uint32_t updates = __ballot_sync(kAllLanes, update);
    const unsigned lane = threadIdx.x % 32;
    unsigned long long at = 0;
    if (lane == 0 && updates) at = atomicAdd(p.rows_due_count + t, static_cast<unsigned long long>(__popc(updates)));
    at = __shfl_sync(kAllLanes, at, 0);
    if (update) p.rows_due[at + __popc(updates & ((1u << lane) - 1))] = int32_t(n);
  }
}

// Lists the samples in which input n has spiked, in order; returns their number. Ends with a barrier.
template <class acc_t>
__device__ int64_t list_samples(const OnlineBatch<acc_t>& p, int64_t n, const OnlineScratch<acc_t>& scratch,
                                int32_t* samples) {
  int64_t count = 0;
  const int64_t words = words_for(p.B);
  for (int64_t first = 0; first < words; first += blockDim.x) {
    const int64_t w = first + threadIdx.x;
    const uint32_t found = compact_bits(w < words ? p.active[n * words + w] : 0u, scratch.list);
    for (uint32_t k = threadIdx.x; k < found; k += blockDim.x)
      samples[count + k] = int32_t(first * kWordBits + scratch.list.position[k]);
    count += found;
    __syncthreads();
  }
  return count;
}

// Applies the pending updates of input n's row, up to and including step t, one after the other while the row is in
// registers.
template <class acc_t>
__device__ void update_row(const OnlineBatch<acc_t>& p, int64_t n, int64_t t, const OnlineScratch<acc_t>& scratch) {
  const OnlineLayer<acc_t>& layer = p.layer[0];
  const bool adam = p.optimizer == Optimizer::adam, shared = p.trace == Trace::shared;
  int32_t* samples = p.samples + blockIdx.x * p.B;
  acc_t* coefficient = shared ? p.coefficient + int64_t(blockIdx.x) * p.depth * p.B : nullptr;
  const int64_t begin = p.updated_until[n];
  const bool has_moments = p.has_moments[n];
  const int64_t count = list_samples(p, n, scratch, samples);
  const bool silent = count == 0 && p.step[t].l2 == acc_t(0);
  if (shared) list_traces(p, n, begin, t, samples, count, coefficient);
  __syncthreads();
  if (threadIdx.x == 0) {
    p.updated_until[n] = int32_t(t + 1);
    p.has_moments[n] = has_moments || !silent;
  }
  const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
  for (int64_t first = 0; first < layer.out; first += int64_t(kUpdateColumns) * blockDim.x) {
    Columns<acc_t> c;
    for_each_column(first, layer.out, [&](int j, int64_t m) {
      const int64_t at = n * layer.out + m;
      c.w[j] = layer.weight[at];
      c.m[j] = adam && has_moments ? layer.m[at] : acc_t(0);
      c.v[j] = adam && has_moments ? layer.v[at] : acc_t(0);
    });
    for (int64_t s = begin; s <= t; ++s) {
      const UpdateStep<acc_t> step = p.step[s];
      if (silent) {
        for_each_column(first, layer.out, [&](int j, int64_t) { c.w[j] *= step.shrink; });
        continue;
      }
      SF_UNROLL for (int j = 0; j < kUpdateColumns; ++j) c.gradient[j] = acc_t(0);
      const int64_t slot = s % p.depth * p.B;
      if (shared) {
        for (int64_t k = 0; k < count; ++k) {
          const acc_t e = coefficient[(s - begin) * count + k];
          const acc_t* delta = layer.delta + (slot + samples[k]) * layer.out;
          for_each_column(first, layer.out,
                          [&](int j, int64_t m) { c.gradient[j] = fused_multiply_add(e, delta[m], c.gradient[j]); });
        }
      } else {
        for (int64_t group = 0; group < count; group += warps) {
          if (group + warp < count) make_window(p, n, samples[group + warp], s, scratch.windows + warp * p.T);
          __syncthreads();
          for (int64_t k = group; k < count && k < group + warps; ++k) {
            const acc_t* window = scratch.windows + (k - group) * p.T;
            const int64_t row = (slot + samples[k]) * layer.out;
            for_each_column(first, layer.out, [&](int j, int64_t m) {
              c.gradient[j] = fused_multiply_add(layer.delta[row + m], window[layer.age[row + m]], c.gradient[j]);
            });
          }
          __syncthreads();  // the next windows overwrite these
        }
      }
      for_each_column(first, layer.out,
                      [&](int j, int64_t) { c.w[j] = updated(p, step, c.w[j], c.gradient[j], c.m[j], c.v[j]); });
    }
    for_each_column(first, layer.out, [&](int j, int64_t m) {
      const int64_t at = n * layer.out + m;
      layer.weight[at] = c.w[j];
      if (adam && !silent) {
        layer.m[at] = c.m[j];
        layer.v[at] = c.v[j];
      }
    });
  }
  __syncthreads();  // the next row's samples and traces overwrite these
}

}  // namespace spikefuse::cuda
