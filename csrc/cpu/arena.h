// The working memory of ops that take a batch after the other.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "parallel.h"

namespace spikefuse::cpu {

// Memory for one batch after the other: what a batch took is kept for the next one of the same thread, which then finds
// it mapped and cleared by the system once; a batch that needs far less gives it back.
class Arena {
 public:
  // `count` elements from the beginning of a cache line; zeroed where asked for.
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

  // Everything is free again. The next batch gets one block of the size that this one needed in all.
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
