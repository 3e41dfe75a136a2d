// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "tensor/wgmma.h"

namespace ptxsim {
namespace {

constexpr int kMaxN = 256;

// Rows of 32 bytes to rows of k numbers.
template <typename T>
void unpack_rows(Element element, const uint8_t* bytes, int rows, T* out) {
  const int k = kWgmmaRowBytes * 8 / bits_of(element);
  for (int i = 0; i < rows; i += 4) unpack(element, false, bytes + i * kWgmmaRowBytes, out + i * k);
}

template <typename T>
void transpose(const T* from, int rows, int columns, T* to) {
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < columns; ++j) to[j * rows + i] = from[i * columns + j];
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

// D in registers as a dense 64 x n matrix, and back. Two registers of f32 or s32 are 8 x 8 numbers,
// their lanes in turn; one of f16 is, as it is.
template <typename T>
void gather_d(const WgmmaForm& f, const WgmmaWarp (&warps)[kWgmmaWarps], T* d) {
  for (int w = 0; w < kWgmmaWarps; ++w) {
    for (int r = 0; r < f.d_registers; r += 2) {
      const T* even = static_cast<const T*>(warps[w].d[r]);
      const T* odd = static_cast<const T*>(warps[w].d[r + 1]);
      T* to = d + (16 * w + 8 * (r / 2 % 2)) * f.n + 8 * (r / 4);
      for (int t = 0; t < 32; ++t) {
        to[t / 4 * f.n + t % 4 * 2] = even[t];
        to[t / 4 * f.n + t % 4 * 2 + 1] = odd[t];
      }
    }
  }
}

template <typename T>
void scatter_d(const WgmmaForm& f, const T* d, const WgmmaWarp (&warps)[kWgmmaWarps]) {
  for (int w = 0; w < kWgmmaWarps; ++w) {
    for (int r = 0; r < f.d_registers; r += 2) {
      T* even = static_cast<T*>(warps[w].d[r]);
      T* odd = static_cast<T*>(warps[w].d[r + 1]);
      const T* from = d + (16 * w + 8 * (r / 2 % 2)) * f.n + 8 * (r / 4);
      for (int t = 0; t < 32; ++t) {
        even[t] = from[t / 4 * f.n + t % 4 * 2];
        odd[t] = from[t / 4 * f.n + t % 4 * 2 + 1];
      }
    }
  }
}

void gather_half(const WgmmaForm& f, const WgmmaWarp (&warps)[kWgmmaWarps], float* d) {
  for (int w = 0; w < kWgmmaWarps; ++w) {
    for (int r = 0; r < f.d_registers; ++r) {
      const auto* from = static_cast<const uint16_t*>(warps[w].d[r]);
      float* to = d + (16 * w + 8 * (r % 2)) * f.n + 8 * (r / 2);
      for (int g = 0; g < 8; ++g) widen_f16(from + 8 * g, 8, to + g * f.n);
    }
  }
}

void scatter_half(const WgmmaForm& f, const float* d, const WgmmaWarp (&warps)[kWgmmaWarps]) {
  for (int w = 0; w < kWgmmaWarps; ++w) {
    for (int r = 0; r < f.d_registers; ++r) {
      auto* to = static_cast<uint16_t*>(warps[w].d[r]);
      const float* from = d + (16 * w + 8 * (r % 2)) * f.n + 8 * (r / 2);
      for (int g = 0; g < 8; ++g) narrow_f16(from + g * f.n, 8, to + 8 * g);
    }
  }
}

// The two matrices, dense: A 64 x k, B k x n.
template <typename T>
void unpack_operands(const WgmmaForm& f, const uint8_t* a, const uint8_t* b, T* dense_a, T* dense_b,
                     T* scratch) {
  if (f.a_is_m_major) {
    unpack_rows(f.a, a, kWgmmaRows, scratch);  // k rows of 64
    transpose(scratch, f.k, kWgmmaRows, dense_a);
  } else {
    unpack_rows(f.a, a, kWgmmaRows, dense_a);
  }
  if (f.b_is_n_major) {
    unpack_rows(f.b, b, f.n, dense_b);
  } else {
    unpack_rows(f.b, b, f.n, scratch);  // n rows of k
    transpose(scratch, f.n, f.k, dense_b);
  }
}

struct Buffers {
  alignas(64) float a[kWgmmaRows * 32], b[kMaxN * 32], scratch[kMaxN * 32], d[kWgmmaRows * kMaxN];
};

void multiply_float(const WgmmaForm& f, bool accumulate, const uint8_t* a, const uint8_t* b,
                    const WgmmaWarp (&warps)[kWgmmaWarps]) {
  static thread_local Buffers m;
  unpack_operands(f, a, b, m.a, m.b, m.scratch);
  if (f.negate_a != f.negate_b) {  // a product changes its sign with either
    for (int i = 0; i < kWgmmaRows * f.k; ++i) m.a[i] = -m.a[i];
  }
  const bool is_half = f.d == Accumulator::f16;
  if (!accumulate) {
    std::fill_n(m.d, kWgmmaRows * f.n, 0.f);
  } else if (is_half) {
    gather_half(f, warps, m.d);
  } else {
    gather_d<float>(f, warps, m.d);
  }
  multiply(kWgmmaRows, f.n, f.k, m.a, f.k, m.b, m.d);
  if (is_half) {
    scatter_half(f, m.d, warps);
  } else {
    scatter_d<float>(f, m.d, warps);
  }
}

// Bits of A and B in common, counted.
void multiply_bits(const WgmmaForm& f, const uint8_t* a, const uint8_t* b, int32_t* sum) {
  for (int i = 0; i < kWgmmaRows; ++i) {
    for (int j = 0; j < f.n; ++j) {
      uint64_t x[4], y[4];
      std::memcpy(x, a + i * kWgmmaRowBytes, sizeof x);
      std::memcpy(y, b + j * kWgmmaRowBytes, sizeof y);
      int count = 0;
      for (int w = 0; w < 4; ++w) count += std::popcount(x[w] & y[w]);
      sum[i * f.n + j] = count;
    }
  }
}

void multiply_integer(const WgmmaForm& f, bool accumulate, const uint8_t* a, const uint8_t* b,
                      const WgmmaWarp (&warps)[kWgmmaWarps]) {
  std::vector<int32_t> sum(size_t(kWgmmaRows * f.n)), d(size_t(kWgmmaRows * f.n));
  if (f.a == Element::b1) {
    multiply_bits(f, a, b, sum.data());
  } else {
    std::vector<int32_t> dense_a(size_t(kWgmmaRows * f.k)), dense_b(size_t(f.k * f.n)),
        scratch(dense_b);
    unpack_operands(f, a, b, dense_a.data(), dense_b.data(), scratch.data());
    multiply(kWgmmaRows, f.n, f.k, dense_a.data(), f.k, dense_b.data(), sum.data());
  }
  if (accumulate) gather_d<int32_t>(f, warps, d.data());
  for (size_t i = 0; i < d.size(); ++i) {
    const int64_t exact = int64_t(d[i]) + sum[i];
    d[i] = f.satfinite ? int32_t(std::clamp<int64_t>(exact, INT32_MIN, INT32_MAX)) : int32_t(exact);
  }
  scatter_d<int32_t>(f, d.data(), warps);
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
