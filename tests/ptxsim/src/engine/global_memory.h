// SPDX-License-Identifier: Apache-2.0
// The simulated device's global memory. Addresses are host addresses, so that host code copies to
// and from device memory as it is; what the simulator adds is the knowledge of what is allocated,
// what has been written, and who may.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace ptxsim {

struct Allocation {
  uint64_t base = 0, bytes = 0;
  uint64_t id = 0;               // counts up: an address that is used again is another allocation
  bool is_live = true;
  bool read_only = false;        // kernels may not write: an op's inputs, module constants
  std::string name;              // for reports: "cudaMalloc #3", "variable counter", "argument x"
  std::vector<uint8_t> written;  // one bit a byte: 1 if something wrote it. Empty: all written
  void* block = nullptr;         // what to free: memory and guards; null if somebody else owns it

  bool contains(uint64_t address, uint64_t size) const {
    return address >= base && size <= bytes && address - base <= bytes - size;
  }
  void mark_written(uint64_t address, uint64_t size);
  bool is_written(uint64_t address, uint64_t size) const;
};

class GlobalMemory {
 public:
  ~GlobalMemory();

  // Fresh memory, aligned to 256, between guards and filled with a pattern; nothing of it is
  // written. Throws std::bad_alloc past `limit` bytes in all.
  void* allocate(uint64_t bytes, std::string name);
  // Frees at once for the checkers; the address is not given out again for as long as 64 MiB of
  // newer frees fit. Returns false if nothing live starts there.
  bool free(void* pointer);
  // Makes host memory that somebody else owns visible to kernels, until forget().
  void expose(const void* pointer, uint64_t bytes, bool read_only, bool written, std::string name);
  void forget(const void* pointer);

  Allocation* find(uint64_t address);       // live or freed allocation that holds it, or null
  Allocation* find_near(uint64_t address);  // the closest one within 4 KiB, for reports
  // Host writes (copies, memset): [pointer, +bytes) counts as written.
  void host_write(const void* pointer, uint64_t bytes);
  // A copy on the device: what nothing wrote in the source is unwritten in the destination.
  void host_copy(const void* destination, const void* source, uint64_t bytes);
  std::string describe(uint64_t address);  // "12 bytes past the end of cudaMalloc #3 (64 bytes)"

  uint64_t limit = uint64_t(4) << 30;
  uint64_t bytes_live() const { return live_; }
  const std::map<uint64_t, std::unique_ptr<Allocation>>& allocations() const { return by_base_; }

 private:
  void erase(uint64_t base);
  void retire(Allocation& allocation);

  std::map<uint64_t, std::unique_ptr<Allocation>> by_base_;
  std::deque<uint64_t> quarantine_;          // bases of freed allocations, oldest first
  uint64_t live_ = 0, next_id_ = 1;
  uint64_t quarantined_ = 0;
  std::atomic<Allocation*> last_ = nullptr;  // of find(), which several threads call
};

}  // namespace ptxsim
