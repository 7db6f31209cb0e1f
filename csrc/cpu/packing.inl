// Packs one row of spikes to bits, and unpacks it.

#include <type_traits>

#include "gather.inl"

namespace spikefuse::cpu::SF_ISA {

// Adds the number of spikes to counts[0], and the number of elements that are neither 0 nor 1 to counts[1]. Such an
// element, even NaN, packs as a spike.
template <class io_t>
void pack_row(const io_t* x, int64_t stride, int64_t neurons, uint32_t* words, int64_t* counts) {
  for (int64_t w = 0; w < words_for(neurons); ++w) {
    const int64_t first = w * kWordBits;
    const int64_t count = neurons - first < kWordBits ? neurons - first : kWordBits;
    uint32_t word = 0;
    int32_t odd = 0;
    for (int64_t i = 0; i < count; ++i) {
      const auto value =
          static_cast<std::conditional_t<std::is_integral_v<io_t>, int64_t, double>>(x[(first + i) * stride]);
      word |= uint32_t(value != 0) << i;
      odd += value != 0 && value != 1;
    }
    words[w] = word;
    counts[0] += __builtin_popcount(word);
    counts[1] += odd;
  }
}

// Packs contiguous fp32, the type that layers exchange: makes a word by vector compares.
inline void pack_row(const float* x, int64_t stride, int64_t neurons, uint32_t* words, int64_t* counts) {
  if (stride != 1) return pack_row<float>(x, stride, neurons, words, counts);
  const int64_t whole = neurons / kWordBits;
  int32_t odd = 0;
  for (int64_t w = 0; w < whole; ++w) {
    const float* values = x + w * kWordBits;
    const uint32_t word = word_where(values, [](float x) { return x != 0.0f; });
    for (int i = 0; i < kWordBits; ++i) odd += values[i] != 0.0f && values[i] != 1.0f;
    words[w] = word;
    counts[0] += __builtin_popcount(word);
  }
  counts[1] += odd;
  if (whole < words_for(neurons))
    pack_row<float>(x + whole * kWordBits, 1, neurons - whole * kWordBits, words + whole, counts);
}

template <class io_t>
void unpack_row(const uint32_t* words, int64_t neurons, io_t* x) {
  for (int64_t first = 0; first < neurons; first += kWordBits) {
    const uint32_t word = words[first / kWordBits];
    const int64_t count = neurons - first < kWordBits ? neurons - first : kWordBits;
    for (int64_t i = 0; i < count; ++i) x[first + i] = static_cast<io_t>(word >> i & 1u ? 1.0f : 0.0f);
  }
}

}  // namespace spikefuse::cpu::SF_ISA
