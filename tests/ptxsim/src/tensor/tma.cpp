// SPDX-License-Identifier: Apache-2.0
#include "tensor/tma.h"

#include <algorithm>
#include <stdexcept>

#include "tensor/swizzle.h"

namespace ptxsim {
namespace {

// Elements of the shared copy along a dimension. The innermost one has no stride (cuda.h: the first
// element stride is ignored without interleaving).
uint32_t extent(const TensorMap& map, int dimension) {
  if (dimension == 0) return map.box[0];
  const uint32_t step = map.element_stride[dimension];
  return (map.box[dimension] + step - 1) / step;
}

uint64_t elements(const TensorMap& map) {
  uint64_t n = 1;
  for (int d = 0; d < map.rank; ++d) n *= extent(map, d);
  return n;
}

uint32_t swizzled(const TensorMap& map, uint32_t address) {
  switch (map.swizzle_atom) {
    case SwizzleAtom::b16: return swizzle(address, map.swizzle_span);
    case SwizzleAtom::b32: return swizzle_atoms(address, 32, false);
    case SwizzleAtom::b32_flip8: return swizzle_atoms(address, 32, true);
    case SwizzleAtom::b64: return swizzle_atoms(address, 64, false);
  }
  return address;
}

// What moves as one: the whole row without swizzle; else the 16 bytes that stay together, or 8;
// with the types that have gaps, 16 elements. Bytes in shared memory, and those of them that are
// data.
struct Unit { uint32_t pitch, data; };

Unit unit_of(const TensorMap& map, uint32_t row_bytes) {
  const uint32_t global = uint32_t(global_bits(map.type)), shared = uint32_t(shared_bits(map.type));
  if (global != shared) return {16, 2 * global};
  if (map.swizzle_span == 0) return {row_bytes, row_bytes};
  const uint32_t bytes = map.swizzle_atom == SwizzleAtom::b32_flip8 ? 8 : 16;
  return {bytes, bytes};
}

// One row of the box. `row` is the address of the tensor's element 0 of that row.
void add_row(const TensorMap& map, int64_t column, uint64_t row, bool is_inside, uint32_t shared,
             std::vector<TmaSegment>& segments) {
  const int64_t global = global_bits(map.type), width = map.box[0];
  const uint32_t row_bytes = uint32_t(width * shared_bits(map.type) / 8);
  const Unit unit = unit_of(map, row_bytes);
  // Bytes [first, last) of the row's data lie in the tensor.
  const int64_t size = int64_t(map.size[0]);
  int64_t first = std::clamp<int64_t>(-column, 0, width),
          last = std::clamp<int64_t>(size - column, 0, width);
  if (!is_inside || last < first) first = last = 0;
  first = first * global / 8;
  last = last * global / 8;
  const uint64_t start = row + uint64_t(column * global / 8);
  for (uint32_t at = 0, data = 0; at < row_bytes; at += unit.pitch, data += unit.data) {
    const uint32_t to = swizzled(map, shared + at);
    const int64_t end = int64_t(data) + unit.data;
    const int64_t low = std::clamp<int64_t>(first, data, end),
                  high = std::clamp<int64_t>(last, low, end);
    const auto add = [&](int64_t from, int64_t until, bool in_bounds) {
      if (from >= until) return;
      segments.push_back({in_bounds ? start + uint64_t(from) : 0, to + uint32_t(from - data),
                          uint32_t(until - from), in_bounds});
    };
    add(data, low, false);
    add(low, high, true);
    add(high, end, false);
  }
}

void check(const TensorMap& map) {
  if (map.interleave != Interleave::none) {
    throw std::invalid_argument("interleaved tensor maps are not simulated");
  }
}

}  // namespace

void tma_tile(const TensorMap& map, const int32_t* coordinates, uint32_t shared,
              std::vector<TmaSegment>& segments) {
  check(map);
  const uint32_t row_bytes = map.box[0] * uint32_t(shared_bits(map.type)) / 8;
  uint32_t place[kMaxTensorRank] = {};  // of the row in the box
  for (uint32_t to = shared;; to += row_bytes) {
    uint64_t row = map.address;
    bool is_inside = true;
    for (int d = 1; d < map.rank; ++d) {
      const int64_t at = int64_t(coordinates[d]) + int64_t(place[d]) * map.element_stride[d];
      is_inside &= at >= 0 && uint64_t(at) < map.size[d];
      row += uint64_t(at) * map.stride[d - 1];
    }
    add_row(map, coordinates[0], row, is_inside, to, segments);
    int d = 1;
    while (d < map.rank && ++place[d] == extent(map, d)) place[d++] = 0;
    if (d >= map.rank) return;
  }
}

void tma_gather4(const TensorMap& map, const int32_t* coordinates, uint32_t shared,
                 std::vector<TmaSegment>& segments) {
  check(map);
  if (map.rank != 2 || map.box[1] != 1) {
    throw std::invalid_argument("gather4 and scatter4 need a matrix with a box of one row");
  }
  const uint32_t row_bytes = map.box[0] * uint32_t(shared_bits(map.type)) / 8;
  for (int i = 0; i < kGatherRows; ++i) {
    const int64_t at = coordinates[1 + i];
    const bool is_inside = at >= 0 && uint64_t(at) < map.size[1];
    const uint64_t row = map.address + uint64_t(at) * map.stride[0];
    add_row(map, coordinates[0], row, is_inside, shared + uint32_t(i) * row_bytes, segments);
  }
}

uint32_t tma_transaction_bytes(const TensorMap& map) {
  return uint32_t(elements(map) * uint64_t(global_bits(map.type)) / 8);
}

uint32_t tma_shared_bytes(const TensorMap& map) {
  return uint32_t(elements(map) * uint64_t(shared_bits(map.type)) / 8);
}

}  // namespace ptxsim
