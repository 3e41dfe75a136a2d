// SPDX-License-Identifier: Apache-2.0
#include "tensor/mma.h"
#include "tensor/instruction_decoder.h"

#include <cstdio>
#include <initializer_list>
#include <vector>

namespace ptxsim {
namespace {

bool is_one_of(int value, std::initializer_list<int> values) {
  for (int v : values) {
    if (v == value) return true;
  }
  return false;
}

bool is_f8f6f4(Element e) { return e >= Element::e5m2 && e <= Element::e2m1; }
bool is_fp8(Element e) { return e == Element::e5m2 || e == Element::e4m3; }

class Decoder : InstructionDecoder {
 public:
  explicit Decoder(const ptx::Instruction& instruction) : InstructionDecoder(instruction) {}

  MmaForm decode() {
    read_modifiers();
    require(sync_ && aligned_, "needs .sync.aligned");
    require(form_.m != 0, "needs a shape");
    require(layouts_.size() == 2, "needs two layouts");
    require(types_.size() == (block_scale_ ? 5 : 4), "has too few or too many types");
    read_types();
    check_shape();
    check_kind();
    check_layouts();
    choose_run();
    count_registers();
    check_operands();
    return form_;
  }

 private:
  // ptxas takes the qualifiers in any order, and CUTLASS writes .kind before the shape; the types
  // alone go by their order.
  void read_modifiers() {
    require(in_.opcode == "mma", "is no mma");
    form_.m = 0;
    for (const std::string& name : in_.modifiers) {
      int m = 0, n = 0, k = 0, used = 0;
      if (name == "sp" || name == "sp::ordered_metadata") {
        fail("sparse matrices are not simulated");
      } else if (name == "sync") {
        once(&sync_, name);
      } else if (name == "aligned") {
        once(&aligned_, name);
      } else if (name == "satfinite") {
        once(&form_.satfinite, name);
      } else if (name == "block_scale") {
        once(&block_scale_, name);
      } else if (name == "popc") {
        once(&popc_, name);
      } else if (name == "and" || name == "xor") {
        once(&has_bit_op_, name);
        form_.is_xor = name == "xor";
      } else if (name == "row" || name == "col") {
        layouts_.push_back(name);
      } else if (name.starts_with("kind::")) {
        require(kind_.empty(), "two kinds");
        kind_ = name.substr(6);
      } else if (name.starts_with("scale_vec::")) {
        require(scale_vec_.empty(), "two .scale_vec");
        scale_vec_ = name.substr(11);
      } else if (std::sscanf(name.c_str(), "m%dn%dk%d%n", &m, &n, &k, &used) == 3 &&
                 used == int(name.size())) {
        require(form_.m == 0, "two shapes");
        form_.m = m;
        form_.n = n;
        form_.k = k;
      } else {
        types_.push_back(name);
      }
    }
  }

  Accumulator accumulator(const std::string& name) const {
    if (name == "f16") return Accumulator::f16;
    if (name == "f32") return Accumulator::f32;
    if (name == "f64") return Accumulator::f64;
    if (name == "s32") return Accumulator::s32;
    fail("unknown modifier ." + name);
  }

  Element element(const std::string& name) const {
    const auto e = parse_element(name);
    if (!e) fail("unknown modifier ." + name);
    return *e;
  }

  void read_types() {
    form_.d = accumulator(types_[0]);
    form_.a = element(types_[1]);
    form_.b = element(types_[2]);
    form_.c = accumulator(types_[3]);
    if (!block_scale_) return;
    require(types_[4] == "ue8m0" || types_[4] == "ue4m3", "unknown modifier ." + types_[4]);
    form_.scale = types_[4] == "ue8m0" ? Format::ue8m0 : Format::ue4m3;
  }

  bool is_integer() const { return form_.a >= Element::u8 && form_.a <= Element::s4; }
  bool is_quads() const { return form_.m == 8 && form_.a == Element::f16; }

  void check_shape() {
    const Element a = form_.a, b = form_.b;
    const int m = form_.m, k = form_.k;
    require(form_.n == 8 && (m == 8 || m == 16), "no such shape");
    bool pair_fits = a == b, shape_fits = false, f16_result = false;
    Accumulator result = Accumulator::f32;
    switch (a) {
      case Element::f64:
        shape_fits = m == 8 ? k == 4 : is_one_of(k, {4, 8, 16});
        result = Accumulator::f64;
        break;
      case Element::tf32: shape_fits = m == 16 && is_one_of(k, {4, 8}); break;
      case Element::f16:
        shape_fits = m == 8 ? k == 4 : is_one_of(k, {8, 16});
        f16_result = true;
        break;
      case Element::bf16: shape_fits = m == 16 && is_one_of(k, {8, 16}); break;
      case Element::u8:
      case Element::s8:
        pair_fits = b == Element::u8 || b == Element::s8;
        shape_fits = m == 8 ? k == 16 : is_one_of(k, {16, 32});
        result = Accumulator::s32;
        break;
      case Element::u4:
      case Element::s4:
        pair_fits = b == Element::u4 || b == Element::s4;
        shape_fits = m == 8 ? k == 32 : is_one_of(k, {32, 64});
        result = Accumulator::s32;
        break;
      case Element::b1:
        shape_fits = m == 8 ? k == 128 : is_one_of(k, {128, 256});
        result = Accumulator::s32;
        break;
      default:  // 8 bits and less
        if (kind_.empty()) {
          pair_fits = is_fp8(a) && is_fp8(b);
          shape_fits = m == 16 && is_one_of(k, {16, 32});
        } else {
          pair_fits = is_f8f6f4(a) && is_f8f6f4(b);
          shape_fits = m == 16 && k == (kind_.starts_with("mxf4") ? 64 : 32);
        }
        f16_result = !block_scale_;
    }
    require(pair_fits, "these types of A and B do not go together");
    require(shape_fits, "no such shape for these types");
    require(form_.d == result || (f16_result && form_.d == Accumulator::f16), "D has another type");
    const bool widens = form_.c == Accumulator::f16 && form_.d == Accumulator::f32;
    require(form_.c == form_.d || (is_quads() && widens), "C and D have different types");
    require(!form_.satfinite || is_integer(), ".satfinite is of integers");
    require(has_bit_op_ == (a == Element::b1) && popc_ == has_bit_op_,
            ".and.popc or .xor.popc of .b1");
  }

  void check_kind() {
    const bool needs_scale = kind_.starts_with("mx");
    if (kind_.empty()) {
      require(!block_scale_ && scale_vec_.empty(), "needs a .kind");
      return;
    }
    require(is_f8f6f4(form_.a), "a .kind needs types of 8 bits or less");
    require(needs_scale == block_scale_, ".block_scale and this .kind do not go together");
    if (kind_ == "f8f6f4") {
      require(scale_vec_.empty(), ".scale_vec needs .block_scale");
      form_.in_containers = true;
    } else if (kind_ == "mxf8f6f4") {
      require(scale_vec_.empty() || scale_vec_ == "1X", "needs .scale_vec::1X");
      require(form_.scale == Format::ue8m0, "needs .ue8m0");
      form_.in_containers = true;
      form_.scale_blocks = 1;
    } else if (kind_ == "mxf4" || kind_ == "mxf4nvf4") {
      require(form_.a == Element::e2m1 && form_.b == Element::e2m1, "needs .e2m1");
      const bool is_4x = scale_vec_ == "4X";
      require(is_4x || scale_vec_ == "2X" || (scale_vec_.empty() && kind_ == "mxf4"),
              "needs .scale_vec::2X or ::4X");
      require(is_4x == (form_.scale == Format::ue4m3), ".scale_vec::4X and .ue4m3 go together");
      require(!is_4x || kind_ == "mxf4nvf4", ".scale_vec::4X needs .kind::mxf4nvf4");
      form_.scale_blocks = is_4x ? 4 : 2;
    } else {
      fail("unknown modifier .kind::" + kind_);
    }
  }

  void check_layouts() {
    require(is_quads() || (layouts_[0] == "row" && layouts_[1] == "col"), "needs .row.col");
    form_.a_is_col = layouts_[0] == "col";
    form_.b_is_col = layouts_[1] == "col";
  }

  void choose_run() {
    form_.run = is_quads()                ? run_mma_quads
                : block_scale_            ? run_mma_scaled
                : form_.a == Element::f64 ? run_mma_double
                : form_.a == Element::b1  ? run_mma_bits
                : is_integer()            ? run_mma_integer
                                          : run_mma_float;
  }

  static int c_registers(const MmaForm& f, Accumulator type) {
    return f.m * f.n / 32 / (type == Accumulator::f16 ? 2 : 1);
  }

  void count_registers() {
    if (is_quads()) {
      form_.a_registers = form_.b_registers = 2;
      form_.c_registers = form_.c == Accumulator::f16 ? 4 : 8;
      form_.d_registers = form_.d == Accumulator::f16 ? 4 : 8;
      return;
    }
    form_.register_bytes = form_.a == Element::f64 ? 8 : 4;
    const int lane_bits = 32 * 8 * form_.register_bytes;  // of a register, all lanes
    const auto bits = [this](Element e) { return form_.in_containers ? 8 : bits_of(e); };
    form_.a_registers = form_.m * form_.k * bits(form_.a) / lane_bits;
    form_.b_registers = form_.n * form_.k * bits(form_.b) / lane_bits;
    form_.c_registers = c_registers(form_, form_.c);
    form_.d_registers = c_registers(form_, form_.d);
  }

  void check_operands() const {
    const int counts[] = {
        form_.d_registers, form_.a_registers, form_.b_registers, form_.c_registers, 1, 2, 1, 2};
    const size_t wanted = block_scale_ ? 8 : 4;
    require(in_.operands.size() == wanted, "needs " + std::to_string(wanted) + " operands");
    for (size_t i = 0; i < wanted; ++i) {
      const ptx::Operand& o = in_.operands[i];
      const bool is_vector = o.kind == ptx::Operand::Kind::vector;
      const int count = is_vector ? int(o.items.size()) : 1;
      require(count == counts[i], "operand " + std::to_string(i) + " has " + std::to_string(count) +
                                      " registers instead of " + std::to_string(counts[i]));
    }
  }

  MmaForm form_;
  bool sync_ = false, aligned_ = false, block_scale_ = false, popc_ = false, has_bit_op_ = false;
  std::string kind_, scale_vec_;
  std::vector<std::string> layouts_, types_;
};

}  // namespace

std::string MmaForm::check(ScaleSelector a_selector, ScaleSelector b_selector) const {
  const int step =
      scale_blocks;  // bytes that are selected at a time, at a multiple of their number
  const auto byte_fits = [step](int byte) { return byte >= 0 && byte < 4 && byte % step == 0; };
  if (!byte_fits(a_selector.byte)) return "byte-id-a is " + std::to_string(a_selector.byte);
  if (!byte_fits(b_selector.byte)) return "byte-id-b is " + std::to_string(b_selector.byte);
  if (a_selector.thread < 0 || a_selector.thread > 1) {
    return "thread-id-a is " + std::to_string(a_selector.thread);
  }
  if (b_selector.thread < 0 || b_selector.thread > 3) {
    return "thread-id-b is " + std::to_string(b_selector.thread);
  }
  return "";
}

MmaForm decode_mma(const ptx::Instruction& instruction) { return Decoder(instruction).decode(); }

}  // namespace ptxsim
