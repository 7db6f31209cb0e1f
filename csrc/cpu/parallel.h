// Independent tasks of unequal length over all threads, and the memory they work in.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#include "isa.h"

namespace spikefuse::cpu {

// Calls make() once in every thread and run(what it made, task) for each task. A thread takes the next task when it is
// done with its last, so a thread that lost its core to another process holds up nobody but the task it is in.
template <class Make, class Run>
void parallel_tasks(int64_t tasks, const Make& make, const Run& run) {
  std::atomic<int64_t> next{0};
  const int64_t threads = std::min<int64_t>(tasks, torch::stable::get_num_threads());
  parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    int64_t task = next++;
    if (task >= tasks) return;
    auto scratch = make();
    for (; task < tasks; task = next++) run(scratch, task);
  });
}

// Bytes of one core's second-level cache; 256 KB, the smallest of the last ten years, where the system does not say.
inline int64_t second_level_cache() {
  static const int64_t bytes = [] {
    int64_t found = 0;
#if defined(__linux__) && defined(_SC_LEVEL2_CACHE_SIZE)
    found = sysconf(_SC_LEVEL2_CACHE_SIZE);
#elif defined(__APPLE__)
    size_t size = sizeof found;
    if (sysctlbyname("hw.l2cachesize", &found, &size, nullptr, 0) != 0) found = 0;
#endif
    return found >= (1 << 18) ? found : int64_t(1) << 18;
  }();
  return bytes;
}

// Asks for huge pages under fresh memory of several of them: there, a fault every 4 KB costs as much as the sums that
// are written to it, and the address of every other row has to be looked up.
inline void use_huge_pages(void* memory, int64_t bytes) {
#if defined(__linux__)
  constexpr int64_t kPage = int64_t(1) << 21;
  const int64_t begin = (reinterpret_cast<int64_t>(memory) + kPage - 1) / kPage * kPage;
  const int64_t end = (reinterpret_cast<int64_t>(memory) + bytes) / kPage * kPage;
  if (end - begin >= 2 * kPage) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

// Memory that begins at a cache line, so that no vector of a tile lies across two; not initialised.
template <class T>
class AlignedArray {
 public:
  explicit AlignedArray(int64_t count)
      : bytes_(new char[count * sizeof(T) + kAlignment]),
        data_(reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(bytes_.get()) + kAlignment - 1) / kAlignment *
                                   kAlignment)) {}
  T* data() const { return data_; }

 private:
  static constexpr uintptr_t kAlignment = 64;
  std::unique_ptr<char[]> bytes_;
  T* data_;
};

}  // namespace spikefuse::cpu
