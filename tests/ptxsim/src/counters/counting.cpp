// SPDX-License-Identifier: Apache-2.0
#include "counters/counting.h"

#include <algorithm>
#include <bit>

#include "engine/lanes.h"

namespace ptxsim {
namespace {

// Lanes that come after another one at the same address.
uint64_t collisions(const Place* places, uint32_t mask) {
  const uint8_t* seen[kLanes];
  int n = 0;
  for_active(mask, [&](int l) {
    if (std::find(seen, seen + n, places[l].data) == seen + n) seen[n++] = places[l].data;
  });
  return uint64_t(std::popcount(mask) - n);
}

void count_atomics(const Place* places, uint32_t mask, Atomics& atomics) {
  atomics.operations += uint64_t(std::popcount(mask));
  atomics.collisions += collisions(places, mask);
}

}  // namespace

// A bank's words are told apart by a list of those that it has, which is short: its length is what
// is counted.
void count_wavefronts(const uint32_t* offsets, int n, uint32_t bytes, Wavefronts& count) {
  uint32_t words[32][32];
  int used[32] = {}, most = 0;
  const auto add = [&](uint32_t word) {
    const uint32_t bank = word % 32;
    for (int i = 0; i < used[bank]; ++i)
      if (words[bank][i] == word) return;
    words[bank][used[bank]++] = word;
    most = std::max(most, used[bank]);
  };
  for (int i = 0; i < n; ++i)
    for (uint32_t at = offsets[i] / 4; at <= (offsets[i] + bytes - 1) / 4; ++at) add(at);
  count.bytes += uint64_t(n) * bytes;
  count.actual += uint64_t(most);
  ++count.minimal;
}

void count_wavefronts(const Place* places, uint32_t mask, uint32_t bytes, Wavefronts& count) {
  const int per_group = int(std::min(32u, 128 / bytes));
  for (int first = 0; first < kLanes; first += per_group) {
    uint32_t offsets[kLanes];
    int n = 0;
    for (int l = first; l < first + per_group; ++l)
      if ((mask >> l) & 1) offsets[n++] = places[l].shared_offset;
    if (n) count_wavefronts(offsets, n, bytes, count);
  }
}

void count_lines(uint32_t offset, uint64_t bytes, Wavefronts& count) {
  const uint64_t lines = (offset + bytes + 127) / 128 - offset / 128;
  count.bytes += bytes, count.actual += lines, count.minimal += lines;
}

void count_sectors(Block& block, uint64_t* sectors, int n, bool is_store, Traffic& traffic) {
  if (!std::is_sorted(sectors, sectors + n)) std::sort(sectors, sectors + n);
  n = int(std::unique(sectors, sectors + n) - sectors);
  traffic.sectors += uint64_t(n);
  SectorSet& set = is_store ? block.stored : block.loaded;
  for (int i = 0; i < n; ++i) set.insert(sectors[i]);
}

void count_range(Block& block, uint64_t address, uint64_t bytes, bool is_store, Traffic& traffic) {
  SectorSet& set = is_store ? block.stored : block.loaded;
  const uint64_t first = address / 32, end = (address + bytes + 31) / 32;
  for (uint64_t sector = first; sector < end; ++sector) set.insert(sector);
  traffic.bytes += bytes;
  traffic.sectors += end - first;
}

void count_bulk(Warp& w, const Place& place, uint64_t bytes, bool is_store) {
  Counters& c = *w.launch().counters;
  if (place.shared_block)
    count_lines(place.shared_offset, bytes, c.bulk);
  else
    count_range(*w.block, uint64_t(place.data), bytes, is_store,
                is_store ? c.bulk_store : c.bulk_load);
}

void count_global(Warp& w, const Place* places, uint32_t lanes, const Access& access) {
  Counters& c = *w.launch().counters;
  Traffic& traffic = access.kind == Access::Kind::read    ? c.global_load
                     : access.kind == Access::Kind::write ? c.global_store
                                                          : c.global_atomic;
  uint64_t sectors[kLanes];  // one a lane, since what is accessed is aligned to its size
  int n = 0;
  for_active(lanes, [&](int l) { sectors[n++] = uint64_t(places[l].data) / 32; });
  traffic.bytes += uint64_t(n) * access.bytes;
  count_sectors(*w.block, sectors, n, access.kind != Access::Kind::read, traffic);
  if (access.kind == Access::Kind::atomic) count_atomics(places, lanes, c.global_atomics);
}

void count_shared(Warp& w, const Place* places, uint32_t lanes, const Access& access) {
  Counters& c = *w.launch().counters;
  Wavefronts& wavefronts = access.wavefronts                    ? *access.wavefronts
                           : access.kind == Access::Kind::read  ? c.shared_load
                           : access.kind == Access::Kind::write ? c.shared_store
                                                                : c.shared_atomic;
  count_wavefronts(places, lanes, access.bytes, wavefronts);
  if (access.kind == Access::Kind::atomic) count_atomics(places, lanes, c.shared_atomics);
}

}  // namespace ptxsim
