// The online rule's later layers, in tiles of 32 neurons: their errors are sparse and their inputs dense.

// a0 b0 a1 b1 ..., of the lower or of the upper halves
template <int half, class vec, int... i>
SF_HD vec interleave(vec a, vec b, std::integer_sequence<int, i...>) {
  constexpr int lanes = sizeof...(i);
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, (i / 2 + half * lanes / 2 + i % 2 * lanes)...);
#else
  vec result;
  ((result[i] = i % 2 ? b[i / 2 + half * lanes / 2] : a[i / 2 + half * lanes / 2]), ...);
  return result;
#endif
}

// to[c][r] = from[r][c], both sides a multiple of a vector. After log2(lanes) rounds in which each row is interleaved
// with the one half a square below, a square of vectors is transposed.
template <class acc_t>
void transpose(const acc_t* from, int64_t from_stride, int64_t rows, int64_t columns, acc_t* to, int64_t to_stride) {
  using vec = typename VectorOf<acc_t, SF_VECTOR_BYTES>::type;
  constexpr int lanes = VectorOf<acc_t, SF_VECTOR_BYTES>::lanes;
  using order = std::make_integer_sequence<int, lanes>;
  for (int64_t c = 0; c < columns; c += lanes) {
    for (int64_t r = 0; r < rows; r += lanes) {
      vec a[lanes], b[lanes];
      SF_UNROLL
      for (int i = 0; i < lanes; ++i) a[i] = *reinterpret_cast<const vec*>(from + (r + i) * from_stride + c);
      for (int round = 1; round < lanes; round *= 2) {
        SF_UNROLL
        for (int i = 0; i < lanes / 2; ++i) {
          b[2 * i] = interleave<0>(a[i], a[i + lanes / 2], order{});
          b[2 * i + 1] = interleave<1>(a[i], a[i + lanes / 2], order{});
        }
        SF_UNROLL
        for (int i = 0; i < lanes; ++i) a[i] = b[i];
      }
      SF_UNROLL
      for (int i = 0; i < lanes; ++i) *reinterpret_cast<vec*>(to + (c + i) * to_stride + r) = a[i];
    }
  }
}

// Tile i of a later layer from the caller's weights, and its rows from the tile.
template <class acc_t>
void load_tile(const OnlineLayer<acc_t>& layer, int64_t i, acc_t* tile) {
  const int64_t first = i * kWordBits;
  const int64_t count = layer.out - first < kWordBits ? layer.out - first : kWordBits;
  for (int64_t n = 0; n < layer.in; ++n) {
    const acc_t* from = layer.stored + n * layer.stored_in + first * layer.stored_out;
    for (int64_t j = 0; j < count; ++j) tile[n * kWordBits + j] = from[j * layer.stored_out];
  }
  transpose(tile, kWordBits, layer.in_stride, kWordBits, layer.weight + first * layer.in_stride, layer.in_stride);
}

template <class acc_t>
void store_tile(const OnlineLayer<acc_t>& layer, int64_t i, const acc_t* tile) {
  const int64_t first = i * kWordBits;
  const int64_t count = layer.out - first < kWordBits ? layer.out - first : kWordBits;
  for (int64_t n = 0; n < layer.in; ++n) {
    acc_t* to = layer.stored + n * layer.stored_in + first * layer.stored_out;
    for (int64_t j = 0; j < count; ++j) to[j * layer.stored_out] = tile[n * kWordBits + j];
  }
}

// Update of the 32 output rows of tile i by the errors of time step t; returns whether any weight may have changed. A
// row that has had no error in this batch has no gradient and no moments, only its weight decay.
template <class acc_t>
bool update_tile(const OnlineBatch<acc_t>& p, const OnlineLayer<acc_t>& layer, int64_t i, int64_t t) {
  constexpr int64_t line = kLine<acc_t>;
  const UpdateStep<acc_t>& step = p.step[t];
  const int64_t first = i * kWordBits;
  const int64_t count = layer.out - first < kWordBits ? layer.out - first : kWordBits;
  const int64_t windows = p.trace == Trace::gated ? p.T : 1;
  const acc_t* delta = layer.delta + i * p.B * kWordBits;
  uint32_t learning = step.l2 == acc_t(0) ? layer.learning[i] : t == 0 ? 0u : ~0u;
  for (int64_t j = 0; j < count; ++j) {
    const int64_t m = first + j;
    // the output layer's errors are listed, a hidden layer's are dense
    const int32_t* samples = layer.error_count ? layer.error_samples + m * p.B : nullptr;
    const int64_t errors = layer.error_count ? layer.error_count[m] : p.B;
    const bool first_update = !(learning >> j & 1u);
    acc_t* weight = layer.weight + m * layer.in_stride;
    if (first_update && errors == 0 && step.l2 == acc_t(0)) {
      if (step.shrink != acc_t(1))
        for (int64_t n = 0; n < layer.in_stride; ++n) weight[n] *= step.shrink;
      continue;
    }
    learning |= 1u << j;
    const auto sample = [=](int64_t k) { return samples ? int64_t(samples[k]) : k; };
    for_each_part(layer.in_stride / line, [&](int64_t part, auto lines) {
      update_lines<lines>(
          p, layer, step, first_update, m * layer.in_stride + part * line, errors,
          [&](int64_t k) {
            const int64_t b = sample(k);
            const int64_t window = layer.age ? t - layer.age[b * layer.out_width + m] : 0;
            return layer.trace + (b * windows + window) * layer.in_stride + part * line;
          },
          [&](int64_t k) { return delta[sample(k) * kWordBits + j]; });
    });
  }
  layer.learning[i] = learning;
  return learning != 0 || step.shrink != acc_t(1);
}

// z [lines, B, one line] of tile i: the weights of the inputs that spiked, summed by events or by table lookup.
template <class acc_t>
void multiply_tile(const OnlineBatch<acc_t>& p, int64_t l, int64_t t, const acc_t* tile,
                   const OnlineScratch<acc_t>& own) {
  const OnlineLayer<acc_t>& layer = p.layer[l];
  constexpr int64_t lines = kWordLines<acc_t>, line = kLine<acc_t>;
  const int64_t W = words_for(layer.in);
  acc_t* z = own.tile;
  for (int64_t i = 0; i < p.B * kWordBits; ++i) z[i] = acc_t(0);
  int64_t events = 0;
  for (int64_t b = 0; b < p.B; ++b) events += layer.events_end[b] - layer.events_begin[b];
  if (double(events) <= double(W) * (kTableBuild + kTableUse * double(p.B)))
    return add_events<lines>(tile, layer.events_begin, layer.events_end, layer.events, p.B, z);
  const uint32_t* spikes = spikes_at(p, p.layer[l - 1], 0, t);
  for (int64_t w = 0; w < W; w += kTableWords) {
    for (int64_t b = 0; b < p.B; ++b)
      for (int64_t j = 0; j < kTableWords; ++j)
        own.bits[b * kTableWords + j] = w + j < W ? spikes[(w + j) * p.B + b] : 0u;
    for (int64_t j = 0; j < lines; ++j) {
      build_tables(tile + w * kWordBits * kWordBits + j * line, kWordBits, kTableWords, own.table);
      add_tables(own.table, own.bits, p.B, z + j * p.B * line);
    }
  }
}

// Tile i of a later layer, 32 neurons: its update by the step before, and while its weights are in the cache, all
// samples forward. The tile of step 0 is read from the caller's weights; step T updates for the last time and gives it
// back.
template <class acc_t>
void online_tile(const OnlineBatch<acc_t>& p, int64_t l, int64_t i, int64_t t, const OnlineScratch<acc_t>& own) {
  OnlineLayer<acc_t>& layer = p.layer[l];
  constexpr int64_t line = kLine<acc_t>;
  const int64_t first = i * kWordBits, W = words_for(layer.out);
  const int64_t neurons = layer.out - first < kWordBits ? layer.out - first : kWordBits;
  acc_t* tile = layer.tiles + i * layer.tile_inputs * kWordBits;
  if (t == 0) {
    load_tile(layer, i, tile);
  } else if (update_tile(p, layer, i, t - 1)) {
    transpose(layer.weight + first * layer.in_stride, layer.in_stride, kWordBits, layer.in_stride, tile, kWordBits);
  }
  if (t == p.T) return store_tile(layer, i, tile);
  multiply_tile(p, l, t, tile, own);

  const bool is_output = l + 1 == p.layers;
  if (is_output)
    for (int64_t m = first; m < first + neurons; ++m) layer.error_count[m] = 0;
  acc_t* state = layer.state + i * p.B * kWordBits;
  acc_t* delta = layer.delta + i * p.B * kWordBits;
  acc_t squares[kWordBits] = {};
  int64_t open_errors = 0;
  for (int64_t b = 0; b < p.B; ++b) {
    acc_t v[kWordBits];
    const int64_t row = b * layer.out_width + first;
    if (layer.age && t > 0) advance_age(layer.age + row, spikes_at(p, layer, b, t - 1)[i * p.B]);
    const uint32_t spikes = integrate_word(p, own.tile + b * line, state + b * line, p.B * line, v);
    spikes_at(p, layer, b, t)[i * p.B] = spikes;
    if (!is_output) {
      for (int64_t j = 0; j < kWordBits; ++j) layer.potential[row + j] = v[j];
      continue;
    }
    const uint32_t target = p.target[(t * p.B + b) * W + i];
    const uint32_t open = word_error(p, neurons, target, spikes, v, delta + b * kWordBits, squares);
    for (uint32_t rest = open; rest; rest &= rest - 1) {
      const int64_t m = first + __builtin_ctz(rest);
      layer.error_samples[m * p.B + layer.error_count[m]++] = int32_t(b);
    }
    layer.open[i * p.B + b] = open;
    open_errors += __builtin_popcount(open);
  }
  if (is_output) {
    p.loss[i] += loss_of(squares);
    p.open_errors[i] += open_errors;
  }
}
