// SPDX-License-Identifier: Apache-2.0
// mma.sync of a warp (PTX ISA 9.0, 9.7.14.5): all dense shapes and types, with block scaling.
//
// Fragments, for lane t of a group g = t / 4 with its place q = t % 4 there, where a register holds
// P elements (e = 0 .. P-1) and r counts registers:
//   A, m16   row g + 8 (r % 2), column 4P (r / 2) + qP + e; m8: row g, column 4P r + qP + e
//   B        column g, row 4P r + qP + e
//   C, D     row g + 8 (r / 2), column 2q + r % 2; f16: row g + 8r, column 2q + e
// m8n8k4 with f16 is four products, one for each quad pair; see mma_quads.cpp.
#pragma once

#include <cstdint>
#include <string>

#include "ptx/ir.h"
#include "tensor/formats.h"
#include "tensor/fragments.h"

namespace ptxsim {

// {byte-id, thread-id} of a scale operand.
struct ScaleSelector { int byte = 0, thread = 0; };

// Registers: arrays of 32 lanes of 4 bytes, or of 8 bytes for f64. d may be c.
struct MmaOperands {
  void* d[8] = {};
  const void *a[8] = {}, *b[4] = {}, *c[8] = {};
  const uint32_t *scale_a = nullptr, *scale_b = nullptr;
  ScaleSelector select_a, select_b;
};

struct MmaForm {
  int m = 16, n = 8, k = 0;
  Element a = Element::f16, b = Element::f16;
  Accumulator c = Accumulator::f32, d = Accumulator::f32;  // differ for m8n8k4 alone
  bool a_is_col = false, b_is_col = true;                  // of m8n8k4 alone
  bool satfinite = false;
  bool is_xor = false;                                     // b1: .xor.popc, else .and.popc
  bool in_containers = false;                              // .kind::f8f6f4, .kind::mxf8f6f4
  int scale_blocks = 0;  // scales along k: of .scale_vec; 0 without .block_scale
  Format scale = Format::ue8m0;

  // Of each operand, and the bytes a lane of a register.
  int a_registers = 0, b_registers = 0, c_registers = 0, d_registers = 0;
  int register_bytes = 4;

  void (*run)(const MmaForm&, const MmaOperands&) = nullptr;

  // Empty, or what is wrong with the selectors (ISA, table 37).
  std::string check(ScaleSelector a_selector, ScaleSelector b_selector) const;
};

// Operands are d, a, b, c and, with .block_scale, scale-a, {byte, thread}, scale-b, {byte, thread};
// registers or vectors of them. Throws ptx::Error, also for mma.sp.
MmaForm decode_mma(const ptx::Instruction& instruction);

// In mma_run.cpp and mma_quads.cpp.
void run_mma_float(const MmaForm& form, const MmaOperands& operands);
void run_mma_scaled(const MmaForm& form, const MmaOperands& operands);
void run_mma_integer(const MmaForm& form, const MmaOperands& operands);
void run_mma_bits(const MmaForm& form, const MmaOperands& operands);
void run_mma_double(const MmaForm& form, const MmaOperands& operands);
void run_mma_quads(const MmaForm& form, const MmaOperands& operands);

}  // namespace ptxsim
