// Packs spikes to bits and unpacks them.
#include <algorithm>

#include "../checks.h"
#include "../dispatch.h"
#include "isa.h"

#define SF_KERNELS "packing.inl"
#include "foreach_isa.h"

namespace spikefuse::cpu {

// Fewest rows per thread.
static int64_t row_grain(int64_t neurons) { return std::max<int64_t>(1, 65536 / std::max<int64_t>(neurons, 1)); }

std::tuple<Tensor, Tensor, Tensor> pack_spikes(Tensor x) {
  check_dims(x, "x", 2);
  const int64_t R = x.size(0), N = x.size(1), W = words_for(N);
  Tensor words = torch::stable::new_empty(x, {R, W}, ScalarType::Int);
  Tensor spikes = torch::stable::new_empty(x, {}, ScalarType::Long);
  Tensor not_spikes = torch::stable::new_empty(x, {}, ScalarType::Long);
  std::vector<int64_t> row_counts(2 * R);  // [R, 2] spikes, and elements that are neither 0 nor 1
  with_element_type(x.scalar_type(), [&](auto zero) {
    using io_t = decltype(zero);
    const io_t* data = x.const_data_ptr<io_t>();
    const int64_t stride_r = x.stride(0), stride_n = x.stride(1);
    uint32_t* out = mutable_words_data(words);
    parallel_for(0, R, row_grain(N), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        SF_DISPATCH_ISA(pack_row(data + r * stride_r, stride_n, N, out + r * W, row_counts.data() + 2 * r));
    });
  });
  int64_t total[2] = {};
  for (int64_t i = 0; i < 2 * R; ++i) total[i % 2] += row_counts[i];
  *spikes.mutable_data_ptr<int64_t>() = total[0];
  *not_spikes.mutable_data_ptr<int64_t>() = total[1];
  return {words, spikes, not_spikes};
}

Tensor unpack_spikes(Tensor words, int64_t neurons, ScalarType dtype) {
  check_dims(words, "words", 2);
  check_dtype(words, "words", ScalarType::Int);
  STD_TORCH_CHECK(neurons >= 0, "spikefuse: expected neurons >= 0, got ", neurons);
  const int64_t R = words.size(0), W = words_for(neurons);
  check_shape(words, "words", {R, W});
  Tensor x = torch::stable::new_empty(words, {R, neurons}, dtype);
  const Tensor rows = torch::stable::contiguous(words);
  with_element_type(dtype, [&](auto zero) {
    using io_t = decltype(zero);
    const uint32_t* in = words_data(rows);
    io_t* out = x.mutable_data_ptr<io_t>();
    parallel_for(0, R, row_grain(neurons), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) SF_DISPATCH_ISA(unpack_row(in + r * W, neurons, out + r * neurons));
    });
  });
  return x;
}

}  // namespace spikefuse::cpu
