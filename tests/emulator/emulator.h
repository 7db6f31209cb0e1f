// Runs CUDA kernels on one CPU thread: every GPU thread is a fibre with a stack of its own, and a fibre runs until it
// waits for others at a barrier or in a warp's collective. Which fibre goes on next is drawn from a seed, so code that
// relies on an order that no barrier guarantees gives other results from seed to seed.
//
// Undefined behaviour of a GPU is an error here: a barrier that some threads of the block never reach, a collective
// that lanes of its mask never reach or reach with another collective. Shared memory is heap memory of the very size
// that was asked for, made anew for every block and filled with 0xff, which reads as NaN.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace emulator {

struct Index {
  unsigned x = 1, y = 1, z = 1;
};

struct Launch {
  const void* kernel = nullptr;
  unsigned blocks = 1, threads = 1;
  size_t shared_bytes = 0;
  bool cooperative = false;  // all blocks are there at once and may meet at grid_barrier
};

// Bytes that each lane of a warp can exchange in one collective.
constexpr size_t kPayload = 64;

struct Meeting {
  unsigned mask = 0;
  const char* what = nullptr;
  unsigned arrived = 0;
  std::array<unsigned char, 32 * kPayload> bytes;
};

class Fibre;

// A block of a launch; where blocks run one after the other, one object is all of them, on the same fibres.
class Block {
 public:
  Block(const Launch& launch, const std::function<void()>& body);
  ~Block();
  void start(unsigned block, uint64_t seed);
  // Lets one of its fibres run until it waits or ends.
  void step();
  bool ended() const { return finished_ == launch_.threads; }
  bool can_step() const { return !ready_.empty(); }
  bool waits_for_grid() const { return at_grid_barrier_.size() == launch_.threads; }
  void leave_grid_barrier();
  [[noreturn]] void fail_stuck() const;

  void barrier();
  void grid_barrier();
  unsigned char* shared() { return shared_.get(); }
  int lane() const { return int(current_ % 32); }
  // Gives this lane's `size` bytes to the others of `mask`, waits for theirs, and returns all of them.
  std::shared_ptr<const Meeting> meet(unsigned mask, const char* what, const void* bytes, size_t size);

 private:
  void wait();

  const Launch launch_;
  unsigned block_ = 0;
  uint64_t random_ = 0;
  std::unique_ptr<unsigned char[], void (*)(void*)> shared_;
  std::vector<std::unique_ptr<Fibre>> fibres_;
  std::vector<unsigned> ready_, at_barrier_, at_grid_barrier_;
  std::vector<std::vector<std::shared_ptr<Meeting>>> meetings_;  // of each warp, those that wait for lanes
  std::vector<std::shared_ptr<Meeting>> spare_;                  // ended, and perhaps still read
  unsigned current_ = 0, finished_ = 0;
};

// The block that is running; none outside of a launch.
Block& block();
inline int lane() { return block().lane(); }
inline void grid_barrier() { block().grid_barrier(); }

// The values that the lanes gave.
template <class T>
class LaneValues {
 public:
  explicit LaneValues(std::shared_ptr<const Meeting> meeting) : meeting_(std::move(meeting)) {}
  T operator[](int lane) const {
    T value;
    std::memcpy(&value, meeting_->bytes.data() + lane * kPayload, sizeof(T));
    return value;
  }

 private:
  std::shared_ptr<const Meeting> meeting_;
};

template <class T>
LaneValues<T> exchange(unsigned mask, const char* what, T value) {
  static_assert(sizeof(T) <= kPayload);
  return LaneValues<T>(block().meet(mask, what, &value, sizeof(T)));
}

// The order in which fibres run, from the next launch on; the start value is the environment's SPIKEFUSE_EMULATOR_SEED.
void set_seed(uint64_t seed);

// Names of the kernels launched since the last call, oldest first, the last 256 of them; as c++filt prints them.
std::vector<std::string> take_launches();

// Runs all blocks one after the other, in an order drawn from the seed, or all of them together, a fibre of one and
// then of another.
void launch(const Launch& launch, const std::function<void()>& body);

}  // namespace emulator
