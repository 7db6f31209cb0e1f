// Argument checks shared by both backends. The Python layer checks user errors first and reports them in the user's
// terms; these checks guard direct calls of torch.ops.spikefuse.
#pragma once

#include <torch/headeronly/util/Exception.h>

#include <initializer_list>

#include "lif.h"
#include "ops.h"
#include "packing.h"
#include "surrogate.h"

namespace spikefuse {

inline void check_shape(const Tensor& t, const char* name, std::initializer_list<int64_t> shape) {
  bool same = t.dim() == static_cast<int64_t>(shape.size());
  int64_t d = 0;
  for (int64_t size : shape) same = same && t.size(d++) == size;
  if (same) return;
  std::string given = "[", wanted = "[";
  for (int64_t i = 0; i < t.dim(); ++i) given += (i ? ", " : "") + std::to_string(t.size(i));
  for (const int64_t* s = shape.begin(); s != shape.end(); ++s)
    wanted += (s != shape.begin() ? ", " : "") + std::to_string(*s);
  STD_TORCH_CHECK(false, "spikefuse: expected ", name, " of shape ", wanted, "], got ", given, "]");
}

inline void check_dims(const Tensor& t, const char* name, int64_t dims) {
  STD_TORCH_CHECK(t.dim() == dims, "spikefuse: expected ", name, " with ", dims, " dimensions, got ", t.dim());
}

inline void check_dtype(const Tensor& t, const char* name, ScalarType dtype) {
  STD_TORCH_CHECK(t.scalar_type() == dtype, "spikefuse: expected ", name, " of dtype ",
                  torch::headeronly::toString(dtype), ", got ", torch::headeronly::toString(t.scalar_type()));
}

inline void check_same_device(const Tensor& t, const char* name, const Tensor& reference) {
  STD_TORCH_CHECK(t.is_cpu() == reference.is_cpu() && t.get_device_index() == reference.get_device_index(),
                  "spikefuse: ", name, " lies on another device than the first argument");
}

inline bool is_io_dtype(ScalarType t) {
  return t == ScalarType::Float || t == ScalarType::BFloat16 || t == ScalarType::Half || t == ScalarType::Double;
}

inline void check_io_dtype(ScalarType t, const char* name) {
  STD_TORCH_CHECK(is_io_dtype(t), "spikefuse: expected ", name, " of dtype float32, bfloat16, float16 or float64, got ",
                  torch::headeronly::toString(t));
}

// Checks the dense factor of a product with spikes.
inline void check_operand(const Tensor& t, const char* name) {
  check_dims(t, name, 2);
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::Double, "spikefuse: expected ",
                  name, " of dtype float32 or float64, got ", torch::headeronly::toString(t.scalar_type()));
}

// Membrane potentials are fp64 for fp64 inputs and fp32 for every other I/O type.
inline ScalarType accumulate_dtype(ScalarType io) {
  return io == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_range(int64_t value, int64_t end, const char* name) {
  STD_TORCH_CHECK(value >= 0 && value < end, "spikefuse: expected 0 <= ", name, " < ", end, ", got ", value);
}

// Checks decay or threshold, which hold one value for all neurons or one per neuron; returns the stride between
// neurons.
inline int64_t parameter_stride(const Tensor& t, const char* name, int64_t neurons, ScalarType acc) {
  check_dims(t, name, 1);
  check_dtype(t, name, acc);
  STD_TORCH_CHECK(t.size(0) == 1 || t.size(0) == neurons, "spikefuse: expected ", name, " with 1 or ", neurons,
                  " elements, got ", t.size(0));
  return t.size(0) == 1 ? 0 : t.stride(0);
}

template <class T>
const T* optional_data(const std::optional<Tensor>& t) {
  return t ? t->const_data_ptr<T>() : nullptr;
}

inline std::optional<Tensor> contiguous(const std::optional<Tensor>& t) {
  return t ? std::optional<Tensor>(torch::stable::contiguous(*t)) : t;
}

inline void check_optional(const std::optional<Tensor>& t, const char* name, std::initializer_list<int64_t> shape,
                           ScalarType dtype, const Tensor& reference) {
  if (!t) return;
  check_same_device(*t, name, reference);
  check_shape(*t, name, shape);
  check_dtype(*t, name, dtype);
}

// Check the arguments of the products with spikes.
inline void check_spike_matmul(const Tensor& words, const Tensor& weight) {
  check_dims(words, "words", 2);
  check_dtype(words, "words", ScalarType::Int);
  check_operand(weight, "weight");
  check_same_device(weight, "weight", words);
  check_shape(words, "words", {words.size(0), words_for(weight.size(0))});
}

inline void check_spike_matmul_transposed(const Tensor& words, const Tensor& grad, int64_t neurons) {
  check_dims(words, "words", 2);
  check_dtype(words, "words", ScalarType::Int);
  check_operand(grad, "grad");
  check_same_device(grad, "grad", words);
  STD_TORCH_CHECK(neurons >= 0, "spikefuse: expected neurons >= 0, got ", neurons);
  check_shape(words, "words", {grad.size(0), words_for(neurons)});
}

// Checks the arguments of lif_linear_forward; all its floating-point tensors are fp32.
inline void check_lif_linear(const Tensor& words, const Tensor& weight, const std::optional<Tensor>& bias,
                             const std::optional<Tensor>& state, const Tensor& decay, const Tensor& threshold,
                             int64_t reset) {
  check_dims(words, "words", 3);
  check_dtype(words, "words", ScalarType::Int);
  check_dims(weight, "weight", 2);
  check_dtype(weight, "weight", ScalarType::Float);
  check_same_device(weight, "weight", words);
  check_range(reset, 3, "reset");
  const int64_t T = words.size(0), B = words.size(1), N = weight.size(0), M = weight.size(1);
  check_shape(words, "words", {T, B, words_for(N)});
  check_optional(bias, "bias", {M}, ScalarType::Float, words);
  check_optional(state, "state", {B, M}, ScalarType::Float, words);
  parameter_stride(decay, "decay", M, ScalarType::Float);
  parameter_stride(threshold, "threshold", M, ScalarType::Float);
  check_same_device(decay, "decay", words);
  check_same_device(threshold, "threshold", words);
}

inline const uint32_t* words_data(const Tensor& t) {
  return reinterpret_cast<const uint32_t*>(t.const_data_ptr<int32_t>());
}
inline uint32_t* mutable_words_data(const Tensor& t) {
  return reinterpret_cast<uint32_t*>(t.mutable_data_ptr<int32_t>());
}

}  // namespace spikefuse
