// Working memory that is reused from batch to batch.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "parallel.h"

namespace spikefuse::cpu {

// Allocates the memory of one batch and keeps it for the same thread's next batch, so that the system maps and clears
// it only once. A batch that needs far less memory gives the rest back.
class Arena {
 public:
  // Returns `count` elements, aligned to a cache line, set to zero if `zeroed`.
  template <class T>
  T* take(int64_t count, bool zeroed = true) {
    const size_t bytes = (std::max<int64_t>(count, 1) * sizeof(T) + 63) / 64 * 64;
    if (blocks_.empty() || used_ + bytes > size_) {
      size_ = std::max(bytes, kSmallest);
      blocks_.emplace_back(static_cast<int64_t>(size_));
      use_huge_pages(blocks_.back().data(), static_cast<int64_t>(size_));
      used_ = 0;
    }
    T* found = reinterpret_cast<T*>(blocks_.back().data() + used_);
    used_ += bytes;
    total_ += bytes;
    if (zeroed) std::memset(static_cast<void*>(found), 0, bytes);
    return found;
  }

  // Frees all elements. The next batch gets one block as large as this batch needed in total.
  void clear() {
    if (blocks_.size() > 1 || size_ > 4 * std::max(total_, kSmallest)) {
      blocks_.clear();
      size_ = std::max(total_, kSmallest);
      blocks_.emplace_back(static_cast<int64_t>(size_));
      use_huge_pages(blocks_.back().data(), static_cast<int64_t>(size_));
    }
    used_ = total_ = 0;
  }

 private:
  static constexpr size_t kSmallest = size_t(1) << 20;
  std::vector<AlignedArray<char>> blocks_;
  size_t size_ = 0, used_ = 0, total_ = 0;
};

}  // namespace spikefuse::cpu
