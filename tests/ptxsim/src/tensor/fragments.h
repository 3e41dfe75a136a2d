// SPDX-License-Identifier: Apache-2.0
// Matrices of mma and wgmma: elements from their packed form into dense matrices, and the products.
//
// How results are accumulated is this simulator's choice, since the ISA leaves it open: products
// are exact, added to the accumulator for k = 0, 1, 2, ... in turn, each time with one rounding to
// f32 (a chain of fma). Results for f16 accumulators are rounded once, at the end. Integers are
// exact; without .satfinite they wrap, with it the exact sum is clamped. f64 is a chain of fma.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace ptxsim {

enum class Element : uint8_t {
  f64,
  tf32,
  f16,
  bf16,
  e5m2,
  e4m3,
  e3m2,
  e2m3,
  e2m1,
  u8,
  s8,
  u4,
  s4,
  b1
};
std::optional<Element> parse_element(std::string_view name);
int bits_of(Element element);

enum class Accumulator : uint8_t { f16, f32, f64, s32 };

// The elements of 128 bytes in little-endian order: of the 32 lanes of a register, or of four rows
// of 32 bytes. In containers each is in a byte of its own: e2m1 in bits 2 to 5, e2m3 and e3m2 in
// bits 0 to 5 (mma with .kind::f8f6f4 and .kind::mxf8f6f4).
constexpr int kUnpackBytes = 128;
constexpr int kMostUnpacked = 2 * kUnpackBytes;
void unpack(Element element, bool in_containers, const void* packed, float* out);
void unpack(Element element, bool in_containers, const void* packed, int32_t* out);  // u8 to s4

// c += a b; a is m x k with rows of `a_stride`, b is k x n with rows of n, c is m x n; m and n are
// multiples of 8.
void multiply(int m, int n, int k, const float* a, int a_stride, const float* b, float* c);
void multiply(int m, int n, int k, const int32_t* a, int a_stride, const int32_t* b, int32_t* c);
void multiply(int m, int n, int k, const double* a, int a_stride, const double* b, double* c);

// f16 accumulators. Rounding to nearest; NaN is 0x7fff.
void widen_f16(const uint16_t* in, int count, float* out);
void narrow_f16(const float* in, int count, uint16_t* out);

}  // namespace ptxsim
