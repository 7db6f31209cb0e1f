// Surrogate derivatives ds/dv as functions of x = v - threshold (eqs 3-4). All are stable for every float x and for
// infinities, and return NaN for NaN.
#pragma once

#include <cstring>

#include "macros.h"

namespace spikefuse {

// Same values as spikefuse.surrogate.SURROGATES.
enum class Surrogate : int { sigmoid = 0, atan = 1, fast_sigmoid = 2, triangle = 3 };

// Computes exp(x) for x <= 0 within 1.3 ulp; 0 below the smallest normal number. Written out so that compilers
// vectorise it and CPU and GPU give the same bits: exp(x) = 2^n * exp(r), |r| <= ln(2)/2, with Cephes' polynomial for
// exp(r).
SF_HD float exp_nonpositive(float x) {
  // The select keeps NaN. 2^-126 is the smallest power that the bit pattern below can hold.
  const float clamped = x < -87.0f ? -87.0f : x;
  // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
  const float magic = 12582912.0f;
  const float shifted = fused_multiply_add(clamped, 1.44269504088896341f, magic);
  const float n = shifted - magic;
  float r = fused_multiply_add(n, -0.693359375f, clamped);
  r = fused_multiply_add(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = fused_multiply_add(p, r, 1.3981999507e-3f);
  p = fused_multiply_add(p, r, 8.3334519073e-3f);
  p = fused_multiply_add(p, r, 4.1665795894e-2f);
  p = fused_multiply_add(p, r, 1.6666665459e-1f);
  p = fused_multiply_add(p, r, 5.0000001201e-1f);
  p = fused_multiply_add(p, r * r, r + 1.0f);
  // The low bits of `shifted` hold n as an integer; shifted to the exponent field they make 2^n.
  int32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = static_cast<int32_t>(static_cast<uint32_t>(bits) << 23) + 0x3f800000;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return x < -87.0f ? 0.0f : p * power;
}
SF_HD double exp_nonpositive(double x) { return exp(x); }

template <class acc_t>
SF_HD acc_t absolute(acc_t x) {
  return x < acc_t(0) ? -x : x;
}

// slope * sigma(k x) * (1 - sigma(k x)), computed from exp(-|k x|), since exp(|k x|) overflows.
template <class acc_t>
SF_HD acc_t surrogate_sigmoid(acc_t x, acc_t slope) {
  const acc_t e = exp_nonpositive(-absolute(slope * x));
  const acc_t one_plus = acc_t(1) + e;
  return slope * e / (one_plus * one_plus);
}

// (slope / 2) / (1 + (pi/2 * slope * x)^2): SpikingJelly's and snnTorch's ATan(alpha = slope)
template <class acc_t>
SF_HD acc_t surrogate_atan(acc_t x, acc_t slope) {
  const acc_t y = acc_t(1.57079632679489661923) * slope * x;
  return acc_t(0.5) * slope / fused_multiply_add(y, y, acc_t(1));
}

// 1 / (1 + slope * |x|)^2: snnTorch's fast_sigmoid(slope)
template <class acc_t>
SF_HD acc_t surrogate_fast_sigmoid(acc_t x, acc_t slope) {
  const acc_t y = fused_multiply_add(slope, absolute(x), acc_t(1));
  return acc_t(1) / (y * y);
}

// slope * max(0, 1 - slope * |x|): SpikingJelly's PiecewiseQuadratic(alpha = slope). The comparison lets NaN through.
template <class acc_t>
SF_HD acc_t surrogate_triangle(acc_t x, acc_t slope) {
  const acc_t y = fused_multiply_add(-slope, absolute(x), acc_t(1));
  return y <= acc_t(0) ? acc_t(0) : slope * y;
}

template <class acc_t>
SF_HD acc_t surrogate_derivative(Surrogate kind, acc_t x, acc_t slope) {
  switch (kind) {
    case Surrogate::sigmoid:
      return surrogate_sigmoid(x, slope);
    case Surrogate::atan:
      return surrogate_atan(x, slope);
    case Surrogate::fast_sigmoid:
      return surrogate_fast_sigmoid(x, slope);
    default:
      return surrogate_triangle(x, slope);
  }
}

}  // namespace spikefuse
