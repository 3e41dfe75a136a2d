// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>
#include <cstring>

#include "tensor/wgmma.h"

namespace ptxsim {
namespace {

// The product is computed for 8 columns at a time: a block is a matrix of its own, of n = 8.
constexpr int kBlock = 8, kMaxK = 32;

// Rows of 32 bytes to rows of k numbers.
template <typename T>
void unpack_rows(Element element, const uint8_t* bytes, int rows, T* out) {
  const int k = kWgmmaRowBytes * 8 / bits_of(element);
  for (int i = 0; i < rows; i += 4) {
    unpack(element, false, bytes + i * kWgmmaRowBytes, out + i * k);
  }
}

// A row of A is two units of 16 bytes, from the registers of its lanes: r and r + 1 hold the first
// unit of rows 0 to 7 and 8 to 15, r + 2 and r + 3 the second.
void registers_to_rows(const WgmmaWarp (&warps)[kWgmmaWarps], uint8_t* rows) {
  for (int w = 0; w < kWgmmaWarps; ++w) {
    for (int r = 0; r < 4; ++r) {
      const uint8_t* lanes = static_cast<const uint8_t*>(warps[w].a[r]);
      for (int g = 0; g < 8; ++g) {
        uint8_t* row = rows + (16 * w + 8 * (r % 2) + g) * kWgmmaRowBytes;
        std::memcpy(row + 16 * (r / 2), lanes + 16 * g, 16);
      }
    }
  }
}

// A as a dense 64 x k matrix.
template <typename T>
void unpack_a(const WgmmaForm& f, const uint8_t* bytes, T* out) {
  if (!f.a_is_m_major) return unpack_rows(f.a, bytes, kWgmmaRows, out);
  T by_column[kWgmmaRows * kMaxK];  // k rows of 64
  unpack_rows(f.a, bytes, kWgmmaRows, by_column);
  for (int l = 0; l < f.k; ++l) {
    for (int i = 0; i < kWgmmaRows; ++i) out[i * f.k + l] = by_column[l * kWgmmaRows + i];
  }
}

// The block of 8 columns of B: a dense k x 8 matrix.
template <typename T>
void unpack_b(const WgmmaForm& f, const uint8_t* bytes, int block, T* out) {
  if (f.b_is_n_major) {  // a segment is what one k has of the block
    uint8_t units[16 * 16];
    for (int l = 0; l < f.k; ++l) {
      std::memcpy(units + 16 * l, bytes + 16 * (l * (f.n / kBlock) + block), 16);
    }
    return unpack_rows(f.b, units, kBlock, out);
  }
  T by_column[kBlock * kMaxK];  // 8 rows of k
  unpack_rows(f.b, bytes + block * kBlock * kWgmmaRowBytes, kBlock, by_column);
  for (int l = 0; l < f.k; ++l) {
    for (int j = 0; j < kBlock; ++j) out[l * kBlock + j] = by_column[j * f.k + l];
  }
}

// The block of D as a dense 64 x 8 matrix, and back. Two registers of f32 or s32 are 8 rows of it,
// their lanes in turn; one of f16 is, as it is.
template <typename T>
void gather_d(int block, const WgmmaWarp (&warps)[kWgmmaWarps], T* d) {
  for (int part = 0; part < 2 * kWgmmaWarps; ++part) {
    void* const* registers = warps[part / 2].d + 4 * block + 2 * (part % 2);
    const T *even = static_cast<const T*>(registers[0]), *odd = static_cast<const T*>(registers[1]);
    for (int t = 0; t < 32; ++t) {
      d[64 * part + 2 * t] = even[t];
      d[64 * part + 2 * t + 1] = odd[t];
    }
  }
}

template <typename T>
void scatter_d(int block, const T* d, const WgmmaWarp (&warps)[kWgmmaWarps]) {
  for (int part = 0; part < 2 * kWgmmaWarps; ++part) {
    void* const* registers = warps[part / 2].d + 4 * block + 2 * (part % 2);
    T *even = static_cast<T*>(registers[0]), *odd = static_cast<T*>(registers[1]);
    for (int t = 0; t < 32; ++t) {
      even[t] = d[64 * part + 2 * t];
      odd[t] = d[64 * part + 2 * t + 1];
    }
  }
}

uint16_t* half_tile(int block, int part, const WgmmaWarp (&warps)[kWgmmaWarps]) {
  return static_cast<uint16_t*>(warps[part / 2].d[2 * block + part % 2]);
}

void multiply_float(const WgmmaForm& f, bool accumulate, const uint8_t* a, const uint8_t* b,
                    const WgmmaWarp (&warps)[kWgmmaWarps]) {
  alignas(64) float dense_a[kWgmmaRows * kMaxK], dense_b[kMaxK * kBlock], d[kWgmmaRows * kBlock];
  unpack_a(f, a, dense_a);
  if (f.negate_a != f.negate_b) {  // a product changes its sign with either
    for (int i = 0; i < kWgmmaRows * f.k; ++i) dense_a[i] = -dense_a[i];
  }
  const bool is_half = f.d == Accumulator::f16;
  for (int block = 0; block < f.n / kBlock; ++block) {
    unpack_b(f, b, block, dense_b);
    if (!accumulate) {
      std::fill_n(d, kWgmmaRows * kBlock, 0.f);
    } else if (is_half) {
      for (int p = 0; p < 8; ++p) widen_f16(half_tile(block, p, warps), 64, d + 64 * p);
    } else {
      gather_d(block, warps, d);
    }
    multiply(kWgmmaRows, kBlock, f.k, dense_a, f.k, dense_b, d);
    if (is_half) {
      for (int p = 0; p < 8; ++p) narrow_f16(d + 64 * p, 64, half_tile(block, p, warps));
    } else {
      scatter_d(block, d, warps);
    }
  }
}

// Bits of A and of the block of B in common, counted.
void multiply_bits(const uint8_t* a, const uint8_t* b, int block, int32_t* sum) {
  for (int i = 0; i < kWgmmaRows; ++i) {
    for (int j = 0; j < kBlock; ++j) {
      uint64_t x[4], y[4];
      std::memcpy(x, a + i * kWgmmaRowBytes, sizeof x);
      std::memcpy(y, b + (block * kBlock + j) * kWgmmaRowBytes, sizeof y);
      int count = 0;
      for (int w = 0; w < 4; ++w) count += std::popcount(x[w] & y[w]);
      sum[i * kBlock + j] = count;
    }
  }
}

void multiply_integer(const WgmmaForm& f, bool accumulate, const uint8_t* a, const uint8_t* b,
                      const WgmmaWarp (&warps)[kWgmmaWarps]) {
  constexpr int kSize = kWgmmaRows * kBlock;
  alignas(64) int32_t dense_a[kWgmmaRows * kMaxK], dense_b[kMaxK * kBlock], sum[kSize],
      d[kSize] = {};
  const bool is_bits = f.a == Element::b1;
  if (!is_bits) unpack_a(f, a, dense_a);
  for (int block = 0; block < f.n / kBlock; ++block) {
    if (is_bits) {
      multiply_bits(a, b, block, sum);
    } else {
      unpack_b(f, b, block, dense_b);
      std::fill_n(sum, kSize, 0);
      multiply(kWgmmaRows, kBlock, f.k, dense_a, f.k, dense_b, sum);
    }
    if (accumulate) gather_d(block, warps, d);
    if (f.satfinite) {
      for (int i = 0; i < kSize; ++i) {
        const int64_t exact = (accumulate ? int64_t(d[i]) : 0) + sum[i];
        sum[i] = int32_t(std::clamp<int64_t>(exact, INT32_MIN, INT32_MAX));
      }
    } else if (accumulate) {
      for (int i = 0; i < kSize; ++i) sum[i] = int32_t(uint32_t(d[i]) + uint32_t(sum[i]));
    }
    scatter_d(block, sum, warps);
  }
}

}  // namespace

void multiply_wgmma(const WgmmaForm& f, bool accumulate, const uint8_t* a, const uint8_t* b,
                    const WgmmaWarp (&warps)[kWgmmaWarps]) {
  uint8_t rows[kWgmmaRows * kWgmmaRowBytes];
  if (f.a_in_registers) {
    registers_to_rows(warps, rows);
    a = rows;
  }
  if (f.d == Accumulator::s32) {
    multiply_integer(f, accumulate, a, b, warps);
  } else {
    multiply_float(f, accumulate, a, b, warps);
  }
}

}  // namespace ptxsim
