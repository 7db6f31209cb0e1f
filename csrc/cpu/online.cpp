// Online learning on the CPU: one call computes the forward pass, masked error, traces and weight update of every time
// step.
#include <algorithm>
#include <atomic>
#include <thread>

#include "arena.h"
#include "online_batch.h"
#include "parallel.h"

#define SF_KERNELS "online.inl"
#include "foreach_isa.h"

namespace spikefuse::cpu {

// A sweep over independent tasks. It starts when all tasks of the stage before are finished.
struct Stage {
  enum Kind { load_inputs, samples, exchange, list, tiles, errors, rows, counts } kind;
  int64_t layer, t, tasks;
};

// Yields the core's execution units to the hyper-thread that may share them.
static void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// A counter on its own cache line.
struct alignas(64) Counter {
  std::atomic<int64_t> value{0};
};

// Runs all stages in one thread. Each thread starts with its own share of the tasks, whose rows and tiles are in its
// caches from the stage and time step before. It then helps with the other threads' tasks. Threads wait for tasks,
// never for threads: a thread that loses its core to another process delays only its current task. Only the calling
// thread runs the exchange: it may hold Python's lock, and other threads would wait for that lock. All threads return
// once a task sets `stopped`.
template <class Run>
static void walk_stages(const std::vector<Stage>& stages, std::vector<Counter>& counters, int64_t threads, int64_t me,
                        bool is_caller, const std::atomic<bool>& stopped, const Run& run) {
  constexpr int kSpins = 200;  // some ten microseconds, about as long as the shortest stage
  for (size_t s = 0; s < stages.size(); ++s) {
    Counter* next = counters.data() + s * (threads + 1);
    std::atomic<int64_t>& done = next[threads].value;
    const int64_t tasks = stages[s].tasks;
    const bool takes_part = stages[s].kind != Stage::exchange || is_caller;
    for (int64_t k = 0; takes_part && k < threads; ++k) {
      const int64_t owner = (me + k) % threads;
      const int64_t begin = owner * tasks / threads, count = (owner + 1) * tasks / threads - begin;
      for (int64_t i = next[owner].value++; i < count; i = next[owner].value++) {
        run(stages[s], begin + i);
        done.fetch_add(1, std::memory_order_release);
      }
    }
    for (int spin = 0; done.load(std::memory_order_acquire) < tasks; ++spin)
      spin < kSpins ? relax() : std::this_thread::yield();
    if (stopped.load(std::memory_order_relaxed)) return;
  }
}

static int64_t round_up(int64_t count, int64_t multiple) { return (count + multiple - 1) / multiple * multiple; }

template <class acc_t>
static OnlineLayer<acc_t> make_layer(const OnlineBatch<acc_t>& p, int64_t l, const std::vector<Tensor>& matrices,
                                     Arena& arena) {
  const Tensor& weight = matrices[l];
  OnlineLayer<acc_t> layer{};
  layer.neurons = neurons_of(matrices, l);
  layer.out = weight.size(0);
  layer.in = weight.size(1);
  layer.in_stride = round_up(layer.in, kLine<acc_t>);
  layer.out_stride = round_up(layer.out, kLine<acc_t>);
  layer.out_width = round_up(layer.out, kWordBits);
  layer.stored = weight.mutable_data_ptr<acc_t>();
  layer.stored_out = weight.stride(0);
  layer.stored_in = weight.stride(1);
  const bool is_first = l == 0, is_output = l + 1 == p.layers;
  int64_t weights = layer.in * layer.out_stride;
  if (is_first) {
    const bool input_major = (layer.out == 1 || layer.stored_out == 1) && layer.stored_in == layer.out;
    layer.weight = input_major && layer.out == layer.out_stride ? layer.stored : arena.take<acc_t>(weights, false);
    layer.active = arena.take<uint32_t>(layer.in * words_for(p.B));
    layer.active_count = arena.take<int32_t>(layer.in);
    layer.active_sample = arena.take<int32_t>(layer.in * p.list_stride(p.B), false);
    layer.updated_until = arena.take<int32_t>(layer.in);
    layer.traced = arena.take<int32_t>(layer.in);
  } else {
    weights = layer.out_width * layer.in_stride;
    layer.weight = arena.take<acc_t>(weights, false);
    layer.tile_inputs = round_up(layer.in, kTableWords * kWordBits);
    layer.tiles = arena.take<acc_t>(layer.tile_inputs * layer.out_width);
    layer.events = arena.take<int32_t>(p.B * p.list_stride(layer.in), false);
    layer.events_begin = arena.take<int64_t>(p.B);
    layer.events_end = arena.take<int64_t>(p.B);
    if (is_output) {
      layer.error_count = arena.take<int32_t>(layer.out);
      layer.error_samples = arena.take<int32_t>(layer.out * p.B, false);
      layer.mismatched = arena.take<uint32_t>(p.B * words_for(layer.out));
    }
  }
  if (p.optimizer == Optimizer::adam) {
    layer.m = arena.take<acc_t>(weights, false);
    layer.v = arena.take<acc_t>(weights, false);
  }
  const int64_t depth = is_first ? p.depth : 1;
  layer.has_moments = arena.take<uint32_t>(words_for(is_first ? layer.in : layer.out));
  layer.state = arena.take<acc_t>(p.B * layer.out_width);
  layer.delta = arena.take<acc_t>(depth * p.B * layer.out_width, false);
  layer.spikes = arena.take<uint32_t>(p.T * p.B * words_for(layer.neurons), false);
  if (is_first || !is_output) layer.potential = arena.take<acc_t>(p.B * layer.out_width);
  if (p.trace == Trace::shared) {
    layer.trace = arena.take<acc_t>(is_first ? layer.in * p.sample_width : p.B * layer.in_stride);
    layer.trace_factor = arena.take<acc_t>(depth * p.sample_width);
  } else {
    layer.age = arena.take<uint16_t>(depth * p.B * layer.out_width);
    if (is_first) {
      // A few extra words: kernels read whole registers of steps, also from before the first one.
      layer.history = arena.take<uint64_t>(layer.in * p.B * p.history_words + 4);
    } else {
      layer.trace = arena.take<acc_t>(p.B * p.T * layer.in_stride, false);
      layer.window_neurons = arena.take<int32_t>(p.B * (p.T + 1));
    }
  }
  return layer;
}

// Tabulates the window sums of 8 steps for every spike history of 8 steps, the newest step first: [256, 8].
template <class acc_t>
static const acc_t* make_window_table(acc_t decay, Arena& arena) {
  acc_t* table = arena.take<acc_t>(256 * 8);
  for (int history = 0; history < 256; ++history) {
    acc_t sum = 0, power = 1;
    for (int age = 0; age < 8; ++age, power *= decay) {
      sum += history >> age & 1 ? power : acc_t(0);
      table[history * 8 + age] = sum;
    }
  }
  return table;
}

template <class acc_t>
static std::vector<Stage> make_stages(const OnlineBatch<acc_t>& p) {
  const int64_t input_words = words_for(p.layer[0].in);
  const auto tiles = [&](int64_t l) { return words_for(p.layer[l].out); };
  std::vector<Stage> stages;
  if (p.layer[0].weight != p.layer[0].stored) stages.push_back({Stage::load_inputs, 0, 0, input_words});
  for (int64_t t = 0; t < p.T; ++t) {
    stages.push_back({Stage::samples, 0, t, p.B});
    if (p.exchange.call) stages.push_back({Stage::exchange, 0, t, 1});
    for (int64_t l = 1; l < p.layers; ++l) {
      if (l > 1 || p.exchange.call) stages.push_back({Stage::list, l, t, p.B});
      stages.push_back({Stage::tiles, l, t, tiles(l)});
    }
    if (p.layers > 1) stages.push_back({Stage::errors, 0, t, p.B});
    stages.push_back({Stage::rows, 0, t, input_words});
  }
  for (int64_t l = 1; l < p.layers; ++l) stages.push_back({Stage::tiles, l, p.T, tiles(l)});
  stages.push_back({Stage::counts, 0, p.T, p.B});
  return stages;
}

// Exchanges the spikes of this step between all ranks and assembles the whole layer's words from the ranks' slices.
// Returns false if a rank is lost.
template <class acc_t>
static bool exchange_spikes(const OnlineBatch<acc_t>& p, int64_t t) {
  const SpikeExchange& x = p.exchange;
  if (x.call(t) != 1) return false;
  const int64_t W = words_for(p.layer[0].neurons), slice_words = words_for(x.slice);
  uint32_t* spikes = spikes_at(p, p.layer[0], 0, t);
  std::fill(spikes, spikes + W * p.B, 0u);
  for (int64_t r = 0; r < x.ranks; ++r) {
    const int64_t word = r * x.slice / kWordBits, shift = r * x.slice % kWordBits;
    for (int64_t j = 0; j < slice_words && word + j < W; ++j) {
      const uint32_t* from = x.gathered + (r * slice_words + j) * p.B;
      uint32_t* to = spikes + (word + j) * p.B;
      for (int64_t b = 0; b < p.B; ++b) to[b] |= from[b] << shift;
      if (shift == 0 || word + j + 1 == W) continue;
      for (int64_t b = 0; b < p.B; ++b) to[p.B + b] |= from[b] >> (kWordBits - shift);
    }
  }
  return true;
}

// Runs all stages of a batch; returns false if the exchange failed.
template <class acc_t>
static bool run_stages(const OnlineBatch<acc_t>& p, Arena& arena) {
  const std::vector<Stage> stages = make_stages(p);
  int64_t widest = p.B, most_tasks = 1;
  for (int64_t l = 0; l < p.layers; ++l) widest = std::max({widest, p.layer[l].in_stride, p.layer[l].out_width});
  for (const Stage& stage : stages) most_tasks = std::max(most_tasks, stage.tasks);
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), most_tasks);
  std::vector<OnlineScratch<acc_t>> scratch_of(threads);
  for (OnlineScratch<acc_t>& scratch : scratch_of) {
    scratch.row = arena.take<acc_t>(widest, false);
    scratch.tile = arena.take<acc_t>(p.B * kWordBits, false);
    scratch.table = arena.take<acc_t>(kTableWords * kTableEntries * kLine<acc_t>, false);
    scratch.list = arena.take<int32_t>(p.list_stride(widest), false);
    scratch.coefficient = arena.take<acc_t>(kWordBits * p.depth * p.B, false);
    scratch.window = arena.take<acc_t>(round_up(p.T, 8), false);
    scratch.bits = arena.take<uint32_t>(std::max(p.B * kTableWords, kWordBits * words_for(p.B)), false);
  }
  // One parallel region for the whole batch. A task's result does not depend on the thread that runs it.
  std::vector<Counter> counters(stages.size() * (threads + 1));
  std::atomic<bool> stopped{false};
  const std::thread::id caller = std::this_thread::get_id();
  parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t me = begin; me < end; ++me) {
      const OnlineScratch<acc_t>& scratch = scratch_of[me];
      const bool is_caller = std::this_thread::get_id() == caller;
      walk_stages(stages, counters, threads, me, is_caller, stopped, [&](const Stage& stage, int64_t task) {
        switch (stage.kind) {
          case Stage::load_inputs:
            SF_DISPATCH_ISA(load_inputs(p.layer[0], task));
            break;
          case Stage::samples:
            SF_DISPATCH_ISA(online_sample(p, task, stage.t, scratch));
            break;
          case Stage::exchange:
            if (!exchange_spikes(p, stage.t)) stopped.store(true, std::memory_order_relaxed);
            break;
          case Stage::list:
            SF_DISPATCH_ISA(online_list(p, stage.layer, task, stage.t));
            break;
          case Stage::tiles:
            SF_DISPATCH_ISA(online_tile(p, stage.layer, task, stage.t, scratch));
            break;
          case Stage::errors:
            SF_DISPATCH_ISA(online_errors(p, task, stage.t, scratch));
            break;
          case Stage::rows:
            SF_DISPATCH_ISA(online_rows(p, task, stage.t, scratch));
            break;
          case Stage::counts:
            SF_DISPATCH_ISA(online_counts(p, task));
        }
      });
    }
  });
  return !stopped;
}

template <class acc_t>
static bool run_online(OnlineBatch<acc_t>& p, const std::vector<Tensor>& weights, int32_t* counts) {
  static thread_local Arena arena;
  if (p.trace == Trace::gated) p.window_table = make_window_table(p.decay, arena);
  std::vector<OnlineLayer<acc_t>> layers;
  for (int64_t l = 0; l < p.layers; ++l) {
    layers.push_back(make_layer(p, l, weights, arena));
    layers.back().counts = counts;
    counts += layers.back().neurons;
  }
  p.layer = layers.data();
  const bool finished = run_stages(p, arena);
  arena.clear();
  return finished;
}

std::tuple<Tensor, Tensor, Tensor> online_batch_(Tensor input, Tensor target, std::vector<Tensor> weights, double decay,
                                                 double threshold, int64_t trace, double trace_divisor, bool v_clamp,
                                                 int64_t surrogate, double slope, int64_t optimizer, double lr,
                                                 double beta1, double beta2, double epsilon, double weight_decay,
                                                 bool decoupled, std::optional<Tensor> gathered, int64_t exchange,
                                                 int64_t rank) {
  check_online(input, target, weights, gathered.has_value() || exchange != 0);
  check_online_rule(trace, surrogate, optimizer);
  const int64_t T = input.size(0), B = input.size(1);
  const SpikeExchange spike_exchange = make_exchange(weights, gathered, exchange, rank, B);
  int64_t outputs = 0;
  for (size_t l = 0; l < weights.size(); ++l) outputs += neurons_of(weights, l);
  Tensor loss = torch::stable::new_empty(input, {}, ScalarType::Double);
  Tensor mismatches = torch::stable::new_empty(input, {}, ScalarType::Long);
  Tensor spike_counts = torch::stable::new_zeros(input, {B, outputs}, ScalarType::Int);
  const Tensor input_words = torch::stable::contiguous(input), target_words = torch::stable::contiguous(target);
  // One part per sample for a single layer, one per tile of the output layer for several layers.
  const int64_t parts = std::max(B, words_for(weights.back().size(0)));
  std::vector<double> part_loss(parts, 0.0);
  std::vector<int64_t> part_mismatches(parts, 0);

  const auto run = [&](auto zero) {
    using acc_t = decltype(zero);
    OnlineBatch<acc_t> p{};
    p.T = T, p.B = B;
    p.layers = static_cast<int64_t>(weights.size());
    p.sample_width = words_for(B) * kWordBits;
    p.history_words = (T + 63) / 64;
    p.depth = update_depth(T, B, weights[0].size(0), sizeof(acc_t));
    p.counts_stride = outputs;
    p.input = words_data(input_words);
    p.target = words_data(target_words);
    static_cast<OnlineRule<acc_t>&>(p) =
        make_online_rule<acc_t>(decay, threshold, trace, trace_divisor, v_clamp, surrogate, slope, optimizer);
    std::vector<UpdateStep<acc_t>> steps;
    for (int64_t t = 0; t < T; ++t)
      steps.push_back(make_update_step<acc_t>(p.optimizer, t + 1, lr, beta1, beta2, epsilon, weight_decay, decoupled));
    p.step = steps.data();
    p.loss = part_loss.data();
    p.mismatches = part_mismatches.data();
    p.exchange = spike_exchange;
    const bool finished = T == 0 || B == 0 || run_online(p, weights, spike_counts.mutable_data_ptr<int32_t>());
    STD_TORCH_CHECK(finished, kExchangeFailed);
  };
  if (weights[0].scalar_type() == ScalarType::Double)
    run(double{});
  else
    run(float{});

  double total = 0;
  int64_t total_mismatches = 0;
  for (int64_t i = 0; i < parts; ++i) {
    total += part_loss[i];
    total_mismatches += part_mismatches[i];
  }
  *loss.mutable_data_ptr<double>() = total;
  *mismatches.mutable_data_ptr<int64_t>() = total_mismatches;
  return {loss, mismatches, spike_counts};
}

}  // namespace spikefuse::cpu
