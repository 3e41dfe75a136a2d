// SPDX-License-Identifier: Apache-2.0
// The tensor map of TMA: what cuTensorMapEncodeTiled makes, cp.async.bulk.tensor reads and
// tensormap.replace changes. The hardware's 128 bytes are not documented; these are our own, with a
// magic number, so that bytes that are no tensor map are noticed.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace ptxsim {

constexpr int kTensorMapBytes = 128, kTensorMapAlign = 64, kMaxTensorRank = 5;

// Numbered as CUtensorMapDataType.
enum class TensorType : uint8_t {
  u8,
  u16,
  u32,
  s32,
  u64,
  s64,
  f16,
  f32,
  f64,
  bf16,
  f32_ftz,
  tf32,
  tf32_ftz,
  u4x16_align8,
  u4x16_align16,
  u6x16_align16
};
int global_bits(TensorType type);  // of one element in global memory
int shared_bits(TensorType type);  // in shared memory: 8 for the align16 types, which have gaps
bool is_float(TensorType type);
const char* name_of(TensorType type);

enum class Interleave : uint8_t { none, b16, b32 };
// The unit that the swizzle moves; flip8 also exchanges the halves of each 16 bytes in odd rows.
enum class SwizzleAtom : uint8_t { b16, b32, b32_flip8, b64 };
enum class OutOfBounds : uint8_t { zero, nan };

struct TensorMap {
  TensorType type = TensorType::u8;
  int rank = 1;
  uint64_t address = 0;
  uint64_t size[kMaxTensorRank] = {};        // elements, innermost first
  uint64_t stride[kMaxTensorRank - 1] = {};  // bytes, of dimension 1 and up
  uint32_t box[kMaxTensorRank] = {};         // elements
  uint32_t element_stride[kMaxTensorRank] = {};
  Interleave interleave = Interleave::none;
  uint32_t swizzle_span = 0;                 // bytes: 0 (none), 32, 64, 128
  SwizzleAtom swizzle_atom = SwizzleAtom::b16;
  uint32_t l2_promotion = 0;                 // bytes: 0, 64, 128, 256
  OutOfBounds fill = OutOfBounds::zero;

  bool operator==(const TensorMap&) const = default;

  // What cuTensorMapEncodeTiled documents of its arguments: empty, or which rule is broken.
  std::string check() const;

  void encode(void* bytes) const;
  static std::optional<TensorMap> decode(const void* bytes);  // nothing if it is no tensor map
};

// CUtensorMapSwizzle as span and atom. False if it is none of its values.
bool set_swizzle(TensorMap& map, uint32_t cuda_swizzle);

// --- tensormap.replace ---

enum class TensorMapField : uint8_t {
  global_address,
  rank,
  box_dim,
  global_dim,
  global_stride,
  element_stride,
  elemtype,
  interleave_layout,
  swizzle_mode,
  swizzle_atomicity,
  fill_mode
};
std::optional<TensorMapField> tensor_map_field(std::string_view name);  // "global_address"
bool has_ordinal(TensorMapField field);                                 // box_dim .. element_stride
// The value as the instruction has it: rank less one, the codes of the ISA for the types and modes.
// Throws std::invalid_argument if it has no meaning.
void replace(TensorMap& map, TensorMapField field, uint32_t ordinal, uint64_t value);

}  // namespace ptxsim
