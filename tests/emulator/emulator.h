// Runs CUDA kernels on one CPU thread. Every GPU thread is a fibre with its own stack, and runs until it waits for
// others at a barrier or in a warp's collective. A seeded random choice picks the next fibre, so code that relies on an
// order without a barrier gives different results for different seeds.
//
// Undefined behaviour on a GPU is an error here: a barrier that some threads of the block never reach, a collective
// that lanes of its mask never reach, or reach with another collective. Shared memory is heap memory of exactly the
// requested size, allocated anew for every block and filled with 0xff, which reads as NaN.
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
  bool cooperative = false;  // all blocks run at once and may meet at grid_barrier
};

// Most bytes that each lane of a warp exchanges in one collective.
constexpr size_t kPayload = 64;

struct Meeting {
  unsigned mask = 0;
  const char* what = nullptr;
  unsigned arrived = 0;
  std::array<unsigned char, 32 * kPayload> bytes;
};

class Fibre;

// A block of a launch. If blocks run one after the other, one object and its fibres serve all of them.
class Block {
 public:
  Block(const Launch& launch, const std::function<void()>& body);
  ~Block();
  void start(unsigned block, uint64_t seed);
  // Runs one of its fibres until it waits or ends.
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
  // Gives this lane's `size` bytes to the other lanes of `mask`, waits for theirs, and returns all of them.
  std::shared_ptr<const Meeting> meet(unsigned mask, const char* what, const void* bytes, size_t size);

 private:
  void wait();

  const Launch launch_;
  unsigned block_ = 0;
  uint64_t random_ = 0;
  std::unique_ptr<unsigned char[], void (*)(void*)> shared_;
  std::vector<std::unique_ptr<Fibre>> fibres_;
  std::vector<unsigned> ready_, at_barrier_, at_grid_barrier_;
  std::vector<std::vector<std::shared_ptr<Meeting>>> meetings_;  // per warp: meetings that wait for lanes
  std::vector<std::shared_ptr<Meeting>> spare_;                  // finished meetings, perhaps still read
  unsigned current_ = 0, finished_ = 0;
};

// Returns the running block; throws outside of a launch.
Block& block();
inline int lane() { return block().lane(); }
inline void grid_barrier() { block().grid_barrier(); }

// One value per lane.
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

// Sets the seed of the order in which fibres run, from the next launch on; the initial seed is SPIKEFUSE_EMULATOR_SEED.
void set_seed(uint64_t seed);

// Returns the names of the last 256 kernels launched since the last call, oldest first, as c++filt prints them.
std::vector<std::string> take_launches();

// Runs all blocks one after the other, in a seeded random order, or interleaved in a cooperative launch.
void launch(const Launch& launch, const std::function<void()>& body);

}  // namespace emulator
