// core/aligned_buffer.hpp: owning, zero-initialised, cache-line aligned storage. Layer L1.
//
// Invariants: the first element is aligned to 64 bytes (to 2 MiB from huge_page on, with the kernel
// asked for huge pages, because a GEMV from 4 KiB pages loses a third of the bandwidth to address
// translation); every element is zero at first; copying is explicit in meaning (deep).
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <type_traits>
#include <utility>

#include "lowbit/core/checked.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

/// What lies on huge pages: all of a buffer, which then takes whole ones, or only the part that
/// fills whole ones, so that no memory is used beyond the last element. `even_for_part`: from an
/// eighth of one on, for what is read so often that speed is worth the rest of the page.
enum class huge_pages : std::uint8_t { where_they_fit, for_all, even_for_part };

/// What may be copied byte by byte.
template <class T>
concept trivially_copyable = std::is_trivially_copyable_v<T>;

/// An array with a run-time size that is fixed at construction.
template <trivially_copyable T>
class aligned_buffer {
 public:
  static constexpr index_t alignment = 64;
  static constexpr index_t huge_page = index_t{2} << 20;

  aligned_buffer() noexcept = default;
  /// `size` zeroed elements. Refuses with error_kind::shape when the byte count overflows and with
  /// error_kind::system when there is no memory.
  explicit aligned_buffer(index_t size, huge_pages pages = huge_pages::where_they_fit)
      : size_(size), pages_(pages) {
    if (size == 0) return;
    const index_t bytes = checked_mul(size, sizeof(T), "buffer size");
    const bool huge = bytes >= (pages == huge_pages::even_for_part ? huge_page / 8 : huge_page);
    const index_t align = huge ? huge_page : alignment;
    const index_t padded =
        checked_mul(div_up(bytes, align), align, "buffer size rounded up to its alignment");
    data_ = static_cast<T*>(std::aligned_alloc(align, padded));
    LOWBIT_CHECK(data_ != nullptr, system, "cannot allocate ", padded, " bytes");
#if defined(__linux__)
    if (huge) {
      const index_t advised =
          pages == huge_pages::where_they_fit ? bytes / huge_page * huge_page : padded;
      static_cast<void>(::madvise(data_, advised, MADV_HUGEPAGE));  // a hint: may fail
    }
#endif
    std::memset(static_cast<void*>(data_), 0, bytes);  // what rounding added is never touched
  }
  aligned_buffer(const aligned_buffer& other) : aligned_buffer(other.size_, other.pages_) {
    if (size_ != 0) std::memcpy(static_cast<void*>(data_), other.data_, size_ * sizeof(T));
  }
  aligned_buffer(aligned_buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)),
        pages_(other.pages_) {}
  // Two assignments, not one by value: of `buffer = {}` in a template clang 14 never destroys the
  // parameter, which then holds the old memory.
  aligned_buffer& operator=(const aligned_buffer& other) { return *this = aligned_buffer(other); }
  aligned_buffer& operator=(aligned_buffer&& other) noexcept {
    aligned_buffer taken(std::move(other));
    std::swap(data_, taken.data_);
    std::swap(size_, taken.size_);
    std::swap(pages_, taken.pages_);
    return *this;
  }
  ~aligned_buffer() { std::free(data_); }

  [[nodiscard]] T* data() noexcept { return data_; }
  [[nodiscard]] const T* data() const noexcept { return data_; }
  [[nodiscard]] index_t size() const noexcept { return size_; }
  [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
  T& operator[](index_t i) noexcept { return data_[i]; }
  const T& operator[](index_t i) const noexcept { return data_[i]; }
  [[nodiscard]] T* begin() noexcept { return data_; }
  [[nodiscard]] T* end() noexcept { return data_ + size_; }
  [[nodiscard]] const T* begin() const noexcept { return data_; }
  [[nodiscard]] const T* end() const noexcept { return data_ + size_; }
  [[nodiscard]] std::span<T> span() noexcept { return {data_, size_}; }
  [[nodiscard]] std::span<const T> span() const noexcept { return {data_, size_}; }

 private:
  T* data_ = nullptr;
  index_t size_ = 0;
  huge_pages pages_ = huge_pages::where_they_fit;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
