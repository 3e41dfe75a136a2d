// SPDX-License-Identifier: Apache-2.0
// wgmma.mma_async of a warpgroup, four warps (PTX ISA 9.0, 9.7.15): decoding, the shared-memory
// addresses that a matrix descriptor stands for, and the product of what was read there.
//
// D is 64 x n; warp w has its rows 16w to 16w + 15 in the layout of mma's D, 8 columns after
// another:
// register r of f32 and s32 holds row g + 8 (r / 2 % 2), column 8 (r / 4) + 2q + r % 2 of lane
// t = 4g + q; of f16, row g + 8 (r % 2) and columns 8 (r / 2) + 2q and the next. A in registers is
// as in mma. Results accumulate as in fragments.h.
#pragma once

#include <cstdint>
#include <string>

#include "ptx/ir.h"
#include "tensor/fragments.h"

namespace ptxsim {

constexpr int kWgmmaRows = 64, kWgmmaWarps = 4, kWgmmaRowBytes = 32;  // a row of A, a column of B

struct WgmmaForm {
  int n = 0, k = 0;
  Element a = Element::f16, b = Element::f16;
  Accumulator d = Accumulator::f32;
  bool a_in_registers = false;  // operand 1 is a vector; else, as operand 2, a descriptor
  bool satfinite = false;
  bool negate_a = false, negate_b = false;          // imm-scale-a, imm-scale-b of -1
  bool a_is_m_major = false, b_is_n_major = false;  // imm-trans-a, imm-trans-b
  int d_registers = 0;                              // A in registers always has four
};

// Operands: d, a or a descriptor, b descriptor, scale-d (a predicate or an integer: false makes
// D = A B), then the immediates. Throws ptx::Error, also for sparse matrices.
WgmmaForm decode_wgmma(const ptx::Instruction& instruction);

struct MatrixDescriptor {
  uint32_t start = 0, leading = 0, stride = 0;  // bytes
  uint32_t base_offset = 0;
  uint32_t span = 0;                            // of the swizzle: 0, 32, 64, 128 bytes
  std::string problem;                          // empty, or why it is no descriptor
};
MatrixDescriptor decode_descriptor(uint64_t bits);

// The shared addresses of the matrix in segments of 16 bytes, two for each of the `rows` rows of A
// or columns of B:
//   K-major   segment 2 i + j: elements 16-byte unit j along k of row i
//   MN-major  segment k * (rows / 8) + j: 8 elements (of 16 bits) from row 8 j on, at k
void segment_addresses(const MatrixDescriptor& descriptor, bool is_mn_major, int rows,
                       uint32_t* addresses);

// Registers of one warp, each 32 lanes of 4 bytes.
struct WgmmaWarp {
  void* d[128] = {};
  const void* a[4] = {};
};

// d = a b, or d += a b. `a` (unless it is in registers) and `b` are the segments of the two
// matrices one after the other.
void multiply_wgmma(const WgmmaForm& form, bool accumulate, const uint8_t* a, const uint8_t* b,
                    const WgmmaWarp (&warps)[kWgmmaWarps]);

}  // namespace ptxsim
