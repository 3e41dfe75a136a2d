// SPDX-License-Identifier: Apache-2.0
#include "tensor/matrix.h"

#include "tensor/instruction_decoder.h"

#include <cstring>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

namespace ptxsim {
namespace {

constexpr int kLanes = 32;

class Decoder : InstructionDecoder {
 public:
  explicit Decoder(const ptx::Instruction& instruction)
      : InstructionDecoder(instruction), left_(instruction.modifiers) {}

  MatrixForm decode() {
    using Shape = MatrixForm::Shape;
    form_.is_store = in_.opcode == "stmatrix";
    require(form_.is_store || in_.opcode == "ldmatrix", "is no ldmatrix");
    require(take("sync") && take("aligned"), "needs .sync.aligned");
    form_.transpose = take("trans");
    form_.is_generic = !take("shared") && !take("shared::cta");
    form_.matrices = take("x1") ? 1 : take("x2") ? 2 : take("x4") ? 4 : 0;
    require(form_.matrices != 0, "needs .x1, .x2 or .x4");
    if (take("m8n8")) {
      form_.shape = Shape::m8n8;
      require(take("b16"), "needs .b16");
    } else if (form_.is_store) {
      form_.shape = Shape::m16n8;
      require(take("m16n8") && take("b8"), "needs .m8n8.b16 or .m16n8.b8");
      require(form_.transpose, ".m16n8 needs .trans");
      form_.element_bits = 8;
    } else {
      form_.shape = take("m16n16") ? Shape::m16n16 : Shape::m8n16;
      const bool is_16 = form_.shape == Shape::m16n16;
      require(is_16 || take("m8n16"), "needs a shape");
      require(form_.transpose == is_16, ".trans and .m16n16 go together");
      require(form_.matrices <= (is_16 ? 2 : 4), ".m16n16 has no .x4");
      if (take("b8x16")) {
        form_.element_bits = take("b6x16_p32") ? 6 : 4;
        require(form_.element_bits == 6 || take("b4x16_p64"), "needs .b6x16_p32 or .b4x16_p64");
      } else {
        require(is_16 && take("b8"), "needs .b8x16 and a source format");
        form_.element_bits = 8;
      }
    }
    require(left_.empty(), left_.empty() ? "" : "unknown modifier ." + left_[0]);
    const int halves = form_.shape == Shape::m16n16 ? 2 : 1;
    form_.registers = form_.matrices * halves;
    form_.rows = 8 * halves * form_.matrices;
    form_.row_bytes = form_.element_bits == 16 ? 16 : 2 * form_.element_bits;
    check_operands();
    return form_;
  }

 private:
  bool take(std::string_view name) {
    for (auto at = left_.begin(); at != left_.end(); ++at) {
      if (*at != name) continue;
      left_.erase(at);
      return true;
    }
    return false;
  }

  void check_operands() const {
    using Kind = ptx::Operand::Kind;
    require(in_.operands.size() == 2, "needs two operands");
    const ptx::Operand& fragment = in_.operands[form_.is_store ? 1 : 0];
    const ptx::Operand& address = in_.operands[form_.is_store ? 0 : 1];
    require(address.kind == Kind::address, "needs an address");
    require(fragment.kind == Kind::vector && int(fragment.items.size()) == form_.registers,
            "needs a vector of " + std::to_string(form_.registers) + " registers");
  }

  std::vector<std::string> left_;
  MatrixForm form_;
};

// 16 elements of 8 bits from packed ones of 6 or 4.
void expand(int bits, const uint8_t* in, uint8_t* out) {
  if (bits >= 8) {
    std::memcpy(out, in, kMatrixRowBytes);
    return;
  }
  for (int i = 0; i < 16; ++i) {
    const int at = i * bits;
    const uint32_t pair =
        uint32_t(in[at / 8]) | uint32_t(at / 8 + 1 < 2 * bits ? in[at / 8 + 1] : 0) << 8;
    out[i] = uint8_t(pair >> (at % 8) & ((1u << bits) - 1));
  }
}

struct Byte { int row, column; };

// The place in the rows of byte e of register r in lane t. Group g = t / 4 has lanes q = t % 4.
Byte place(const MatrixForm& form, int t, int r, int e) {
  using Shape = MatrixForm::Shape;
  const int g = t / 4, q = t % 4;
  switch (form.shape) {
    case Shape::m8n8:
      if (form.transpose) return {8 * r + 2 * q + e / 2, 2 * g + e % 2};
      return {8 * r + g, 4 * q + e};
    case Shape::m16n16: return {16 * (r / 2) + 4 * q + e, g + 8 * (r % 2)};
    case Shape::m8n16: return {8 * r + g, 4 * q + e};
    case Shape::m16n8: return {8 * r + 2 * q + e % 2, g + 8 * (e / 2)};
  }
  return {};
}

}  // namespace

MatrixForm decode_matrix(const ptx::Instruction& instruction) {
  return Decoder(instruction).decode();
}

void rows_to_fragment(const MatrixForm& form, const uint8_t (*rows)[kMatrixRowBytes],
                      uint32_t* const* registers) {
  uint8_t full[kLanes][kMatrixRowBytes];
  for (int i = 0; i < form.rows; ++i) expand(form.element_bits, rows[i], full[i]);
  for (int r = 0; r < form.registers; ++r) {
    if (form.shape == MatrixForm::Shape::m8n8 && !form.transpose) {  // lanes are the rows in order
      std::memcpy(registers[r], full[8 * r], kLanes * 4);
      continue;
    }
    for (int t = 0; t < kLanes; ++t) {
      uint32_t word = 0;
      for (int e = 0; e < 4; ++e) {
        const Byte from = place(form, t, r, e);
        word |= uint32_t(full[from.row][from.column]) << (8 * e);
      }
      registers[r][t] = word;
    }
  }
}

void fragment_to_rows(const MatrixForm& form, const uint32_t* const* registers,
                      uint8_t (*rows)[kMatrixRowBytes]) {
  for (int r = 0; r < form.registers; ++r) {
    for (int t = 0; t < kLanes; ++t) {
      for (int e = 0; e < 4; ++e) {
        const Byte to = place(form, t, r, e);
        rows[to.row][to.column] = uint8_t(registers[r][t] >> (8 * e));
      }
    }
  }
}

void check_movmatrix(const ptx::Instruction& instruction) {
  std::vector<std::string> left = instruction.modifiers;
  for (const char* name : {"sync", "aligned", "m8n8", "trans", "b16"}) {
    if (std::erase(left, name) != 1) {
      throw ptx::Error(instruction.line, instruction.spelling() + ": needs ." + name);
    }
  }
  if (!left.empty() || instruction.operands.size() != 2) {
    throw ptx::Error(instruction.line, instruction.spelling() + ": unknown form");
  }
}

void transpose_fragment(const uint32_t* from, uint32_t* to) {
  MatrixForm form;
  form.transpose = true;
  uint8_t rows[8][kMatrixRowBytes];
  std::memcpy(rows, from, sizeof rows);
  rows_to_fragment(form, rows, &to);
}

}  // namespace ptxsim
