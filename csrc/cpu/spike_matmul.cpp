// Products with packed spikes, event-driven: Z = X W, and dW = X^T g for its backward.
#include <algorithm>
#include <limits>

#include "../checks.h"
#include "isa.h"

#define SF_KERNELS "spike_matmul.inl"
#include "foreach_isa.h"

namespace spikefuse::cpu {

static void check_operand(const Tensor& t, const char* name) {
  check_dims(t, name, 2);
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::Double, "spikefuse: expected ",
                  name, " of dtype float32 or float64, got ", torch::headeronly::toString(t.scalar_type()));
}

// Event lists are 32-bit row numbers.
static void check_list_range(int64_t rows, const char* name) {
  STD_TORCH_CHECK(rows <= std::numeric_limits<int32_t>::max(), "spikefuse: expected at most 2^31 - 1 ", name, ", got ",
                  rows);
}

template <class acc_t>
static void run_spike_matmul(const Tensor& words, const Tensor& weight, Tensor& z) {
  const int64_t R = words.size(0), W = words.size(1), N = weight.size(0), M = weight.size(1);
  const uint32_t* x = words_data(words);
  const acc_t* w = weight.const_data_ptr<acc_t>();
  acc_t* out = z.mutable_data_ptr<acc_t>();
  parallel_for(0, R, 1, [&](int64_t begin, int64_t end) {
    std::vector<int32_t> list(N);
    for (int64_t r = begin; r < end; ++r)
      SF_DISPATCH_ISA(spike_matmul_row(x + r * W, N, w, M, list.data(), out + r * M));
  });
}

Tensor spike_matmul(Tensor words, Tensor weight) {
  check_dims(words, "words", 2);
  check_dtype(words, "words", ScalarType::Int);
  check_operand(weight, "weight");
  check_same_device(weight, "weight", words);
  const int64_t R = words.size(0), N = weight.size(0), M = weight.size(1);
  check_shape(words, "words", {R, words_for(N)});
  check_list_range(N, "inputs");
  Tensor z = torch::stable::new_empty(weight, {R, M});
  const Tensor rows = torch::stable::contiguous(words), input_major = torch::stable::contiguous(weight);
  if (weight.scalar_type() == ScalarType::Double)
    run_spike_matmul<double>(rows, input_major, z);
  else
    run_spike_matmul<float>(rows, input_major, z);
  return z;
}

template <class acc_t>
static void run_spike_matmul_transposed(const Tensor& words, const Tensor& grad, int64_t N, Tensor& out) {
  const int64_t R = words.size(0), W = words.size(1), M = grad.size(1);
  const uint32_t* x = words_data(words);
  const acc_t* g = grad.const_data_ptr<acc_t>();
  acc_t* dw = out.mutable_data_ptr<acc_t>();
  parallel_for(0, W, 1, [&](int64_t begin, int64_t end) {
    std::vector<int32_t> lists(kWordBits * R);
    for (int64_t w = begin; w < end; ++w) {
      const int64_t neurons = std::min(kWordBits, N - w * kWordBits);
      SF_DISPATCH_ISA(spike_matmul_transposed_word(x, R, W, w, neurons, g, M, lists.data(), dw + w * kWordBits * M));
    }
  });
}

Tensor spike_matmul_transposed(Tensor words, Tensor grad, int64_t neurons) {
  check_dims(words, "words", 2);
  check_dtype(words, "words", ScalarType::Int);
  check_operand(grad, "grad");
  check_same_device(grad, "grad", words);
  STD_TORCH_CHECK(neurons >= 0, "spikefuse: expected neurons >= 0, got ", neurons);
  check_shape(words, "words", {grad.size(0), words_for(neurons)});
  check_list_range(grad.size(0), "rows");
  Tensor out = torch::stable::new_empty(grad, {neurons, grad.size(1)});
  const Tensor rows = torch::stable::contiguous(words), grad_rows = torch::stable::contiguous(grad);
  if (grad.scalar_type() == ScalarType::Double)
    run_spike_matmul_transposed<double>(rows, grad_rows, neurons, out);
  else
    run_spike_matmul_transposed<float>(rows, grad_rows, neurons, out);
  return out;
}

}  // namespace spikefuse::cpu
