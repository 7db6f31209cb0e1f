#include "emulator.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <exception>
#include <mutex>
#include <numeric>

#include "include/cuda_runtime.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace emulator {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStack = 1 << 19;
#else
constexpr size_t kStack = 1 << 16;
#endif

// A suspended execution that can be resumed.
struct Context {
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
  const void* stack = nullptr;  // for the sanitizer
  size_t size = 0;
};

#if defined(__x86_64__)
// Saves the callee-saved registers on the current stack and restores those of the other one. swapcontext would make a
// system call each time.
extern "C" void emulator_switch(void** save, void* load);
asm(R"(
.text
.type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch, .-emulator_switch
)");
#endif

void switch_context(Context& from, Context& to) {
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, to.stack, to.size);
#endif
#if defined(__x86_64__)
  emulator_switch(&from.stack_pointer, to.stack_pointer);
#else
  swapcontext(&from.context, &to.context);
#endif
#if defined(__SANITIZE_ADDRESS__)
  const void* left;
  size_t left_size;
  __sanitizer_finish_switch_fiber(fake_stack, &left, &left_size);
#endif
}

void prepare(Context& context, unsigned char* stack, void (*entry)()) {
  context.stack = stack;
  context.size = kStack;
#if defined(__x86_64__)
  // Initial stack of a fibre: six saved registers and a return address, which lies at 16 n + 8.
  auto* top = reinterpret_cast<void**>(stack + kStack - 16);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  context.stack_pointer = top;
#else
  getcontext(&context.context);
  context.context.uc_stack.ss_sp = stack;
  context.context.uc_stack.ss_size = kStack;
  context.context.uc_link = nullptr;
  makecontext(&context.context, entry, 0);
#endif
}

// Keeps stacks from block to block: a test runs tens of thousands of blocks.
class Stacks {
 public:
  unsigned char* take() {
    if (!free_.empty()) {
      unsigned char* stack = free_.back();
      free_.pop_back();
#if defined(__SANITIZE_ADDRESS__)
      __asan_unpoison_memory_region(stack, kStack);  // of frames that were left without returning
#endif
      return stack;
    }
    void* stack = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) throw std::bad_alloc();
    return static_cast<unsigned char*>(stack);
  }
  void give(unsigned char* stack) { free_.push_back(stack); }

 private:
  std::vector<unsigned char*> free_;
};

Stacks stacks;
Context scheduler;
Block* running = nullptr;
Fibre* starting = nullptr;
std::mutex one_launch;
std::deque<const void*> launched;  // the kernels of the last launches

uint64_t initial_seed() {
  const char* text = std::getenv("SPIKEFUSE_EMULATOR_SEED");
  return text ? std::strtoull(text, nullptr, 10) : 0;
}
uint64_t seed = initial_seed();

// splitmix64
uint64_t next_random(uint64_t& state) {
  uint64_t z = state += 0x9e3779b97f4a7c15ull;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  return z ^ z >> 31;
}

}  // namespace

class Fibre {
 public:
  explicit Fibre(const std::function<void()>& body) : body_(body), stack_(stacks.take()) {
    prepare(context_, stack_, &Fibre::enter);
  }
  ~Fibre() { stacks.give(stack_); }

  // Called by the scheduler: runs the fibre until it pauses or ends the kernel. Returns false at the end of the kernel;
  // the next call then starts the kernel again.
  bool resume() {
    starting = this;
    ended_ = false;
    switch_context(scheduler, context_);
    if (error_) std::rethrow_exception(error_);
    return !ended_;
  }
  void pause() { switch_context(context_, scheduler); }

 private:
  static void enter() {
#if defined(__SANITIZE_ADDRESS__)
    // The first entry to this stack. It comes from the scheduler, whose stack bounds become known only here.
    __sanitizer_finish_switch_fiber(nullptr, &scheduler.stack, &scheduler.size);
#endif
    Fibre* self = starting;
    for (;;) {
      try {
        self->body_();
      } catch (...) {
        self->error_ = std::current_exception();
      }
      self->ended_ = true;
      self->pause();
    }
  }

  const std::function<void()>& body_;
  unsigned char* stack_;
  Context context_;
  bool ended_ = false;
  std::exception_ptr error_;
};

Block::Block(const Launch& launch, const std::function<void()>& body)
    : launch_(launch), shared_(nullptr, std::free), meetings_((launch.threads + 31) / 32) {
  for (unsigned i = 0; i < launch.threads; ++i) fibres_.push_back(std::make_unique<Fibre>(body));
}

Block::~Block() { running = nullptr; }

void Block::start(unsigned block, uint64_t random) {
  block_ = block;
  random_ = random;
  if (launch_.shared_bytes > 0) {
    // The sanitizer wants the exact size; aligned_alloc takes only multiples of the alignment.
    void* memory = nullptr;
    if (posix_memalign(&memory, 128, launch_.shared_bytes) != 0) throw std::bad_alloc();
    std::memset(memory, 0xff, launch_.shared_bytes);
    shared_.reset(static_cast<unsigned char*>(memory));
  }
  finished_ = 0;
  ready_.resize(launch_.threads);
  std::iota(ready_.begin(), ready_.end(), 0u);
}

void Block::step() {
  running = this;
  blockIdx = {block_, 0, 0};
  std::swap(ready_[next_random(random_) % ready_.size()], ready_.back());
  current_ = ready_.back();
  ready_.pop_back();
  threadIdx = {current_, 0, 0};
  if (!fibres_[current_]->resume()) ++finished_;
}

void Block::wait() { fibres_[current_]->pause(); }

void Block::barrier() {
  at_barrier_.push_back(current_);
  if (at_barrier_.size() == launch_.threads) {
    ready_.insert(ready_.end(), at_barrier_.begin(), at_barrier_.end());
    at_barrier_.clear();
  }
  wait();
}

void Block::grid_barrier() {
  if (!launch_.cooperative) throw std::logic_error("a barrier of the grid in a launch whose blocks are not together");
  at_grid_barrier_.push_back(current_);
  wait();
}

void Block::leave_grid_barrier() { ready_.swap(at_grid_barrier_); }

std::shared_ptr<const Meeting> Block::meet(unsigned mask, const char* what, const void* bytes, size_t size) {
  const unsigned warp = current_ / 32, lane = current_ % 32;
  if (!(mask >> lane & 1u)) throw std::logic_error(std::string(what) + ": the mask leaves out the calling lane");
  auto& open = meetings_[warp];
  const auto found = std::find_if(open.begin(), open.end(), [&](const auto& m) { return m->mask == mask; });
  std::shared_ptr<Meeting> meeting;
  if (found != open.end()) {
    meeting = *found;
  } else {
    // a meeting that all lanes have read and left
    const auto unused = std::find_if(spare_.begin(), spare_.end(), [](const auto& m) { return m.use_count() == 1; });
    if (unused == spare_.end()) {
      meeting = spare_.emplace_back(std::make_shared<Meeting>());
    } else {
      meeting = *unused;
    }
    meeting->mask = mask;
    meeting->what = what;
    meeting->arrived = 0;
    open.push_back(meeting);
  }
  if (std::strcmp(meeting->what, what) != 0)
    throw std::logic_error(std::string("lanes of one mask meet in ") + meeting->what + " and in " + what);
  std::memcpy(meeting->bytes.data() + lane * kPayload, bytes, size);
  meeting->arrived |= 1u << lane;
  if (meeting->arrived == mask) {
    open.erase(std::find(open.begin(), open.end(), meeting));  // the next collective with this mask is another meeting
    for (unsigned i = 0; i < 32; ++i)
      if (mask >> i & 1u) ready_.push_back(warp * 32 + i);
  }
  wait();
  return meeting;
}

void Block::fail_stuck() const {
  std::string text = "block " + std::to_string(block_) + " is stuck: " + std::to_string(finished_) + " of " +
                     std::to_string(launch_.threads) + " threads have ended, " + std::to_string(at_barrier_.size()) +
                     " wait at __syncthreads";
  if (!at_grid_barrier_.empty()) text += ", " + std::to_string(at_grid_barrier_.size()) + " at the grid's barrier";
  for (size_t warp = 0; warp < meetings_.size(); ++warp)
    for (const auto& meeting : meetings_[warp])
      text += ", " + std::to_string(__builtin_popcount(meeting->arrived)) + " of warp " + std::to_string(warp) +
              " wait in " + meeting->what;
  throw std::logic_error(text);
}

Block& block() {
  if (!running) throw std::logic_error("a function of the GPU was called outside of a kernel");
  return *running;
}

void set_seed(uint64_t value) {
  const std::lock_guard<std::mutex> lock(one_launch);
  seed = value;
}

static void run_one_by_one(const Launch& launch, const std::function<void()>& body, uint64_t random) {
  std::vector<unsigned> order(launch.blocks);
  std::iota(order.begin(), order.end(), 0u);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[next_random(random) % i]);
  Block block(launch, body);
  for (unsigned i : order) {
    block.start(i, next_random(random));
    while (!block.ended()) {
      if (!block.can_step()) block.fail_stuck();
      block.step();
    }
  }
}

static void run_cooperative(const Launch& launch, const std::function<void()>& body, uint64_t random) {
  std::vector<std::unique_ptr<Block>> blocks;
  for (unsigned i = 0; i < launch.blocks; ++i) {
    blocks.push_back(std::make_unique<Block>(launch, body));
    blocks.back()->start(i, next_random(random));
  }
  std::vector<Block*> ready;
  for (;;) {
    ready.clear();
    for (const auto& block : blocks)
      if (block->can_step()) ready.push_back(block.get());
    if (!ready.empty()) {
      // Runs some steps of one block before another block's turn.
      Block* block = ready[next_random(random) % ready.size()];
      for (unsigned steps = 1 + next_random(random) % (2 * launch.threads); steps > 0 && block->can_step(); --steps)
        block->step();
      continue;
    }
    if (std::all_of(blocks.begin(), blocks.end(), [](const auto& b) { return b->ended(); })) return;
    const auto waits = [](const auto& block) { return block->waits_for_grid(); };
    if (!std::all_of(blocks.begin(), blocks.end(), waits)) {
      // If a block has ended, the blocks that wait for it are stuck.
      auto stuck = std::find_if(blocks.begin(), blocks.end(), [&](const auto& b) { return !b->ended() && !waits(b); });
      if (stuck == blocks.end()) stuck = std::find_if(blocks.begin(), blocks.end(), waits);
      (*stuck)->fail_stuck();
    }
    for (const auto& block : blocks) block->leave_grid_barrier();
  }
}

static std::string name_of(const void* function) {
  Dl_info info;
  if (dladdr(function, &info) == 0 || info.dli_sname == nullptr) return "unknown";
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> name(abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status),
                                                    std::free);
  return status == 0 ? name.get() : info.dli_sname;
}

std::vector<std::string> take_launches() {
  const std::lock_guard<std::mutex> lock(one_launch);
  std::vector<std::string> names;
  for (const void* kernel : launched) names.push_back(name_of(kernel));
  launched.clear();
  return names;
}

void launch(const Launch& launch, const std::function<void()>& body) {
  if (launch.blocks == 0 || launch.blocks > 0x7fffffffu || launch.threads == 0 || launch.threads > 1024)
    throw std::invalid_argument("an invalid grid: " + std::to_string(launch.blocks) + " blocks of " +
                                std::to_string(launch.threads) + " threads");
  if (launch.shared_bytes > 99 * 1024)
    throw std::invalid_argument(std::to_string(launch.shared_bytes) +
                                " bytes of shared memory: not every GPU has them");
  const std::lock_guard<std::mutex> lock(one_launch);
  constexpr size_t kKept = 256;
  if (launched.size() == kKept) launched.pop_front();
  launched.push_back(launch.kernel);
  gridDim = {launch.blocks, 1, 1};
  blockDim = {launch.threads, 1, 1};
  (launch.cooperative ? run_cooperative : run_one_by_one)(launch, body, next_random(seed));
}

}  // namespace emulator
