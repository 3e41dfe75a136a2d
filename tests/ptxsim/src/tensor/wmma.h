// SPDX-License-Identifier: Apache-2.0
// wmma.load, wmma.store and wmma.mma (PTX ISA 9.0, 9.7.14.4), which nvcc makes of the C++
// nvcuda::wmma.
//
// The ISA fixes how many registers a fragment has and leaves open which lane holds what. Here word
// w of a matrix is in register w / 32 of lane w % 32, where A is taken row by row, B column by
// column, C and D row by row; f16 operands have 8 registers in every shape, which repeat the
// matrix.
#pragma once

#include <cstdint>

#include "ptx/ir.h"
#include "tensor/fragments.h"

namespace ptxsim {

enum class WmmaMatrix : uint8_t { a, b, c };  // c: C of a load, D of a store

// wmma.load and wmma.store.
struct WmmaTransfer {
  enum class Space : uint8_t { generic, global, shared };
  WmmaMatrix matrix = WmmaMatrix::a;
  bool is_store = false;
  Space space = Space::generic;
  bool is_row_major = true;  // in memory
  int rows = 0, columns = 0;
  int element_bits = 0;
  int registers = 0, register_bytes = 4;
  // A register is read or written in this many pieces of piece_bytes, from its lowest bits up.
  int pieces = 0, piece_bytes = 0;

  int64_t default_stride() const { return is_row_major ? columns : rows; }  // without the operand
  // Where piece `piece` of register r in a lane lies, in bytes from the pointer; `stride` is the
  // instruction's, in elements.
  int64_t offset(int lane, int r, int piece, int64_t stride) const;
  // Registers of a load may repeat words, so that only the first of them need be stored.
  int distinct_registers() const;
};
WmmaTransfer decode_wmma_transfer(const ptx::Instruction& instruction);  // throws ptx::Error

// wmma.mma.
struct WmmaForm {
  int m = 0, n = 0, k = 0;
  Element a = Element::f16, b = Element::f16;
  Accumulator c = Accumulator::f32, d = Accumulator::f32;
  bool satfinite = false, is_xor = false;
  int a_registers = 0, b_registers = 0, c_registers = 0, d_registers = 0, register_bytes = 4;
};
WmmaForm decode_wmma(const ptx::Instruction& instruction);  // throws ptx::Error
// Registers are arrays of 32 lanes of register_bytes; d may be c.
void run_wmma(const WmmaForm& form, void* const* d, const void* const* a, const void* const* b,
              const void* const* c);

}  // namespace ptxsim
