// SIMD vectors of the instruction set that includes this, and the sum of gathered rows: the inner loop of both spike
// products and of the online rule. Included inside the per-instruction-set namespaces only.

template <class acc_t, int bytes>
struct VectorOf {
  // Unaligned, and may alias the plain elements it is loaded from.
  typedef acc_t type __attribute__((vector_size(bytes), aligned(sizeof(acc_t)), may_alias));
  static constexpr int lanes = bytes / sizeof(acc_t);
};

// y + a * x, fused lane by lane
template <class vec, class acc_t>
SF_HD vec multiply_add(acc_t a, vec x, vec y) {
  vec result;
  for (unsigned i = 0; i < sizeof(vec) / sizeof(acc_t); ++i) result[i] = fused_multiply_add(a, x[i], y[i]);
  return result;
}

// `vectors` vectors of out, held in registers while the rows go by; rows are added in the order of `index`.
template <bool weighted, int vectors, int bytes, class acc_t>
SF_HD void gather_columns(const acc_t* rows, int64_t row_stride, const int32_t* index, const acc_t* weight,
                          int64_t count, acc_t* out) {
  using vec = typename VectorOf<acc_t, bytes>::type;
  constexpr int lanes = VectorOf<acc_t, bytes>::lanes;
  vec sum[vectors] = {};
  for (int64_t k = 0; k < count; ++k) {
    const acc_t* row = rows + index[k] * row_stride;
    for (int j = 0; j < vectors; ++j) {
      const vec x = *reinterpret_cast<const vec*>(row + j * lanes);
      if constexpr (weighted)
        sum[j] = multiply_add(weight[k], x, sum[j]);
      else
        sum[j] += x;
    }
  }
  for (int j = 0; j < vectors; ++j) *reinterpret_cast<vec*>(out + j * lanes) = sum[j];
}

// out[0 ... columns) = sum over k of weight[k] * rows[index[k]][0 ... columns); without weights, of the rows
// themselves. Column tiles of eight vectors: eight chains of additions hide the latency of each, and leave half of the
// registers.
template <bool weighted, class acc_t>
inline void gather_rows(const acc_t* rows, int64_t row_stride, const int32_t* index, const acc_t* weight, int64_t count,
                        int64_t columns, acc_t* out) {
  constexpr int lanes = VectorOf<acc_t, SF_VECTOR_BYTES>::lanes;
  int64_t c = 0;
  for (; c + 8 * lanes <= columns; c += 8 * lanes)
    gather_columns<weighted, 8, SF_VECTOR_BYTES>(rows + c, row_stride, index, weight, count, out + c);
  if (c + 4 * lanes <= columns) {
    gather_columns<weighted, 4, SF_VECTOR_BYTES>(rows + c, row_stride, index, weight, count, out + c);
    c += 4 * lanes;
  }
  if (c + 2 * lanes <= columns) {
    gather_columns<weighted, 2, SF_VECTOR_BYTES>(rows + c, row_stride, index, weight, count, out + c);
    c += 2 * lanes;
  }
  if (c + lanes <= columns) {
    gather_columns<weighted, 1, SF_VECTOR_BYTES>(rows + c, row_stride, index, weight, count, out + c);
    c += lanes;
  }
  constexpr int narrow = VectorOf<acc_t, 16>::lanes;
  for (; c + narrow <= columns; c += narrow)
    gather_columns<weighted, 1, 16>(rows + c, row_stride, index, weight, count, out + c);
  for (; c < columns; ++c)
    gather_columns<weighted, 1, sizeof(acc_t)>(rows + c, row_stride, index, weight, count, out + c);
}

// Appends the positions of the set bits of `word`, each plus `first`.
SF_HD int64_t append_set_bits(uint32_t word, int32_t first, int32_t* list, int64_t count) {
  while (word) {
    list[count++] = first + __builtin_ctz(word);
    word &= word - 1;
  }
  return count;
}

// The spiking neurons of one row, ascending; returns how many. Padding bits count for nothing, set or not.
inline int64_t list_spikes(const uint32_t* row, int64_t neurons, int32_t* list) {
  int64_t count = 0;
  for (int64_t w = 0; w < words_for(neurons); ++w)
    count = append_set_bits(row[w] & neurons_of_word(w, neurons), static_cast<int32_t>(w * kWordBits), list, count);
  return count;
}
