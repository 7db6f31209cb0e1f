// The two event-driven products with packed spikes. Both add whole rows in a fixed order, so their results do not
// depend on the number of threads.

#include "gather.h"

// z[0 ... M) = sum of the weight rows of the inputs that spike; `list` holds N entries.
template <class acc_t>
void spike_matmul_row(const uint32_t* words, int64_t N, const acc_t* weight, int64_t M, int32_t* list, acc_t* z) {
  const int64_t count = list_spikes(words, N, list);
  gather_rows<false, acc_t>(weight, M, list, nullptr, count, M, z);
}

// The 32 rows of dW that belong to word w: each is the sum of the gradient rows of the steps and samples at which its
// input spiked. `lists` holds 32 x R entries.
template <class acc_t>
void spike_matmul_transposed_word(const uint32_t* words, int64_t R, int64_t W, int64_t w, int64_t neurons,
                                  const acc_t* grad, int64_t M, int32_t* lists, acc_t* out) {
  int64_t counts[kWordBits] = {};
  for (int64_t r = 0; r < R; ++r) {
    uint32_t word = words[r * W + w];
    while (word) {
      const int bit = __builtin_ctz(word);
      lists[bit * R + counts[bit]++] = static_cast<int32_t>(r);
      word &= word - 1;
    }
  }
  for (int64_t i = 0; i < neurons; ++i)
    gather_rows<false, acc_t>(grad, M, lists + i * R, nullptr, counts[i], M, out + i * M);
}
