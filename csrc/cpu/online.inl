// One time step of the online rule, as sweeps over independent tasks:
// 1. Each sample goes forward through the first layer.
// 2. Each tile of each later layer is updated by the previous step's errors, then goes forward.
// 3. Each sample propagates the errors from the output layer down.
// 4. Each row of the first layer is updated.
//
// One thread runs each task in a fixed order, so the result does not depend on the number of threads.

#include "online_errors.inl"
#include "online_forward.inl"
#include "online_rows.inl"
#include "online_updates.inl"

namespace spikefuse::cpu::SF_ISA {

// Updates tile i of a later layer (32 neurons) by the step before and then, while its weights are in the cache, takes
// all samples forward. Step 0 reads the tile from the caller's weights; step T only updates it and writes it back.
template <class acc_t>
void online_tile(const OnlineBatch<acc_t>& p, int64_t l, int64_t i, int64_t t, const OnlineScratch<acc_t>& scratch) {
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
  multiply_tile(p, l, t, tile, scratch);

  const bool is_output = l + 1 == p.layers;
  if (is_output)
    for (int64_t m = first; m < first + neurons; ++m) layer.error_count[m] = 0;
  acc_t* state = layer.state + i * p.B * kWordBits;
  acc_t* delta = layer.delta + i * p.B * kWordBits;
  acc_t squares[kWordBits] = {};
  int64_t mismatches = 0;
  for (int64_t b = 0; b < p.B; ++b) {
    acc_t v[kWordBits];
    const int64_t row = b * layer.out_width + first;
    if (layer.age && t > 0) advance_age(layer.age + row, spikes_at(p, layer, b, t - 1)[i * p.B]);
    const uint32_t spikes = integrate_word(p, scratch.tile + b * line, state + b * line, p.B * line, v);
    spikes_at(p, layer, b, t)[i * p.B] = spikes;
    if (!is_output) {
      for (int64_t j = 0; j < kWordBits; ++j) layer.potential[row + j] = v[j];
      continue;
    }
    const uint32_t target = p.target[(t * p.B + b) * W + i];
    const uint32_t mismatched = word_error(p, neurons, target, spikes, v, delta + b * kWordBits, squares);
    for (uint32_t rest = mismatched; rest; rest &= rest - 1) {
      const int64_t m = first + __builtin_ctz(rest);
      layer.error_samples[m * p.B + layer.error_count[m]++] = int32_t(b);
    }
    layer.mismatched[i * p.B + b] = mismatched;
    mismatches += __builtin_popcount(mismatched);
  }
  if (is_output) {
    p.loss[i] += loss_of(squares);
    p.mismatches[i] += mismatches;
  }
}

// Sums sample b's spikes of all layers over time.
template <class acc_t>
void online_counts(const OnlineBatch<acc_t>& p, int64_t b) {
  for (int64_t l = 0; l < p.layers; ++l) {
    const OnlineLayer<acc_t>& layer = p.layer[l];
    int32_t* counts = layer.counts + b * p.counts_stride;
    for (int64_t first = 0; first < layer.neurons; first += kWordBits) {
      int32_t sums[kWordBits] = {};
      for (int64_t t = 0; t < p.T; ++t) {
        const uint32_t word = spikes_at(p, layer, b, t)[first / kWordBits * p.B];
        for (int64_t i = 0; i < kWordBits; ++i) sums[i] += int32_t(word >> i & 1u);
      }
      for (int64_t i = 0; i < kWordBits && first + i < layer.neurons; ++i) counts[first + i] = sums[i];
    }
  }
}

}  // namespace spikefuse::cpu::SF_ISA
