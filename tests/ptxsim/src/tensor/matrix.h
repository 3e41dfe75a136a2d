// SPDX-License-Identifier: Apache-2.0
// ldmatrix, stmatrix and movmatrix (PTX ISA 9.0, 9.7.14.5.15 to .17): which lane gives which
// address, and how rows of 16 bytes become fragments. Reading and writing memory is the caller's.
#pragma once

#include <cstdint>

#include "ptx/ir.h"

namespace ptxsim {

constexpr int kMatrixRowBytes = 16;  // rows are aligned to it

struct MatrixForm {
  enum class Shape : uint8_t {
    m8n8,    // .b16, of ldmatrix and stmatrix
    m16n16,  // 8 bits and less, transposed, of ldmatrix
    m8n16,   // 6 and 4 bits, of ldmatrix
    m16n8,   // .b8, transposed, of stmatrix
  };
  Shape shape = Shape::m8n8;
  bool is_store = false;
  bool is_generic = false;  // no .shared: the addresses are generic
  bool transpose = false;
  int matrices = 1;         // .x1, .x2, .x4
  int element_bits = 16;    // in memory: 16, 8, 6 (.b6x16_p32), 4 (.b4x16_p64)
  int registers = 1;        // of the fragment
  int rows = 8;             // lanes 0 to rows - 1 give the address of one row each
  int row_bytes = 16;       // read or written of a row; what is left of the 16 bytes is padding
};

MatrixForm decode_matrix(
    const ptx::Instruction& instruction);  // ldmatrix, stmatrix; throws ptx::Error

// Of all lanes: rows[i] holds what is at the address of lane i; registers[r] are 32 lanes.
void rows_to_fragment(const MatrixForm& form, const uint8_t (*rows)[kMatrixRowBytes],
                      uint32_t* const* registers);
void fragment_to_rows(const MatrixForm& form, const uint32_t* const* registers,
                      uint8_t (*rows)[kMatrixRowBytes]);

void check_movmatrix(
    const ptx::Instruction& instruction);  // throws ptx::Error unless it is the one form
void transpose_fragment(const uint32_t* from, uint32_t* to);  // movmatrix; `to` may be `from`

}  // namespace ptxsim
