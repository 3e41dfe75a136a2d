// SPDX-License-Identifier: Apache-2.0
// A set of 32-byte sectors of global memory: a bitmap a page, since what kernels touch is dense.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <unordered_map>

namespace ptxsim {

class SectorSet {
 public:
  SectorSet() = default;
  SectorSet(SectorSet&&) = default;  // a copy would remember the pages of another
  SectorSet& operator=(SectorSet&&) = default;

  void insert(uint64_t sector) {
    const uint64_t page = sector / kPage;
    Recent& recent = recent_[page % std::size(recent_)];
    if (!recent.bits || recent.page != page) recent = {page, &pages_[page]};
    (*recent.bits)[sector % kPage / 64] |= uint64_t(1) << (sector % 64);
  }
  void add(const SectorSet& other) {
    for (const auto& [page, bits] : other.pages_) {
      Bits& mine = pages_[page];
      for (size_t i = 0; i < mine.size(); ++i) mine[i] |= bits[i];
    }
  }
  uint64_t size() const {
    uint64_t n = 0;
    for (const auto& [page, bits] : pages_)
      for (const uint64_t word : bits) n += uint64_t(std::popcount(word));
    return n;
  }

 private:
  static constexpr uint64_t kPage = 512;  // sectors: 16 KiB
  using Bits = std::array<uint64_t, kPage / 64>;
  struct Recent {
    uint64_t page = 0;
    Bits* bits = nullptr;  // of pages_, whose elements stay where they are
  };

  std::unordered_map<uint64_t, Bits> pages_;
  Recent recent_[8];  // strided rows lie in several pages
};

}  // namespace ptxsim
