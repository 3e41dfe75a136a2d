// SPDX-License-Identifier: Apache-2.0
#include "tensor/convert.h"
#include "tensor/instruction_decoder.h"

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>

namespace ptxsim {
namespace {

constexpr std::string_view kNumberNames[] = {"u8",  "u16", "u32", "u64",  "s8",  "s16",
                                             "s32", "s64", "f16", "bf16", "f32", "f64"};

bool is_float(Number n) { return n >= Number::f16; }
bool is_signed(Number n) { return n >= Number::s8; }

// Packed formats: elements and bits of each in the register.
struct Packed {
  std::string_view name;
  Format format;
  int elements, field_bits;
};
constexpr Packed kPacked[] = {
    {"f16x2", Format::f16, 2, 16},  {"bf16x2", Format::bf16, 2, 16}, {"tf32", Format::tf32, 1, 32},
    {"e4m3x2", Format::e4m3, 2, 8}, {"e5m2x2", Format::e5m2, 2, 8},  {"e3m2x2", Format::e3m2, 2, 8},
    {"e2m3x2", Format::e2m3, 2, 8}, {"e2m1x2", Format::e2m1, 2, 4},  {"e4m3x4", Format::e4m3, 4, 8},
    {"e5m2x4", Format::e5m2, 4, 8}, {"e3m2x4", Format::e3m2, 4, 8},  {"e2m3x4", Format::e2m3, 4, 8},
    {"e2m1x4", Format::e2m1, 4, 4}, {"ue8m0x2", Format::ue8m0, 2, 8}};

struct Modifiers {
  std::string rounding;  // "" or "rn", "rzi", ...
  bool ftz = false, sat = false, satfinite = false, relu = false, pack = false;
  std::vector<std::string> types;
};

std::optional<Number> number(const std::string& name) {
  const auto* at = std::find(std::begin(kNumberNames), std::end(kNumberNames), name);
  if (at == std::end(kNumberNames)) return std::nullopt;
  return Number(at - std::begin(kNumberNames));
}

const Packed* packed(const std::string& name) {
  for (const Packed& p : kPacked) {
    if (p.name == name) return &p;
  }
  return nullptr;
}

class Decoder : InstructionDecoder {
 public:
  explicit Decoder(const ptx::Instruction& instruction) : InstructionDecoder(instruction) {}

  ConvertForm decode() {
    read_modifiers();
    form_.run = run_convert;
    if (m_.pack) {
      decode_pack();
    } else {
      require(m_.types.size() == 2, "needs two types");
      const auto to = number(m_.types[0]), from = number(m_.types[1]);
      if (to && from) {
        decode_basic(*to, *from);
      } else {
        decode_packed();
      }
    }
    form_.dst_bytes = form_.dst_type_bytes;
    std::copy(std::begin(form_.src_type_bytes), std::end(form_.src_type_bytes), form_.src_bytes);
    check_operands();
    return form_;
  }

 private:
  void read_modifiers() {
    require(in_.opcode == "cvt", "is no cvt");
    for (const std::string& name : in_.modifiers) {
      bool* flag = name == "ftz"         ? &m_.ftz
                   : name == "sat"       ? &m_.sat
                   : name == "satfinite" ? &m_.satfinite
                   : name == "relu"      ? &m_.relu
                   : name == "pack"      ? &m_.pack
                                         : nullptr;
      if (flag) {
        require(!*flag, "." + name + " twice");
        *flag = true;
      } else if (name == "rn" || name == "rz" || name == "rm" || name == "rp" || name == "rna" ||
                 name == "rs" || name == "rni" || name == "rzi" || name == "rmi" || name == "rpi") {
        require(m_.rounding.empty(), "two roundings");
        m_.rounding = name;
      } else if (number(name) || packed(name) || m_.pack) {
        m_.types.push_back(name);
      } else {
        fail("unknown modifier ." + name);
      }
    }
  }

  // Sets the rounding, which must be one of `allowed`, a list such as "rn rz"; "" allows none.
  void round(std::string_view allowed) {
    bool found = false;
    for (size_t at = 0; at < allowed.size() && !found;) {
      const size_t end = std::min(allowed.find(' ', at), allowed.size());
      found = allowed.substr(at, end - at) == m_.rounding;
      at = end + 1;
    }
    if (!found) {
      fail(m_.rounding.empty() ? "needs a rounding"
                               : "." + m_.rounding + " is not allowed with these types");
    }
    const bool integral = m_.rounding.size() == 3 && m_.rounding[2] == 'i';
    form_.to_integral = integral;
    const std::string_view mode(m_.rounding.data(), integral ? 2 : m_.rounding.size());
    form_.encode.rounding = mode == "rn"    ? Rounding::rn
                            : mode == "rna" ? Rounding::rna
                            : mode == "rz"  ? Rounding::rz
                            : mode == "rm"  ? Rounding::rm
                            : mode == "rp"  ? Rounding::rp
                                            : Rounding::rs;
  }

  void decode_basic(Number to, Number from) {
    form_.dst_type_bytes = uint8_t(size_of(to));
    form_.src_type_bytes[0] = uint8_t(size_of(from));
    form_.dst_is_signed = !is_float(to) && is_signed(to);
    const bool has_bf16 = to == Number::bf16 || from == Number::bf16;
    form_.dst_is_exact = form_.src_is_exact = has_bf16;
    const bool narrow_from_f32 = from == Number::f32 && (to == Number::f16 || to == Number::bf16);
    if (m_.relu || m_.satfinite) {
      require(narrow_from_f32, ".relu and .satfinite need .f16.f32 or .bf16.f32");
      require(!m_.sat && !m_.ftz, ".relu and .satfinite exclude .sat and .ftz");
      round("rn rz");
    } else if (!is_float(to) && !is_float(from)) {
      require(m_.rounding.empty(), "integers are not rounded");
    } else if (!is_float(to)) {
      round("rni rzi rmi rpi");
    } else if (!is_float(from)) {
      round("rn rz rm rp");
    } else if (to == from) {
      if (!m_.rounding.empty()) round("rni rzi rmi rpi");
    } else if (has_bf16 && from != Number::f32 && from != Number::f64) {
      // ptxas takes a rounding and none: f16 and bf16 into each other go to nearest without one.
      if (!m_.rounding.empty()) round("rn rz rm rp");
    } else if (size_of(to) < size_of(from)) {
      round("rn rz rm rp");
    } else {
      require(m_.rounding.empty(), "a conversion that is exact is not rounded");
    }
    if (m_.ftz) require(to == Number::f32 || from == Number::f32, ".ftz needs .f32");
    if (m_.sat) require(sat_is_allowed(to, from), ".sat is not allowed with these types");
    form_.ftz = m_.ftz;
    form_.sat = m_.sat;
    form_.encode.satfinite = m_.satfinite;
    form_.encode.relu = m_.relu;
    const bool wide = from == Number::f64 || to == Number::u64 || to == Number::s64;
    if (wide) form_.nan_integer = uint64_t(1) << (8 * size_of(to) - 1);
    form_.kernel = basic_kernel(form_, to, from);
  }

  // Integers: if a value of `from` may lie outside `to`. bf16 has no .sat.
  static bool sat_is_allowed(Number to, Number from) {
    if (is_float(to)) return to != Number::bf16 && from != Number::bf16;
    if (is_float(from)) return from != Number::bf16;
    if (is_signed(to) == is_signed(from)) return size_of(to) < size_of(from);
    return is_signed(from) || size_of(to) <= size_of(from);
  }

  void decode_packed() {
    const Packed* to = packed(m_.types[0]);
    const Packed* from = packed(m_.types[1]);
    const std::string& source = m_.types[1];
    require(!m_.sat && !m_.ftz, ".sat and .ftz are not allowed with packed types");
    form_.dst_is_exact = !to || to->format != Format::f16;
    form_.src_is_exact = true;
    bool satfinite_needed = false, satfinite_allowed = true, relu_allowed = true;
    if (to && source == "f32") {
      switch (to->format) {
        case Format::f16:
        case Format::bf16: round("rn rz rs"); break;
        case Format::tf32:
          round("rn rz rna");
          relu_allowed = form_.encode.rounding != Rounding::rna;
          break;
        case Format::ue8m0:
          round("rz rp");
          relu_allowed = false;
          break;
        default: round(to->elements == 4 ? "rs" : "rn"); satfinite_needed = true;
      }
      form_.sources = to->elements;
      std::fill_n(form_.src_type_bytes, form_.sources, uint8_t(4));
      if (form_.encode.rounding == Rounding::rs) form_.src_type_bytes[form_.sources++] = 4;
    } else if (to && source == "f16x2" && to->elements == 2 &&
               (to->format == Format::e4m3 || to->format == Format::e5m2 ||
                to->format == Format::e2m1)) {
      round("rn");
      satfinite_needed = true;
    } else if (to && source == "bf16x2" && to->format == Format::ue8m0) {
      round("rz rp");
      relu_allowed = false;
    } else if (to && from && to->format == Format::f16 && from->elements == 2 &&
               from->format >= Format::e5m2 && from->format <= Format::e2m1) {
      round("rn");
      satfinite_allowed = false;
    } else if (to && from && to->format == Format::bf16 && from->format == Format::ue8m0) {
      round("rn");
      satfinite_allowed = relu_allowed = false;
    } else {
      fail("no such conversion");
    }
    require(m_.satfinite || !satfinite_needed, "needs .satfinite");
    require(!m_.satfinite || satfinite_allowed, ".satfinite is not allowed with these types");
    require(!m_.relu || relu_allowed, ".relu is not allowed with these types");
    form_.encode.satfinite = m_.satfinite;
    form_.encode.relu = m_.relu;
    form_.to = to->format;
    form_.elements = to->elements;
    form_.field_bits = to->field_bits;
    form_.dst_type_bytes = uint8_t(to->elements * to->field_bits / 8);
    if (from) {
      form_.from = from->format;
      form_.source_field_bits = from->field_bits;
      form_.src_type_bytes[0] = uint8_t(from->elements * from->field_bits / 8);
    }
    form_.kernel = pack_elements_kernel();
  }

  void decode_pack() {
    require(m_.sat, "needs .sat");
    require(!m_.ftz && !m_.satfinite && !m_.relu && m_.rounding.empty(), "takes .sat only");
    const size_t count = m_.types.size();
    require(count >= 2 && m_.types[1] == "s32", "packs .s32");
    const std::string& to = m_.types[0];
    const std::string bits = to.empty() ? "" : to.substr(1);
    require(to[0] == 'u' || to[0] == 's', "packs to integers");
    if (bits == "16") {
      require(count == 2, "takes two types with 16 bits");
    } else {
      require(bits == "2" || bits == "4" || bits == "8", "packs to 2, 4, 8 or 16 bits");
      require(count == 3 && m_.types[2] == "b32", "needs .b32");
    }
    form_.pack_bits = std::stoi(bits);
    form_.pack_is_signed = to[0] == 's';
    form_.sources = int(count);
    form_.dst_type_bytes = 4;
    std::fill_n(form_.src_type_bytes, form_.sources, uint8_t(4));
    form_.kernel = pack_integers_kernel();
  }

  void check_operands() const {
    int count = 0;
    for (size_t i = 1; i < in_.operands.size(); ++i) {
      const ptx::Operand& o = in_.operands[i];
      const bool is_vector = o.kind == ptx::Operand::Kind::vector;
      require(is_vector == (form_.elements == 4 && i == 1), "an operand has the wrong shape");
      count += is_vector ? int(o.items.size()) : 1;
    }
    require(count == form_.sources, "needs " + std::to_string(form_.sources) + " sources");
  }

  Modifiers m_;
  ConvertForm form_;
};

}  // namespace

int size_of(Number number) {
  constexpr uint8_t kBytes[] = {1, 2, 4, 8, 1, 2, 4, 8, 2, 2, 4, 8};
  return kBytes[int(number)];
}

void ConvertForm::bind(uint32_t line, int dst, const std::vector<int>& src) {
  const auto check = [line](int bytes, int type_bytes, bool is_exact) {
    if (bytes == type_bytes || (bytes > type_bytes && !is_exact)) return;
    throw ptx::Error(line, "cvt with a register of " + std::to_string(8 * bytes) +
                               " bits where its type has " + std::to_string(8 * type_bytes));
  };
  check(dst, dst_type_bytes, dst_is_exact);
  dst_bytes = uint8_t(dst);
  for (int i = 0; i < sources; ++i) {
    check(src[size_t(i)], src_type_bytes[i], src_is_exact);
    src_bytes[i] = uint8_t(src[size_t(i)]);
  }
}

ConvertForm decode_convert(const ptx::Instruction& instruction) {
  return Decoder(instruction).decode();
}

}  // namespace ptxsim
