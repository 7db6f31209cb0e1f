// Dispatches a runtime dtype to C++ types.
#pragma once

#include <torch/headeronly/util/Exception.h>

#include "ops.h"

namespace spikefuse {

// Calls body(value) with a value of the C++ type of `dtype`, for every dtype of spikes.
template <class F>
void with_element_type(ScalarType dtype, const F& body) {
  switch (dtype) {
    case ScalarType::Float:
      return body(float{});
    case ScalarType::Double:
      return body(double{});
    case ScalarType::BFloat16:
      return body(torch::headeronly::BFloat16{});
    case ScalarType::Half:
      return body(torch::headeronly::Half{});
    case ScalarType::Bool:
      return body(bool{});
    case ScalarType::Byte:
      return body(uint8_t{});
    case ScalarType::Char:
      return body(int8_t{});
    case ScalarType::Int:
      return body(int32_t{});
    case ScalarType::Long:
      return body(int64_t{});
    default:
      STD_TORCH_CHECK(false, "spikefuse: spikes of dtype ", torch::headeronly::toString(dtype), " are not supported");
  }
}

// Calls body(acc_t{}, io_t{}) with the accumulation and I/O types of a layer of `dtype`.
template <class F>
void with_io_type(ScalarType dtype, const F& body) {
  switch (dtype) {
    case ScalarType::Float:
      return body(float{}, float{});
    case ScalarType::Double:
      return body(double{}, double{});
    case ScalarType::BFloat16:
      return body(float{}, torch::headeronly::BFloat16{});
    case ScalarType::Half:
      return body(float{}, torch::headeronly::Half{});
    default:
      STD_TORCH_CHECK(false, "spikefuse: dtype ", torch::headeronly::toString(dtype), " is not supported");
  }
}

}  // namespace spikefuse
