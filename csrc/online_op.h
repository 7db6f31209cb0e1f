// Host side of the online op that both backends share: checks and choices.
#pragma once

#include <algorithm>
#include <limits>

#include "checks.h"
#include "online_rule.h"

namespace spikefuse {

constexpr char kExchangeFailed[] =
    "spikefuse: the exchange of spikes between ranks failed in the middle of a batch; the weights are half trained";

// Number of neurons of the whole layer l, also if this rank holds a slice of the first layer.
inline int64_t neurons_of(const std::vector<Tensor>& weights, size_t l) {
  return l + 1 < weights.size() ? weights[l + 1].size(1) : weights[l].size(0);
}

// Most steps that a row of the first layer may defer its update. The errors of these steps take up to 32 MB, which fits
// a large second-level cache. Beyond 64 steps, deferring further gains nothing: a row's own memory traffic no longer
// counts.
inline int64_t update_depth(int64_t T, int64_t B, int64_t neurons, int64_t bytes) {
  const int64_t fit = (int64_t(1) << 25) / std::max<int64_t>(1, B * neurons * bytes);
  return std::max<int64_t>(1, std::min<int64_t>({T, fit, 64}));
}

inline void check_online(const Tensor& input, const Tensor& target, const std::vector<Tensor>& weights, bool sharded) {
  STD_TORCH_CHECK(!weights.empty(), "spikefuse: expected at least one weight matrix, got none");
  check_dims(input, "input", 3);
  check_dtype(input, "input", ScalarType::Int);
  check_dtype(target, "target", ScalarType::Int);
  check_same_device(target, "target", input);
  const ScalarType dtype = weights[0].scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "spikefuse: expected weights of dtype float32 or float64, got ", torch::headeronly::toString(dtype));
  for (size_t l = 0; l < weights.size(); ++l) {
    check_dims(weights[l], "weights[l]", 2);
    check_dtype(weights[l], "weights[l]", dtype);
    check_same_device(weights[l], "weights[l]", input);
    STD_TORCH_CHECK(weights[l].size(0) > 0 && weights[l].size(1) > 0, "spikefuse: weights[", l, "] is empty");
    STD_TORCH_CHECK(l == 0 || (l == 1 && sharded) || weights[l].size(1) == weights[l - 1].size(0),
                    "spikefuse: weights[", l, "] takes ", weights[l].size(1), " inputs, but the layer before it has ",
                    weights[l - 1].size(0), " neurons");
    STD_TORCH_CHECK(weights[l].size(0) <= std::numeric_limits<int32_t>::max() &&
                        weights[l].size(1) <= std::numeric_limits<int32_t>::max(),
                    "spikefuse: expected layers of at most 2^31 - 1 neurons");
  }
  check_shape(input, "input", {input.size(0), input.size(1), words_for(weights.front().size(1))});
  check_shape(target, "target", {input.size(0), input.size(1), words_for(weights.back().size(0))});
  // Ages are 16-bit numbers, sample numbers 32-bit.
  STD_TORCH_CHECK(input.size(0) <= std::numeric_limits<uint16_t>::max(),
                  "spikefuse: expected at most 65535 time steps, got ", input.size(0));
  STD_TORCH_CHECK(input.size(1) <= std::numeric_limits<int32_t>::max(),
                  "spikefuse: expected at most 2^31 - 1 samples, got ", input.size(1));
}

inline void check_online_rule(int64_t trace, int64_t surrogate, int64_t optimizer) {
  check_range(trace, 2, "trace");
  check_range(surrogate, 4, "surrogate");
  check_range(optimizer, 2, "optimizer");
}

template <class acc_t>
OnlineRule<acc_t> make_online_rule(double decay, double threshold, int64_t trace, double trace_divisor, bool v_clamp,
                                   int64_t surrogate, double slope, int64_t optimizer) {
  return {acc_t(decay),
          acc_t(threshold),
          acc_t(trace_divisor),
          acc_t(slope),
          static_cast<Trace>(trace),
          v_clamp,
          static_cast<Surrogate>(surrogate),
          static_cast<Optimizer>(optimizer)};
}

// The first layer's neurons, spread over several ranks. Each rank computes the later layers itself. A rank has `slice`
// neurons, the last rank fewer, as with DTensor's Shard(0) and torch.chunk.
struct SpikeExchange {
  ExchangeSpikes call = nullptr;  // null: this rank has all neurons
  int64_t rank = 0, ranks = 1, slice = 0;
  uint32_t* gathered = nullptr;  // [ranks, words(slice), B] spikes of this step
};

// Checks this rank's slice of the first layer, and returns it with the buffer for the exchanged spikes.
inline SpikeExchange make_exchange(const std::vector<Tensor>& weights, const std::optional<Tensor>& gathered,
                                   int64_t exchange, int64_t rank, int64_t B) {
  STD_TORCH_CHECK(gathered.has_value() == (exchange != 0),
                  "spikefuse: expected gathered and exchange together, or neither");
  if (!gathered) return {};
  STD_TORCH_CHECK(weights.size() > 1, "spikefuse: expected at least two layers where neurons are spread over ranks");
  check_dims(*gathered, "gathered", 3);
  check_dtype(*gathered, "gathered", ScalarType::Int);
  check_same_device(*gathered, "gathered", weights[0]);
  const int64_t ranks = gathered->size(0), neurons = neurons_of(weights, 0);
  STD_TORCH_CHECK(ranks > 0, "spikefuse: expected at least one rank in gathered, got none");
  check_range(rank, ranks, "rank");
  const int64_t slice = (neurons + ranks - 1) / ranks, slice_neurons = std::min(slice, neurons - rank * slice);
  STD_TORCH_CHECK(weights[0].size(0) == slice_neurons, "spikefuse: expected weights[0] of ", slice_neurons,
                  " neurons for rank ", rank, " of ", ranks, ", got ", weights[0].size(0));
  check_shape(*gathered, "gathered", {ranks, words_for(slice), B});
  STD_TORCH_CHECK(gathered->is_contiguous(), "spikefuse: expected gathered to be contiguous");
  return {reinterpret_cast<ExchangeSpikes>(exchange), rank, ranks, slice,
          reinterpret_cast<uint32_t*>(gathered->mutable_data_ptr<int32_t>())};
}

}  // namespace spikefuse
