// SPDX-License-Identifier: Apache-2.0
#include "tensor/tensormap.h"

#include <cstring>
#include <stdexcept>

namespace ptxsim {
namespace {

struct TypeFacts {
  const char* name;
  uint8_t global_bits, shared_bits;
  bool is_float;
};
constexpr TypeFacts kTypes[] = {
    {"u8", 8, 8, false},        {"u16", 16, 16, false},    {"u32", 32, 32, false},
    {"s32", 32, 32, false},     {"u64", 64, 64, false},    {"s64", 64, 64, false},
    {"f16", 16, 16, true},      {"f32", 32, 32, true},     {"f64", 64, 64, true},
    {"bf16", 16, 16, true},     {"f32.ftz", 32, 32, true}, {"tf32", 32, 32, true},
    {"tf32.ftz", 32, 32, true}, {"b4x16", 4, 4, false},    {"b4x16_p64", 4, 8, false},
    {"b6x16_p32", 6, 8, false},
};
constexpr int kTypeCount = sizeof kTypes / sizeof kTypes[0];

const TypeFacts& facts(TensorType type) { return kTypes[int(type)]; }

bool is_padded(TensorType type) {
  return type == TensorType::u4x16_align16 || type == TensorType::u6x16_align16;
}
bool is_packed(TensorType type) { return int(type) >= int(TensorType::u4x16_align8); }

// The 128 bytes.
struct Encoded {
  uint64_t magic;
  uint64_t address;
  uint64_t size[5];
  uint64_t stride[4];
  uint16_t box[5], l2_promotion;
  uint8_t element_stride[5];
  uint8_t rank, type, interleave, swizzle_span, swizzle_atom, fill;
  uint8_t zero[17];
};
static_assert(sizeof(Encoded) == kTensorMapBytes);
constexpr uint64_t kMagic = 0x70614d726f736e54;  // "TnsorMap"

std::string number(uint64_t value) { return std::to_string(value); }

std::string dimension(const char* what, int i, uint64_t value, const char* rule) {
  return std::string(what) + "[" + number(i) + "] is " + number(value) + "; " + rule;
}

}  // namespace

int global_bits(TensorType type) { return facts(type).global_bits; }
int shared_bits(TensorType type) { return facts(type).shared_bits; }
bool is_float(TensorType type) { return facts(type).is_float; }
const char* name_of(TensorType type) { return facts(type).name; }

// Source of every rule: the documentation of cuTensorMapEncodeTiled (CUDA 13.0).
std::string TensorMap::check() const {
  const bool padded = is_padded(type);
  const uint64_t align = padded || interleave == Interleave::b32 ? 32 : 16;
  if (rank < 1 || rank > kMaxTensorRank) return "the rank is " + number(rank) + "; 1 to 5";
  if (interleave != Interleave::none && rank < 3) return "an interleaved layout has rank 3 or more";
  if (address % align)
    return "the global address is no multiple of " + number(align) + ": " + number(address);
  for (int i = 0; i < rank; ++i)
    if (size[i] == 0 || size[i] > uint64_t(1) << 32)
      return dimension("globalDim", i, size[i], "1 to 2^32");
  if (padded && size[0] % 128)
    return dimension("globalDim", 0, size[0], "a multiple of 128 for this type");
  if (type == TensorType::u4x16_align8 && size[0] % 2)
    return dimension("globalDim", 0, size[0], "a multiple of 2 for this type");
  for (int i = 0; i + 1 < rank; ++i)
    if (stride[i] % align || stride[i] >= uint64_t(1) << 40)
      return dimension("globalStrides", i, stride[i],
                       align == 32 ? "a multiple of 32 below 2^40" : "a multiple of 16 below 2^40");
  for (int i = 0; i < rank; ++i)
    if (box[i] == 0 || box[i] > 256) return dimension("boxDim", i, box[i], "1 to 256");
  if (padded && box[0] != 128) return dimension("boxDim", 0, box[0], "128 for this type");
  for (int i = interleave == Interleave::none ? 1 : 0; i < rank; ++i)
    if (element_stride[i] == 0 || element_stride[i] > 8)
      return dimension("elementStrides", i, element_stride[i], "1 to 8");
  if (interleave == Interleave::none) {
    const uint64_t inner_bits = uint64_t(box[0]) * shared_bits(type);
    if (inner_bits % 128)
      return "the inner dimension of the box is no multiple of 16 bytes: " + number(inner_bits) +
             " bits";
    if (swizzle_span && inner_bits > uint64_t(swizzle_span) * 8)
      return "the inner dimension of the box, " + number(inner_bits / 8) +
             " bytes, is wider than the swizzle span of " + number(swizzle_span);
  }
  if (interleave == Interleave::b32 && swizzle_span != 32)
    return "interleave 32B needs swizzle 32B";
  if (type == TensorType::u6x16_align16 && interleave != Interleave::none)
    return "this type cannot be interleaved";
  if (padded) {
    const bool atom = swizzle_atom == SwizzleAtom::b16 || swizzle_atom == SwizzleAtom::b32 ||
                      (type == TensorType::u6x16_align16 && swizzle_atom == SwizzleAtom::b64);
    if (swizzle_span != 0 && (swizzle_span != 128 || !atom)) return "this type has no such swizzle";
  }
  if (fill == OutOfBounds::nan && (!is_float(type) || is_packed(type)))
    return "NaN fill is for floating-point types";
  return {};
}

void TensorMap::encode(void* bytes) const {
  Encoded e{};
  e.magic = kMagic;
  e.address = address;
  for (int i = 0; i < kMaxTensorRank; ++i) {
    e.size[i] = size[i];
    e.box[i] = uint16_t(box[i]);
    e.element_stride[i] = uint8_t(element_stride[i]);
    if (i + 1 < kMaxTensorRank) e.stride[i] = stride[i];
  }
  e.rank = uint8_t(rank);
  e.type = uint8_t(type);
  e.interleave = uint8_t(interleave);
  e.swizzle_span = uint8_t(swizzle_span);
  e.swizzle_atom = uint8_t(swizzle_atom);
  e.fill = uint8_t(fill);
  e.l2_promotion = uint16_t(l2_promotion);
  std::memcpy(bytes, &e, sizeof e);
}

std::optional<TensorMap> TensorMap::decode(const void* bytes) {
  Encoded e;
  std::memcpy(&e, bytes, sizeof e);
  if (e.magic != kMagic || e.rank < 1 || e.rank > kMaxTensorRank || e.type >= kTypeCount ||
      e.interleave > 2 || e.swizzle_atom > 3 || e.fill > 1)
    return std::nullopt;
  for (const uint8_t z : e.zero)
    if (z != 0) return std::nullopt;
  TensorMap map;
  map.type = TensorType(e.type);
  map.rank = e.rank;
  map.address = e.address;
  for (int i = 0; i < kMaxTensorRank; ++i) {
    map.size[i] = e.size[i];
    map.box[i] = e.box[i];
    map.element_stride[i] = e.element_stride[i];
    if (i + 1 < kMaxTensorRank) map.stride[i] = e.stride[i];
  }
  map.interleave = Interleave(e.interleave);
  map.swizzle_span = e.swizzle_span;
  map.swizzle_atom = SwizzleAtom(e.swizzle_atom);
  map.l2_promotion = e.l2_promotion;
  map.fill = OutOfBounds(e.fill);
  return map;
}

bool set_swizzle(TensorMap& map, uint32_t cuda_swizzle) {
  struct Form {
    uint32_t span;
    SwizzleAtom atom;
  };
  constexpr Form kForms[] = {
      {0, SwizzleAtom::b16},   {32, SwizzleAtom::b16},  {64, SwizzleAtom::b16},
      {128, SwizzleAtom::b16}, {128, SwizzleAtom::b32}, {128, SwizzleAtom::b32_flip8},
      {128, SwizzleAtom::b64},
  };
  if (cuda_swizzle >= sizeof kForms / sizeof kForms[0]) return false;
  map.swizzle_span = kForms[cuda_swizzle].span;
  map.swizzle_atom = kForms[cuda_swizzle].atom;
  return true;
}

std::optional<TensorMapField> tensor_map_field(std::string_view name) {
  constexpr std::string_view kNames[] = {
      "global_address", "rank",     "box_dim",           "global_dim",   "global_stride",
      "element_stride", "elemtype", "interleave_layout", "swizzle_mode", "swizzle_atomicity",
      "fill_mode"};
  for (size_t i = 0; i < sizeof kNames / sizeof kNames[0]; ++i)
    if (name == kNames[i]) return TensorMapField(i);
  return std::nullopt;
}

bool has_ordinal(TensorMapField field) {
  return field >= TensorMapField::box_dim && field <= TensorMapField::element_stride;
}

void replace(TensorMap& map, TensorMapField field, uint32_t ordinal, uint64_t value) {
  const auto refuse = [&](const std::string& what) {
    throw std::invalid_argument("tensormap.replace: " + what + ": " + number(value));
  };
  // Codes of the ISA (tensormap.replace, table of .elemtype); not the order of CUtensorMapDataType.
  constexpr TensorType kElemtypes[] = {
      TensorType::u8,           TensorType::u16,          TensorType::u32,
      TensorType::s32,          TensorType::u64,          TensorType::s64,
      TensorType::f16,          TensorType::f32,          TensorType::f32_ftz,
      TensorType::f64,          TensorType::bf16,         TensorType::tf32,
      TensorType::tf32_ftz,     TensorType::u4x16_align8, TensorType::u4x16_align16,
      TensorType::u6x16_align16};
  constexpr uint32_t kSpans[] = {0, 32, 64, 128};
  const uint32_t ordinals =
      field == TensorMapField::global_stride ? kMaxTensorRank - 1 : kMaxTensorRank;
  if (has_ordinal(field) && ordinal >= ordinals)
    throw std::invalid_argument("tensormap.replace: no dimension " + number(ordinal));
  switch (field) {
    case TensorMapField::global_address: map.address = value; return;
    case TensorMapField::rank:
      if (value >= kMaxTensorRank) refuse("no such rank (the value is the rank less one)");
      map.rank = int(value) + 1;
      return;
    case TensorMapField::box_dim:
      if (value > 256) refuse("a box has at most 256 elements in a dimension");
      map.box[ordinal] = uint32_t(value);
      return;
    case TensorMapField::global_dim: map.size[ordinal] = value; return;
    case TensorMapField::global_stride: map.stride[ordinal] = value; return;
    case TensorMapField::element_stride:
      if (value > 8) refuse("an element stride is at most 8");
      map.element_stride[ordinal] = uint32_t(value);
      return;
    case TensorMapField::elemtype:
      if (value >= sizeof kElemtypes / sizeof kElemtypes[0]) refuse("no such element type");
      map.type = kElemtypes[value];
      return;
    case TensorMapField::interleave_layout:
      if (value > 2) refuse("no such interleave layout");
      map.interleave = Interleave(value);
      return;
    case TensorMapField::swizzle_mode:
      if (value >= sizeof kSpans / sizeof kSpans[0]) refuse("no such swizzle mode here");
      map.swizzle_span = kSpans[value];
      return;
    case TensorMapField::swizzle_atomicity:
      if (value > 3) refuse("no such swizzle atomicity");
      map.swizzle_atom = SwizzleAtom(value);
      return;
    case TensorMapField::fill_mode:
      if (value > 1) refuse("no such fill mode");
      map.fill = OutOfBounds(value);
      return;
  }
}

}  // namespace ptxsim
