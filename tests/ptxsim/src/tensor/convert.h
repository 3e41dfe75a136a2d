// SPDX-License-Identifier: Apache-2.0
// `cvt` and `cvt.pack` (PTX ISA 9.0, 9.7.9.21 and 9.7.9.22): decoded once, then run on 32 lanes.
#pragma once

#include <cstdint>
#include <vector>

#include "ptx/ir.h"
#include "tensor/formats.h"

namespace ptxsim {

enum class Number : uint8_t { u8, u16, u32, u64, s8, s16, s32, s64, f16, bf16, f32, f64 };
int size_of(Number number);

struct ConvertForm {
  // dst and src[i] are arrays of 32 lanes of dst_bytes and src_bytes[i]; lanes outside `mask` keep
  // what they hold. dst may be one of the sources if it is as wide.
  void (*run)(const ConvertForm&, void* dst, const void* const* src, uint32_t mask) = nullptr;

  // Operands after d, a vector {a, b, e, f} being four. The widths are those of the instruction's
  // types until bind() gives those of the registers.
  int sources = 1;
  uint8_t dst_bytes = 0, src_bytes[5] = {};

  // Takes the widths of the registers. PTX lets them be wider than the type, but not for bf16, tf32
  // and packed types: throws ptx::Error then, and if they are narrower.
  void bind(uint32_t line, int dst, const std::vector<int>& src);

  // What decode_convert found out, for the kernels.
  using Kernel = void (*)(const ConvertForm&, void* dst, const void* const* src);
  Kernel kernel = nullptr;                          // on 32 lanes of the types' own widths
  uint8_t dst_type_bytes = 0, src_type_bytes[5] = {};
  bool dst_is_signed = false;                       // widen with the sign
  bool dst_is_exact = false, src_is_exact = false;  // registers may not be wider
  EncodeOptions encode;                             // rounding .rn to .rs, .satfinite, .relu
  bool to_integral = false;                     // .rni, .rzi, .rmi, .rpi: encode.rounding is theirs
  bool ftz = false, sat = false;
  uint64_t nan_integer = 0;                     // what NaN becomes as an integer
  Format from = Format::f32, to = Format::f32;  // element formats of packed forms
  int elements = 1;                             // of the packed destination
  int field_bits = 0;                           // of one of them in the destination
  int source_field_bits = 0;                    // and in a packed source
  int pack_bits = 0;                            // cvt.pack
  bool pack_is_signed = false;
};

ConvertForm decode_convert(const ptx::Instruction& instruction);  // throws ptx::Error

// Kernels, in convert_kernels.cpp.
ConvertForm::Kernel basic_kernel(const ConvertForm& form, Number to, Number from);
ConvertForm::Kernel
pack_elements_kernel();  // f32 sources, or one packed source, to packed elements
ConvertForm::Kernel pack_integers_kernel();  // cvt.pack
void run_convert(const ConvertForm& form, void* dst, const void* const* src, uint32_t mask);

}  // namespace ptxsim
