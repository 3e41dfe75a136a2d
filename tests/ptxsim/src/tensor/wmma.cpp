// SPDX-License-Identifier: Apache-2.0
#include "tensor/wmma.h"

#include "tensor/instruction_decoder.h"

#include <algorithm>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

namespace ptxsim {
namespace {

struct Shape { int m = 0, n = 0, k = 0; };

struct Type {
  std::string name;
  int bits;
  bool is_accumulator;
};

int accumulator_bits(const std::string& name) {
  if (name == "f16") return 16;
  if (name == "f32" || name == "s32") return 32;
  return name == "f64" ? 64 : 0;
}

// Registers of a matrix of `elements` of `bits`; see the table of fragments in the ISA.
int registers_of(int elements, int bits, bool is_f16_operand) {
  if (is_f16_operand) return 8;
  return elements * bits / (bits == 64 ? 64 : 32) / 32;
}

class Decoder : InstructionDecoder {
 public:
  explicit Decoder(const ptx::Instruction& instruction)
      : InstructionDecoder(instruction), left_(instruction.modifiers) {}

  WmmaTransfer transfer() {
    WmmaTransfer t;
    t.is_store = take("store");
    require(t.is_store || take("load"), "is neither load nor store");
    if (t.is_store) {
      require(take("d"), "stores .d");
      t.matrix = WmmaMatrix::c;
    } else {
      t.matrix = take("a") ? WmmaMatrix::a : take("b") ? WmmaMatrix::b : WmmaMatrix::c;
      require(t.matrix != WmmaMatrix::c || take("c"), "loads .a, .b or .c");
    }
    require(take("sync") && take("aligned"), "needs .sync.aligned");
    t.is_row_major = take("row");
    require(t.is_row_major || take("col"), "needs .row or .col");
    t.space = take("global")                          ? WmmaTransfer::Space::global
              : take("shared") || take("shared::cta") ? WmmaTransfer::Space::shared
                                                      : WmmaTransfer::Space::generic;
    const Shape s = shape();
    require(left_.size() == 1, left_.empty() ? "needs a type" : "unknown modifier ." + left_[0]);
    const std::string type = left_[0];
    const bool is_c = t.matrix == WmmaMatrix::c;
    const auto element = parse_element(type);
    const int bits = is_c ? accumulator_bits(type) : element ? bits_of(*element) : 0;
    require(bits != 0, "unknown modifier ." + type);
    require(is_c ? accumulator_fits(type, s) : operand_fits(*element, s),
            "no such shape for this type");
    const bool is_sub_byte = !is_c && bits < 8;
    require(!is_sub_byte || t.is_row_major == (t.matrix == WmmaMatrix::a),
            "needs .row for A and .col for B");
    t.rows = t.matrix == WmmaMatrix::b ? s.k : s.m;
    t.columns = t.matrix == WmmaMatrix::a ? s.k : s.n;
    t.element_bits = bits;
    t.register_bytes = bits == 64 ? 8 : 4;
    t.registers = registers_of(t.rows * t.columns, bits, !is_c && type == "f16");
    // The elements of a register are neighbours along k, of C along n.
    const bool is_contiguous = t.is_row_major == (t.matrix != WmmaMatrix::b);
    t.pieces = is_contiguous ? 1 : 8 * t.register_bytes / bits;
    t.piece_bytes = t.register_bytes / t.pieces;
    check_transfer(t);
    return t;
  }

  WmmaForm mma() {
    WmmaForm f;
    require(take("mma"), "is no wmma.mma");
    const bool is_and = take("and");
    f.is_xor = take("xor");
    const bool popc = take("popc");
    require(take("sync") && take("aligned"), "needs .sync.aligned");
    f.satfinite = take("satfinite");
    const std::string a_layout = layout(), b_layout = layout();
    const Shape s = shape();
    f.m = s.m;
    f.n = s.n;
    f.k = s.k;
    const bool is_f64 = !left_.empty() && left_[0] == "f64";
    if (is_f64 && !take("rn")) {
      for (const char* mode : {"rz", "rm", "rp"}) {
        require(!take(mode), std::string("the rounding .") + mode + " is not simulated");
      }
    }
    std::string a = "f16", b = "f16";
    require(left_.size() == 2 || left_.size() == 4, "needs two or four types");
    if (left_.size() == 4) {
      a = left_[1];
      b = left_[2];
      require(a != "f16" && b != "f16", ".f16 is not written out");
    }
    f.d = accumulator(left_.front());
    f.c = accumulator(left_.back());
    f.a = element(a);
    f.b = element(b);
    check_types(f, s, left_.front(), left_.back());
    const bool is_sub_byte = bits_of(f.a) < 8;
    require(!is_sub_byte || (a_layout == "row" && b_layout == "col"), "needs .row.col");
    require((is_and || f.is_xor) == (f.a == Element::b1) && popc == (f.a == Element::b1) &&
                !(is_and && f.is_xor),
            ".and.popc or .xor.popc of .b1");
    f.register_bytes = is_f64 ? 8 : 4;
    f.a_registers = registers_of(f.m * f.k, bits_of(f.a), f.a == Element::f16);
    f.b_registers = registers_of(f.n * f.k, bits_of(f.b), f.b == Element::f16);
    f.c_registers = registers_of(f.m * f.n, accumulator_bits(left_.back()), false);
    f.d_registers = registers_of(f.m * f.n, accumulator_bits(left_.front()), false);
    require(in_.operands.size() == 4, "needs four operands");
    const int counts[] = {f.d_registers, f.a_registers, f.b_registers, f.c_registers};
    for (size_t i = 0; i < 4; ++i) check_vector(in_.operands[i], counts[i]);
    return f;
  }

 private:
  bool take(std::string_view name) {
    const auto at = std::find(left_.begin(), left_.end(), name);
    if (at == left_.end()) return false;
    left_.erase(at);
    return true;
  }

  Shape shape() {
    for (auto at = left_.begin(); at != left_.end(); ++at) {
      Shape s;
      int used = 0;
      if (std::sscanf(at->c_str(), "m%dn%dk%d%n", &s.m, &s.n, &s.k, &used) == 3 &&
          used == int(at->size())) {
        left_.erase(at);
        return s;
      }
    }
    require(false, "needs a shape");
    return {};
  }

  std::string layout() {
    const auto at = std::find_if(left_.begin(), left_.end(),
                                 [](const std::string& s) { return s == "row" || s == "col"; });
    require(at != left_.end(), "needs two layouts");
    const std::string name = *at;
    left_.erase(at);
    return name;
  }

  Accumulator accumulator(const std::string& name) const {
    require(accumulator_bits(name) != 0, "unknown modifier ." + name);
    return name == "f16"   ? Accumulator::f16
           : name == "f32" ? Accumulator::f32
           : name == "f64" ? Accumulator::f64
                           : Accumulator::s32;
  }

  Element element(const std::string& name) const {
    const auto e = parse_element(name);
    require(e.has_value(), "unknown modifier ." + name);
    return *e;
  }

  static bool has_square_shape(Shape s, int k) {
    return s.k == k && s.m * s.n == 256 && s.m >= 8 && s.n >= 8;
  }

  static bool operand_fits(Element e, Shape s) {
    switch (e) {
      case Element::f16:
      case Element::bf16:
      case Element::u8:
      case Element::s8: return has_square_shape(s, 16);
      case Element::tf32: return s.m == 16 && s.n == 16 && s.k == 8;
      case Element::f64: return s.m == 8 && s.n == 8 && s.k == 4;
      case Element::u4:
      case Element::s4: return s.m == 8 && s.n == 8 && s.k == 32;
      case Element::b1: return s.m == 8 && s.n == 8 && s.k == 128;
      default: return false;
    }
  }

  static bool accumulator_fits(const std::string& type, Shape s) {
    const auto any = [s](std::initializer_list<Element> elements) {
      return std::any_of(elements.begin(), elements.end(),
                         [s](Element e) { return operand_fits(e, s); });
    };
    if (type == "f16") return any({Element::f16});
    if (type == "f32") return any({Element::f16, Element::tf32});
    if (type == "f64") return any({Element::f64});
    return any({Element::s8, Element::s4, Element::b1});
  }

  void check_types(const WmmaForm& f, Shape s, const std::string& d, const std::string& c) const {
    require(operand_fits(f.a, s), "no such shape for these types");
    require(f.a == f.b, "A and B have different types");
    const bool is_integer = f.a >= Element::u8;
    const std::string wanted = is_integer ? "s32" : f.a == Element::f64 ? "f64" : "f32";
    const auto fits = [&](const std::string& t) {
      return t == wanted || (f.a == Element::f16 && t == "f16");
    };
    require(fits(d) && fits(c), "C or D has another type");
    require(!f.satfinite || (is_integer && f.a != Element::b1), ".satfinite is of integers");
  }

  void check_vector(const ptx::Operand& o, int count) const {
    require(o.kind == ptx::Operand::Kind::vector && int(o.items.size()) == count,
            "needs a vector of " + std::to_string(count) + " registers");
  }

  void check_transfer(const WmmaTransfer& t) const {
    const size_t count = in_.operands.size();
    require(count == 2 || count == 3, "needs two or three operands");
    check_vector(in_.operands[t.is_store ? 1 : 0], t.registers);
    require(in_.operands[t.is_store ? 0 : 1].kind == ptx::Operand::Kind::address,
            "needs an address");
  }

  std::vector<std::string> left_;
};

}  // namespace

int WmmaTransfer::distinct_registers() const {
  return rows * columns * element_bits / (8 * register_bytes * 32);
}

int64_t WmmaTransfer::offset(int lane, int r, int piece, int64_t stride) const {
  const int per_word = 8 * register_bytes / element_bits;
  const int word = (r * 32 + lane) % (rows * columns / per_word);
  const int inner = matrix == WmmaMatrix::a ? columns : matrix == WmmaMatrix::b ? rows : columns;
  const int element = word * per_word + (pieces == 1 ? 0 : piece);
  const int64_t outer_at = element / inner, inner_at = element % inner;
  // A and C are taken row by row, B column by column.
  const int64_t row = matrix == WmmaMatrix::b ? inner_at : outer_at;
  const int64_t column = matrix == WmmaMatrix::b ? outer_at : inner_at;
  const int64_t index = is_row_major ? row * stride + column : column * stride + row;
  return index * element_bits / 8;
}

WmmaTransfer decode_wmma_transfer(const ptx::Instruction& instruction) {
  return Decoder(instruction).transfer();
}

WmmaForm decode_wmma(const ptx::Instruction& instruction) { return Decoder(instruction).mma(); }

}  // namespace ptxsim
