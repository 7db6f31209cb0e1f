// Online learning on CUDA. One launch computes a batch; with the first layer's neurons spread over ranks, one launch
// computes a time step, and the ranks exchange spikes between launches.
#include "../online_op.h"
#include "launch.h"
#include "online.cuh"
#include "spike_matmul.cuh"

namespace spikefuse::cuda {

// Assigns all arrays of a batch to one allocation. Called twice: first to measure, then to set the pointers.
class Workspace {
 public:
  template <class T>
  void take(T*& pointer, int64_t count) {
    pointer = reinterpret_cast<T*>(address_ + size_);
    size_ += divide_up(count * int64_t(sizeof(T)), kAlignment) * kAlignment;
  }
  int64_t size() const { return size_; }
  // Sets the allocation's address and starts again: pointers taken from now on are valid.
  void place(void* address) {
    address_ = reinterpret_cast<uintptr_t>(address);
    size_ = 0;
  }

 private:
  static constexpr int64_t kAlignment = 256;
  uintptr_t address_ = 0;
  int64_t size_ = 0;
};

// Threads per block: enough for the widest layer's neurons, at most kThreads.
static unsigned online_threads(const std::vector<Tensor>& weights) {
  int64_t widest = 0;
  for (const Tensor& w : weights) widest = std::max(widest, w.size(0));
  return gather_threads(widest, 1);
}

template <class acc_t>
static void take_all(OnlineBatch<acc_t>& p, unsigned blocks, unsigned threads, bool window_memory, Workspace& zeros,
                     Workspace& memory) {
  const bool adam = p.optimizer == Optimizer::adam, shared = p.trace == Trace::shared;
  const int64_t inputs = p.layer[0].in;
  for (int l = 0; l < p.layers; ++l) {
    OnlineLayer<acc_t>& layer = p.layer[l];
    const bool is_first = l == 0, is_output = l + 1 == p.layers;
    const int64_t depth = is_first ? p.depth : 1;
    if (adam) {
      memory.take(layer.m, layer.in * layer.out);
      memory.take(layer.v, layer.in * layer.out);
    }
    zeros.take(layer.state, p.B * layer.out);
    if (!is_output) memory.take(layer.potential, p.B * layer.out);
    memory.take(layer.delta, depth * p.B * layer.out);
    memory.take(layer.spikes, p.T * p.B * words_for(layer.neurons));
    if (shared) {
      zeros.take(layer.trace, p.B * layer.in);
      zeros.take(layer.trace_factor, depth * p.B);
    } else {
      memory.take(layer.age, depth * p.B * layer.out);
      if (!is_first) {
        memory.take(layer.trace, p.B * p.T * layer.in);
        zeros.take(layer.window_neurons, p.B * (p.T + 1));
      }
    }
  }
  uint32_t* by_input;
  memory.take(by_input, inputs * p.T * words_for(p.B));
  p.by_input = by_input;
  memory.take(p.step, p.T);
  if (!shared) memory.take(p.power, p.T);
  zeros.take(p.active, inputs * words_for(p.B));
  zeros.take(p.updated_until, inputs);
  zeros.take(p.has_moments, inputs);
  zeros.take(p.rows_due_count, p.T);
  memory.take(p.rows_due, inputs);
  if (shared) memory.take(p.coefficient, blocks * p.depth * p.B);
  memory.take(p.samples, blocks * p.B);
  if (window_memory) memory.take(p.windows, blocks * (threads / 32) * p.T);
  const int64_t tasks = p.B * divide_up(p.layer[p.layers - 1].out, threads);
  zeros.take(p.loss_part, tasks);
  zeros.take(p.mismatches_part, tasks);
}

// Number of blocks: as many as the widest stage can use, at most as many as fit the device at once.
template <class acc_t>
static unsigned online_blocks(const OnlineBatch<acc_t>& p, unsigned threads, size_t shared_bytes) {
  int64_t tasks = p.layer[0].in;
  for (int l = 0; l < p.layers; ++l) tasks = std::max(tasks, p.B * divide_up(p.layer[l].out, threads));
  return unsigned(std::min<int64_t>(tasks, max_cooperative_blocks(online_kernel<acc_t>, threads, shared_bytes)));
}

// Most shared memory for window sums; longer ones use global memory.
constexpr size_t kWindowBytes = 32 * 1024;

template <class acc_t>
static void run_online(OnlineBatch<acc_t>& p, const Tensor& like, unsigned threads, const ExchangeSpikes exchange,
                       cudaStream_t stream) {
  const bool gated = p.trace == Trace::gated;
  const bool window_memory = gated && threads / 32 * p.T * sizeof(acc_t) > kWindowBytes;
  const size_t shared_bytes = online_shared_bytes<acc_t>(threads, gated && !window_memory ? p.T : 0);
  const unsigned blocks = online_blocks(p, threads, shared_bytes);
  Workspace zeros, memory;
  take_all(p, blocks, threads, window_memory, zeros, memory);
  Tensor zero_bytes = torch::stable::new_zeros(like, {zeros.size()}, ScalarType::Byte);
  Tensor bytes = torch::stable::new_empty(like, {memory.size()}, ScalarType::Byte);
  zeros.place(zero_bytes.mutable_data_ptr());
  memory.place(bytes.mutable_data_ptr());
  take_all(p, blocks, threads, window_memory, zeros, memory);

  transpose_words(p.input, p.T, p.B, p.layer[0].in, const_cast<uint32_t*>(p.by_input), stream);
  const auto walk = [&](int64_t from, int64_t to) {
    launch_cooperative(online_kernel<acc_t>, blocks, threads, shared_bytes, stream, p, from, to);
  };
  if (!exchange) return walk(0, 2 * p.T);
  walk(0, 1);
  for (int64_t t = 0; t < p.T; ++t) {
    STD_TORCH_CHECK(exchange(t) == 1, kExchangeFailed);
    walk(2 * t + 1, std::min(2 * t + 3, 2 * p.T));
  }
}

std::tuple<Tensor, Tensor, Tensor> online_batch_(Tensor input, Tensor target, std::vector<Tensor> weights, double decay,
                                                 double threshold, int64_t trace, double trace_divisor, bool v_clamp,
                                                 int64_t surrogate, double slope, int64_t optimizer, double lr,
                                                 double beta1, double beta2, double epsilon, double weight_decay,
                                                 bool decoupled, std::optional<Tensor> gathered, int64_t exchange,
                                                 int64_t rank) {
  check_online(input, target, weights, gathered.has_value() || exchange != 0);
  check_online_rule(trace, surrogate, optimizer);
  STD_TORCH_CHECK(weights.size() <= kMostLayers, "spikefuse: expected at most ", kMostLayers, " layers on CUDA, got ",
                  weights.size());
  const int64_t T = input.size(0), B = input.size(1);
  const SpikeExchange spike_exchange = make_exchange(weights, gathered, exchange, rank, B);
  const DeviceStreamGuard device(input);
  int64_t outputs = 0;
  for (size_t l = 0; l < weights.size(); ++l) outputs += neurons_of(weights, l);
  Tensor loss = torch::stable::new_zeros(input, {}, ScalarType::Double);
  Tensor mismatches = torch::stable::new_zeros(input, {}, ScalarType::Long);
  Tensor spike_counts = torch::stable::new_zeros(input, {B, outputs}, ScalarType::Int);
  if (T == 0 || B == 0) return {loss, mismatches, spike_counts};
  const Tensor input_words = torch::stable::contiguous(input), target_words = torch::stable::contiguous(target);

  // Weights input-major, in the caller's memory if it has this layout; later layers also output-major.
  std::vector<Tensor> input_major, output_major;
  for (size_t l = 0; l < weights.size(); ++l) {
    input_major.push_back(torch::stable::contiguous(torch::stable::transpose(weights[l], 0, 1)));
    if (l > 0) {
      output_major.push_back(torch::stable::new_empty(weights[l], {weights[l].size(0), weights[l].size(1)}));
      torch::stable::copy_(output_major.back(), weights[l]);
    }
  }
  const auto run = [&](auto zero) {
    using acc_t = decltype(zero);
    OnlineBatch<acc_t> p{};
    static_assert(sizeof p <= 4000);
    static_cast<OnlineRule<acc_t>&>(p) =
        make_online_rule<acc_t>(decay, threshold, trace, trace_divisor, v_clamp, surrogate, slope, optimizer);
    p.T = T, p.B = B;
    p.depth = update_depth(T, B, weights[0].size(0), sizeof(acc_t));
    p.outputs = outputs;
    p.layers = int(weights.size());
    for (int l = 0; l < p.layers; ++l) {
      OnlineLayer<acc_t>& layer = p.layer[l];
      layer.in = weights[l].size(1);
      layer.out = weights[l].size(0);
      layer.neurons = neurons_of(weights, l);
      layer.first = l == 0 ? spike_exchange.rank * spike_exchange.slice : 0;
      layer.weight = input_major[l].template mutable_data_ptr<acc_t>();
      if (l > 0) layer.transposed = output_major[l - 1].template mutable_data_ptr<acc_t>();
    }
    p.input = words_data(input_words);
    p.target = words_data(target_words);
    p.lr = lr, p.beta1 = beta1, p.beta2 = beta2, p.epsilon = epsilon, p.weight_decay = weight_decay;
    p.decoupled = decoupled;
    p.gathered = spike_exchange.gathered;
    p.rank = spike_exchange.rank, p.ranks = spike_exchange.ranks, p.slice = spike_exchange.slice;
    p.loss = loss.mutable_data_ptr<double>();
    p.mismatches = mismatches.mutable_data_ptr<int64_t>();
    p.counts = spike_counts.mutable_data_ptr<int32_t>();
    run_online(p, input, online_threads(weights), spike_exchange.call, device.stream());
  };
  if (weights[0].scalar_type() == ScalarType::Double)
    run(double{});
  else
    run(float{});
  for (size_t l = 0; l < weights.size(); ++l) {
    const Tensor kept = torch::stable::transpose(weights[l], 0, 1);
    if (kept.mutable_data_ptr() != input_major[l].mutable_data_ptr()) {
      Tensor stored = kept;
      torch::stable::copy_(stored, input_major[l]);
    }
  }
  return {loss, mismatches, spike_counts};
}

}  // namespace spikefuse::cuda
