// Online learning: forward, masked error, traces and a weight update at every one of T time steps, in one call.
#include <algorithm>
#include <atomic>
#include <limits>
#include <memory>
#include <thread>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../checks.h"
#include "isa.h"
#include "online.h"

#define SF_KERNELS "online.inl"
#include "foreach_isa.h"

namespace spikefuse::cpu {

template <class acc_t>
struct Scratch {
  std::vector<acc_t> v, row, coefficient;
  std::vector<int32_t> list;
};

// A sweep over independent tasks that all threads share: each takes the next one when it is done with its last.
struct Sweep {
  std::atomic<int64_t> next{0}, done{0};
};

// Takes part in sweep after sweep, entering each when all tasks of the one before are done. A thread waits for tasks
// and never for threads: one that has lost its core to another process holds up nobody but the task it is in.
template <class Tasks, class Run>
static void walk_sweeps(std::vector<Sweep>& sweeps, const Tasks& tasks, const Run& run) {
  constexpr int kSpins = 2000;  // a few microseconds, about what the shortest sweep takes
  for (size_t s = 0; s < sweeps.size(); ++s) {
    const int64_t count = tasks(s);
    for (int64_t i = sweeps[s].next++; i < count; i = sweeps[s].next++) {
      run(s, i);
      sweeps[s].done.fetch_add(1, std::memory_order_release);
    }
    for (int spin = 0; sweeps[s].done.load(std::memory_order_acquire) < count; ++spin)
      if (spin >= kSpins) std::this_thread::yield();
  }
}

// Owns a batch's buffers; all start from zero.
template <class acc_t>
class OnlineBuffers {
 public:
  acc_t* values(int64_t count) { return allocate<acc_t>(count); }
  int32_t* integers(int64_t count) { return allocate<int32_t>(count); }
  uint32_t* words(int64_t count) { return allocate<uint32_t>(count); }

 private:
  template <class T>
  T* allocate(int64_t count) {
    std::shared_ptr<T[]> block(new T[std::max<int64_t>(count, 1)]());
    blocks_.push_back(block);
    return block.get();
  }
  std::vector<std::shared_ptr<void>> blocks_;
};

template <class acc_t>
static void copy_matrix(const acc_t* from, int64_t from_row, int64_t from_column, acc_t* to, int64_t to_row,
                        int64_t to_column, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) to[r * to_row + c * to_column] = from[r * from_row + c * from_column];
}

static bool is_input_major(const Tensor& weight) {
  return (weight.size(0) <= 1 || weight.stride(0) == 1) && (weight.size(1) <= 1 || weight.stride(1) == weight.size(0));
}

template <class acc_t>
static void make_layers(OnlineBatch<acc_t>& p, const std::vector<Tensor>& weights, OnlineBuffers<acc_t>& buffers,
                        std::vector<OnlineLayer<acc_t>>& layers, int32_t* counts) {
  for (size_t l = 0; l < weights.size(); ++l) {
    OnlineLayer<acc_t> layer{};
    layer.out = weights[l].size(0);
    layer.in = weights[l].size(1);
    acc_t* stored = weights[l].template mutable_data_ptr<acc_t>();
    const int64_t stride_out = weights[l].stride(0), stride_in = weights[l].stride(1);
    layer.weight_in = stored;
    if (!is_input_major(weights[l])) {
      layer.weight_in = buffers.values(layer.in * layer.out);
      copy_matrix(stored, stride_in, stride_out, layer.weight_in, layer.out, int64_t(1), layer.in, layer.out);
    }
    if (l > 0) {
      layer.weight_out = buffers.values(layer.in * layer.out);
      copy_matrix(stored, stride_out, stride_in, layer.weight_out, layer.in, int64_t(1), layer.out, layer.in);
    }
    if (p.optimizer == Optimizer::adam) {
      layer.m = buffers.values(layer.in * layer.out);
      layer.v = buffers.values(layer.in * layer.out);
    }
    layer.state = buffers.values(p.B * layer.out);
    layer.delta = buffers.values(p.B * layer.out);
    layer.spikes = buffers.words(p.B * words_for(layer.out));
    layer.nonzero = buffers.words(p.B * words_for(l == 0 ? layer.in : layer.out));
    if (l > 0 && l + 1 < weights.size())  // a hidden layer's errors are dense
      for (int64_t i = 0; i < p.B * words_for(layer.out); ++i) layer.nonzero[i] = ~0u;
    layer.trace = buffers.values(p.B * layer.in * (p.trace == Trace::shared ? 1 : p.window));
    if (p.trace == Trace::shared) {
      layer.trace_scale = buffers.values(p.B);
    } else {
      layer.age = buffers.integers(p.B * layer.out);
    }
    layer.counts = counts;
    counts += layer.out;
    layers.push_back(layer);
  }
  p.layer = layers.data();
}

template <class acc_t>
static int64_t output_tasks(const OnlineLayer<acc_t>& layer) {
  return (layer.out + kOutputRows - 1) / kOutputRows;
}

template <class acc_t>
static void run_steps(const OnlineBatch<acc_t>& p, double lr, double beta1, double beta2, double epsilon,
                      double weight_decay, bool decoupled) {
  int64_t widest = 0, outputs = 0;
  for (int64_t l = 0; l < p.layers; ++l) {
    widest = std::max({widest, p.layer[l].in, p.layer[l].out});
    outputs += p.layer[l].out;
  }
  std::vector<Scratch<acc_t>> scratch(torch::stable::get_num_threads());
  for (Scratch<acc_t>& s : scratch) {
    s.v.resize(outputs);
    s.row.resize(widest);
    s.coefficient.resize(std::max(widest, p.B));
    s.list.resize(std::max(widest, kWordBits * p.B));
  }
  const int64_t input_tasks = words_for(p.layer[0].in);
  int64_t update_tasks = input_tasks;
  for (int64_t l = 1; l < p.layers; ++l) update_tasks += output_tasks(p.layer[l]);
  std::vector<UpdateStep<acc_t>> steps;
  for (int64_t t = 0; t < p.T; ++t)
    steps.push_back(make_update_step<acc_t>(p.optimizer, t + 1, lr, beta1, beta2, epsilon, weight_decay, decoupled));

  // One parallel region for the batch, two sweeps a time step: samples forward and back, then rows of weights. Which
  // thread does a sample or a row does not change its result.
  std::vector<Sweep> sweeps(2 * p.T);
  const auto tasks = [&](size_t s) { return s % 2 == 0 ? p.B : update_tasks; };
  parallel_for(0, static_cast<int64_t>(scratch.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) {
      Scratch<acc_t>& own = scratch[thread];
      walk_sweeps(sweeps, tasks, [&](size_t s, int64_t task) {
        const int64_t t = static_cast<int64_t>(s / 2);
        if (s % 2 == 0) {
          SF_DISPATCH_ISA(
              online_sample(p, task, t, own.v.data(), own.row.data(), own.list.data(), own.coefficient.data()));
        } else if (task < input_tasks) {
          SF_DISPATCH_ISA(
              update_input_rows(p, steps[t], task, own.list.data(), own.coefficient.data(), own.row.data()));
        } else {
          task -= input_tasks;
          int64_t l = 1;
          for (; task >= output_tasks(p.layer[l]); ++l) task -= output_tasks(p.layer[l]);
          SF_DISPATCH_ISA(update_output_rows(p, steps[t], l, task * kOutputRows, own.list.data(),
                                             own.coefficient.data(), own.row.data()));
        }
      });
    }
  });
}

static void check_online(const Tensor& input, const Tensor& target, const std::vector<Tensor>& weights) {
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
    STD_TORCH_CHECK(l == 0 || weights[l].size(1) == weights[l - 1].size(0), "spikefuse: weights[", l, "] takes ",
                    weights[l].size(1), " inputs, but the layer before it has ", weights[l - 1].size(0), " neurons");
    STD_TORCH_CHECK(weights[l].size(0) <= std::numeric_limits<int32_t>::max() &&
                        weights[l].size(1) <= std::numeric_limits<int32_t>::max(),
                    "spikefuse: expected layers of at most 2^31 - 1 neurons");
  }
  check_shape(input, "input", {input.size(0), input.size(1), words_for(weights.front().size(1))});
  check_shape(target, "target", {input.size(0), input.size(1), words_for(weights.back().size(0))});
}

template <class acc_t>
static void run_online(OnlineBatch<acc_t>& p, const std::vector<Tensor>& weights, int32_t* counts, double lr,
                       double beta1, double beta2, double epsilon, double weight_decay, bool decoupled) {
  OnlineBuffers<acc_t> buffers;
  std::vector<OnlineLayer<acc_t>> layers;
  make_layers(p, weights, buffers, layers, counts);
  run_steps(p, lr, beta1, beta2, epsilon, weight_decay, decoupled);
  for (size_t l = 0; l < weights.size(); ++l)
    if (!is_input_major(weights[l]))
      copy_matrix(layers[l].weight_in, layers[l].out, int64_t(1), weights[l].template mutable_data_ptr<acc_t>(),
                  weights[l].stride(1), weights[l].stride(0), layers[l].in, layers[l].out);
}

std::tuple<Tensor, Tensor, Tensor> online_step_(Tensor input, Tensor target, std::vector<Tensor> weights, double decay,
                                                double threshold, int64_t trace, double trace_divisor, bool v_clamp,
                                                int64_t surrogate, double slope, int64_t optimizer, double lr,
                                                double beta1, double beta2, double epsilon, double weight_decay,
                                                bool decoupled) {
  check_online(input, target, weights);
  check_range(trace, 2, "trace");
  check_range(surrogate, 4, "surrogate");
  check_range(optimizer, 2, "optimizer");
  const int64_t T = input.size(0), B = input.size(1);
  int64_t outputs = 0;
  for (const Tensor& weight : weights) outputs += weight.size(0);
  Tensor loss = torch::stable::new_empty(input, {}, ScalarType::Double);
  Tensor open_errors = torch::stable::new_empty(input, {}, ScalarType::Long);
  Tensor spike_counts = torch::stable::new_zeros(input, {B, outputs}, ScalarType::Int);
  const Tensor input_words = torch::stable::contiguous(input), target_words = torch::stable::contiguous(target);
  std::vector<double> sample_loss(B, 0.0);
  std::vector<int64_t> sample_open(B, 0);

  const auto run = [&](auto zero) {
    using acc_t = decltype(zero);
    OnlineBatch<acc_t> p{};
    p.T = T, p.B = B;
    p.layers = static_cast<int64_t>(weights.size());
    p.window = (T + 15) / 16 * 16;
    // Samples and their windows are numbered in 32 bits in the event lists.
    STD_TORCH_CHECK(B * p.window <= std::numeric_limits<int32_t>::max(),
                    "spikefuse: expected B * T below 2^31, got B = ", B, " and T = ", T);
    p.counts_stride = outputs;
    p.input = words_data(input_words);
    p.target = words_data(target_words);
    p.decay = static_cast<acc_t>(decay);
    p.threshold = static_cast<acc_t>(threshold);
    p.trace_divisor = static_cast<acc_t>(trace_divisor);
    p.slope = static_cast<acc_t>(slope);
    p.trace = static_cast<Trace>(trace);
    p.v_clamp = v_clamp;
    p.surrogate = static_cast<Surrogate>(surrogate);
    p.optimizer = static_cast<Optimizer>(optimizer);
    p.loss = sample_loss.data();
    p.open_errors = sample_open.data();
    if (T > 0 && B > 0)
      run_online(p, weights, spike_counts.mutable_data_ptr<int32_t>(), lr, beta1, beta2, epsilon, weight_decay,
                 decoupled);
  };
  if (weights[0].scalar_type() == ScalarType::Double)
    run(double{});
  else
    run(float{});

  double total = 0;
  int64_t open = 0;
  for (int64_t b = 0; b < B; ++b) {
    total += sample_loss[b];
    open += sample_open[b];
  }
  *loss.mutable_data_ptr<double>() = total;
  *open_errors.mutable_data_ptr<int64_t>() = open;
  return {loss, open_errors, spike_counts};
}

}  // namespace spikefuse::cpu
