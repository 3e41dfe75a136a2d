// SPDX-License-Identifier: Apache-2.0
#include "engine/global_memory.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

namespace ptxsim {
namespace {

constexpr uint64_t kAlign = 256;  // what cudaMalloc promises
// No two allocations are closer than this: an access that misses one by less never hits another,
// and find_near() names the right one.
constexpr uint64_t kGuard = 4096;
constexpr uint64_t kQuarantine = uint64_t(64) << 20;
constexpr size_t kMaxFreed = 4096;  // records of freed allocations
// Neither zero, nor a small integer, nor a float that a sum would hide: 0xfefefefe is -1.69e38.
constexpr int kFresh = 0xfe, kFreed = 0xfd;

uint64_t address_of(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

uint64_t written_bytes(uint64_t bytes) { return (bytes + 7) / 8; }

// Calls f(byte index, mask) for the bits [first, first + count).
template <typename F>
void for_bits(uint64_t first, uint64_t count, F&& f) {
  while (count > 0) {
    const uint64_t low = first % 8, n = std::min<uint64_t>(8 - low, count);
    if (!f(first / 8, uint8_t(((1u << n) - 1) << low))) return;
    first += n;
    count -= n;
  }
}

}  // namespace

// Blocks of a grid may run on several threads and share a byte of bits; most of the time all of
// them are set already.
void Allocation::mark_written(uint64_t address, uint64_t size) {
  if (written.empty()) return;
  for_bits(address - base, size, [&](uint64_t i, uint8_t mask) {
    std::atomic_ref<uint8_t> bits(written[i]);
    if ((bits.load(std::memory_order_relaxed) & mask) != mask)
      bits.fetch_or(mask, std::memory_order_relaxed);
    return true;
  });
}

bool Allocation::is_written(uint64_t address, uint64_t size) const {
  if (written.empty()) return true;
  bool all = true;
  for_bits(address - base, size, [&](uint64_t i, uint8_t mask) {
    const uint8_t bits =
        std::atomic_ref<uint8_t>(const_cast<uint8_t&>(written[i])).load(std::memory_order_relaxed);
    return all = (bits & mask) == mask;
  });
  return all;
}

GlobalMemory::~GlobalMemory() {
  while (!by_base_.empty()) erase(by_base_.begin()->first);
}

void GlobalMemory::erase(uint64_t base) {
  const auto found = by_base_.find(base);
  Allocation& allocation = *found->second;
  std::free(allocation.block);
  if (last_ == &allocation) last_ = nullptr;
  by_base_.erase(found);
}

void* GlobalMemory::allocate(uint64_t bytes, std::string name) {
  if (bytes > limit || live_ > limit - bytes) throw std::bad_alloc();
  const uint64_t room = (bytes + kAlign - 1) / kAlign * kAlign;
  void* block = std::aligned_alloc(kGuard, kGuard + (room + kGuard - 1) / kGuard * kGuard + kGuard);
  if (!block) throw std::bad_alloc();
  auto allocation = std::make_unique<Allocation>();
  allocation->base = address_of(block) + kGuard;
  allocation->bytes = bytes;
  allocation->id = next_id_++;
  allocation->name = std::move(name);
  allocation->written.assign(written_bytes(bytes), 0);
  allocation->block = block;
  const uint64_t base = allocation->base;
  void* memory = reinterpret_cast<void*>(base);
  std::memset(memory, kFresh, bytes);
  // Memory that an exposure once named may since have come back to malloc.
  for (auto i = by_base_.upper_bound(base - 1); i != by_base_.end() && i->first < base + bytes;)
    erase((i++)->first);
  by_base_[base] = std::move(allocation);
  live_ += bytes;
  return memory;
}

// Freed records stay in by_base_, so that an access to them is called use after free.
void GlobalMemory::retire(Allocation& allocation) {
  allocation.is_live = false;
  quarantine_.push_back(allocation.base);
  if (allocation.block) quarantined_ += allocation.bytes;
  while (!quarantine_.empty() && (quarantined_ > kQuarantine || quarantine_.size() > kMaxFreed)) {
    const uint64_t oldest = quarantine_.front();
    quarantine_.pop_front();
    const auto found = by_base_.find(oldest);
    // The address may be gone, or live again as an exposure.
    if (found == by_base_.end() || found->second->is_live) continue;
    if (found->second->block) quarantined_ -= found->second->bytes;
    erase(oldest);
  }
}

bool GlobalMemory::free(void* pointer) {
  const auto found = by_base_.find(address_of(pointer));
  if (found == by_base_.end()) return false;
  Allocation& allocation = *found->second;
  if (!allocation.is_live || !allocation.block) return false;
  std::memset(pointer, kFreed, allocation.bytes);
  live_ -= allocation.bytes;
  retire(allocation);
  return true;
}

void GlobalMemory::expose(const void* pointer, uint64_t bytes, bool read_only, bool written,
                          std::string name) {
  const uint64_t base = address_of(pointer), end = base + bytes;
  auto i = by_base_.upper_bound(base);
  if (i != by_base_.begin()) --i;
  while (i != by_base_.end() && i->first < std::max(end, base + 1)) {
    Allocation& other = *i->second;
    ++i;
    const bool overlaps =
        other.base == base || (other.base < end && base < other.base + other.bytes);
    if (!overlaps) continue;
    if (other.is_live || other.block)
      throw std::invalid_argument("'" + name + "' overlaps '" + other.name + "'");
    erase(other.base);
  }
  auto allocation = std::make_unique<Allocation>();
  allocation->base = base;
  allocation->bytes = bytes;
  allocation->id = next_id_++;
  allocation->read_only = read_only;
  allocation->name = std::move(name);
  if (!written) allocation->written.assign(written_bytes(bytes), 0);
  by_base_[base] = std::move(allocation);
}

void GlobalMemory::forget(const void* pointer) {
  const auto found = by_base_.find(address_of(pointer));
  if (found == by_base_.end() || found->second->block || !found->second->is_live)
    throw std::invalid_argument("nothing exposed starts at this address");
  retire(*found->second);
}

Allocation* GlobalMemory::find(uint64_t address) {
  Allocation* last = last_.load(std::memory_order_relaxed);
  if (last && last->contains(address, 1)) return last;
  auto i = by_base_.upper_bound(address);
  if (i == by_base_.begin()) return nullptr;
  Allocation* allocation = std::prev(i)->second.get();
  if (!allocation->contains(address, 1)) return nullptr;
  last_.store(allocation, std::memory_order_relaxed);
  return allocation;
}

Allocation* GlobalMemory::find_near(uint64_t address) {
  if (Allocation* exact = find(address)) return exact;
  const auto after = by_base_.upper_bound(address);
  Allocation* nearest = nullptr;
  uint64_t best = kGuard + 1;
  if (after != by_base_.begin()) {
    Allocation* before = std::prev(after)->second.get();
    const uint64_t distance = address - (before->base + before->bytes);
    if (distance < best) nearest = before, best = distance;
  }
  if (after != by_base_.end() && after->first - address < best) nearest = after->second.get();
  return nearest;
}

void GlobalMemory::host_write(const void* pointer, uint64_t bytes) {
  if (bytes == 0) return;
  Allocation* allocation = find(address_of(pointer));
  if (allocation && allocation->contains(address_of(pointer), bytes))
    allocation->mark_written(address_of(pointer), bytes);
}

void GlobalMemory::host_copy(const void* destination, const void* source, uint64_t bytes) {
  if (bytes == 0) return;
  const uint64_t to = address_of(destination), from = address_of(source);
  Allocation* target = find(to);
  const Allocation* origin = find(from);
  if (!target || !target->contains(to, bytes)) return;
  if (!origin || !origin->contains(from, bytes) || origin->is_written(from, bytes))
    return target->mark_written(to, bytes);
  if (target->written.empty()) return;
  for (uint64_t i = 0; i < bytes; ++i) {
    const bool is_written = origin->is_written(from + i, 1);
    const uint64_t bit = to + i - target->base;
    uint8_t& bits = target->written[bit / 8];
    bits = uint8_t((bits & ~(1u << bit % 8)) | (uint32_t(is_written) << bit % 8));
  }
}

std::string GlobalMemory::describe(uint64_t address) {
  const Allocation* a = find_near(address);
  char hex[32];
  std::snprintf(hex, sizeof hex, "0x%llx", static_cast<unsigned long long>(address));
  if (!a) return std::string(hex) + ", near no allocation";
  const std::string name = (a->is_live ? "" : "freed ") + (a->name.empty() ? "memory" : a->name) +
                           " (" + std::to_string(a->bytes) + " bytes)";
  if (address < a->base) return std::to_string(a->base - address) + " bytes before " + name;
  const uint64_t offset = address - a->base;
  if (offset < a->bytes) return "byte " + std::to_string(offset) + " of " + name;
  return std::to_string(offset - a->bytes) + " bytes past the end of " + name;
}

}  // namespace ptxsim
