// SPDX-License-Identifier: Apache-2.0
#include "tensor/wgmma.h"
#include "tensor/instruction_decoder.h"

#include <cstdio>
#include <vector>

#include "tensor/swizzle.h"

namespace ptxsim {
namespace {

class Decoder : InstructionDecoder {
 public:
  explicit Decoder(const ptx::Instruction& instruction) : InstructionDecoder(instruction) {}

  WgmmaForm decode() {
    read_modifiers();
    require(mma_async_ && sync_ && aligned_, "needs .mma_async.sync.aligned");
    require(m_ == kWgmmaRows, "needs a shape");
    require(types_.size() == 3, "needs three types");
    read_types();
    check_shape();
    form_.d_registers = form_.n / (form_.d == Accumulator::f16 ? 4 : 2);
    read_operands();
    return form_;
  }

 private:
  void read_modifiers() {
    require(in_.opcode == "wgmma", "is no wgmma");
    for (const std::string& name : in_.modifiers) {
      int m = 0, n = 0, k = 0, used = 0;
      if (name == "mma_async") {
        once(&mma_async_, name);
      } else if (name == "sp") {
        fail("sparse matrices are not simulated");
      } else if (name == "sync") {
        once(&sync_, name);
      } else if (name == "aligned") {
        once(&aligned_, name);
      } else if (name == "satfinite") {
        once(&form_.satfinite, name);
      } else if (name == "and") {
        once(&and_, name);
      } else if (name == "popc") {
        once(&popc_, name);
      } else if (std::sscanf(name.c_str(), "m%dn%dk%d%n", &m, &n, &k, &used) == 3 &&
                 used == int(name.size())) {
        require(m_ == 0, "two shapes");
        m_ = m;
        form_.n = n;
        form_.k = k;
      } else {
        types_.push_back(name);
      }
    }
  }

  void read_types() {
    if (types_[0] == "f32") {
      form_.d = Accumulator::f32;
    } else if (types_[0] == "f16") {
      form_.d = Accumulator::f16;
    } else if (types_[0] == "s32") {
      form_.d = Accumulator::s32;
    } else {
      fail("unknown modifier ." + types_[0]);
    }
    const auto a = parse_element(types_[1]), b = parse_element(types_[2]);
    require(a.has_value(), "unknown modifier ." + types_[1]);
    require(b.has_value(), "unknown modifier ." + types_[2]);
    form_.a = *a;
    form_.b = *b;
  }

  static bool is_fp8(Element e) { return e == Element::e4m3 || e == Element::e5m2; }
  bool is_byte() const { return form_.a == Element::u8 || form_.a == Element::s8; }
  bool is_float() const { return !is_byte() && form_.a != Element::b1; }
  bool has_16_bits() const { return form_.a == Element::f16 || form_.a == Element::bf16; }

  void check_shape() {
    const Element a = form_.a, b = form_.b;
    const bool pair_fits = is_fp8(a)   ? is_fp8(b)
                           : is_byte() ? b == Element::u8 || b == Element::s8
                                       : a == b;
    require(pair_fits, "these types of A and B do not go together");
    require(has_16_bits() || a == Element::tf32 || is_fp8(a) || is_byte() || a == Element::b1,
            "no such type");
    require(form_.k == kWgmmaRowBytes * 8 / bits_of(a), "no such shape for these types");
    // Integers leave out the odd multiples of 8 past 24.
    const int n = form_.n;
    require(n >= 8 && n <= 256 && n % 8 == 0 && (is_float() || n <= 32 || n % 16 == 0),
            "no such shape for these types");
    const bool d_fits = !is_float()
                            ? form_.d == Accumulator::s32
                            : form_.d == Accumulator::f32 ||
                                  (form_.d == Accumulator::f16 && (a == Element::f16 || is_fp8(a)));
    require(d_fits, "D has another type");
    require(!form_.satfinite || is_byte(), ".satfinite is of integers");
    require(and_ == (a == Element::b1) && popc_ == and_, ".and.popc of .b1");
  }

  bool immediate(size_t index, int64_t no, int64_t yes) const {
    const ptx::Operand& o = in_.operands[index];
    const bool fits = o.kind == ptx::Operand::Kind::integer && (o.value == no || o.value == yes);
    require(fits, "operand " + std::to_string(index) + " must be " + std::to_string(no) + " or " +
                      std::to_string(yes));
    return o.value == yes;
  }

  void read_operands() {
    using Kind = ptx::Operand::Kind;
    const auto count = [this](size_t i) {
      const ptx::Operand& o = in_.operands[i];
      return o.kind == Kind::vector ? int(o.items.size()) : 0;
    };
    require(in_.operands.size() >= 4, "needs four operands");
    require(count(0) == form_.d_registers,
            "D needs " + std::to_string(form_.d_registers) + " registers");
    form_.a_in_registers = count(1) != 0;
    require(count(1) == 0 || count(1) == 4, "A needs 4 registers");
    size_t wanted = 4;
    if (is_float()) wanted += 2;
    if (has_16_bits()) wanted += form_.a_in_registers ? 1 : 2;
    require(in_.operands.size() == wanted, "needs " + std::to_string(wanted) + " operands");
    if (is_float()) {
      form_.negate_a = immediate(4, 1, -1);
      form_.negate_b = immediate(5, 1, -1);
    }
    if (has_16_bits()) {
      size_t next = 6;
      if (!form_.a_in_registers) form_.a_is_m_major = immediate(next++, 0, 1);
      form_.b_is_n_major = immediate(next, 0, 1);
    }
  }

  WgmmaForm form_;
  int m_ = 0;
  bool mma_async_ = false, sync_ = false, aligned_ = false, and_ = false, popc_ = false;
  std::vector<std::string> types_;
};

}  // namespace

WgmmaForm decode_wgmma(const ptx::Instruction& instruction) {
  return Decoder(instruction).decode();
}

MatrixDescriptor decode_descriptor(uint64_t bits) {
  constexpr uint32_t kSpans[] = {0, 128, 64, 32};
  constexpr uint64_t kUsed = 0xc00e3fff3fff3fff;
  const auto offset = [bits](int at) { return uint32_t(bits >> at & 0x3fff) << 4; };
  MatrixDescriptor d;
  d.start = offset(0);
  d.leading = offset(16);
  d.stride = offset(32);
  d.base_offset = uint32_t(bits >> 49 & 7);
  d.span = kSpans[bits >> 62];
  if (bits & ~kUsed) {
    d.problem = "bits that must be 0 are set";
  } else if (d.span == 0 && d.base_offset != 0) {
    d.problem = "a base offset without swizzle";
  }
  return d;
}

// Core matrices are 8 rows of 16 bytes. Without swizzle a core matrix is contiguous; with one, the
// rows of span / 16 neighbours lie side by side. See the canonical layouts of the ISA,
// 9.7.15.5.1.2.
void segment_addresses(const MatrixDescriptor& d, bool is_mn_major, int rows, uint32_t* addresses) {
  const uint32_t side = d.span ? d.span / 16 : 1;  // units of 16 bytes in a line
  const auto put = [&](int segment, uint32_t offset) {
    addresses[segment] = swizzle(d.start + offset, d.span, d.base_offset);
  };
  if (!is_mn_major) {
    const uint32_t next_unit = d.span ? 16 : d.leading;
    for (int i = 0; i < rows; ++i) {
      const uint32_t row = uint32_t(i % 8) * side * 16 + uint32_t(i / 8) * d.stride;
      for (uint32_t j = 0; j < 2; ++j) put(2 * i + int(j), row + j * next_unit);
    }
    return;
  }
  const int units = rows / 8;
  const uint32_t next_k8 = d.span ? d.stride : d.leading;
  const uint32_t next_units = d.span ? d.leading : d.stride;
  for (int k = 0; k < 16; ++k) {
    const uint32_t line = uint32_t(k % 8) * side * 16 + uint32_t(k / 8) * next_k8;
    for (int j = 0; j < units; ++j) {
      const uint32_t unit = uint32_t(j) % side * 16 + uint32_t(j) / side * next_units;
      put(k * units + j, line + unit);
    }
  }
}

}  // namespace ptxsim
