// Runs independent tasks of unequal length on all threads; allocates their memory.
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

// Calls make() once per thread and run(made, task) for each task. A thread takes its next task when it has finished
// one, so a thread that loses its core to another process delays only its current task.
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

// Size of one core's second-level cache in bytes. If the system does not say: 256 KB, the smallest of the last ten
// years.
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

// Requests transparent huge pages for large new buffers. Page faults every 4 KB cost as much as the arithmetic, and so
// do address translations for every other row.
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

// Uninitialised memory aligned to a cache line, so that no vector of a tile crosses two lines.
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
