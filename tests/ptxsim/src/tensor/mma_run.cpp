// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

#include "tensor/mma.h"

namespace ptxsim {
namespace {

// A register holds kPerRow elements of each of 8 rows: its lanes, read one after the other, are an
// 8 x kPerRow tile of A, or of B transposed, row by row.
template <typename T>
const T* tile_of(const MmaForm& f, Element element, const void* lanes, T* buffer) {
  if constexpr (std::is_same_v<T, double>) {
    return static_cast<const double*>(lanes);
  } else {
    unpack(element, f.in_containers, lanes, buffer);
    return buffer;
  }
}

template <int kPerRow, typename T>
void gather_a(const MmaForm& f, const MmaOperands& o, T* a) {
  alignas(64) T buffer[8 * kPerRow];
  const int row_tiles = f.m / 8;
  for (int r = 0; r < f.a_registers; ++r) {
    const T* tile = tile_of(f, f.a, o.a[r], buffer);
    T* to = a + r % row_tiles * 8 * f.k + r / row_tiles * kPerRow;
    for (int g = 0; g < 8; ++g) std::memcpy(to + g * f.k, tile + g * kPerRow, kPerRow * sizeof(T));
  }
}

template <int kPerRow, typename T>
void gather_b(const MmaForm& f, const MmaOperands& o, T* b) {
  alignas(64) T buffer[8 * kPerRow];
  for (int r = 0; r < f.b_registers; ++r) {
    const T* tile = tile_of(f, f.b, o.b[r], buffer);
    T* to = b + r * kPerRow * 8;
    for (int l = 0; l < kPerRow; ++l) {
      for (int g = 0; g < 8; ++g) to[l * 8 + g] = tile[g * kPerRow + l];
    }
  }
}

// Both matrices, dense: A m x k, B k x 8.
template <typename T>
void gather(const MmaForm& f, const MmaOperands& o, T* a, T* b) {
  switch (f.k / f.b_registers) {
    case 4: gather_a<4>(f, o, a); return gather_b<4>(f, o, b);
    case 8: gather_a<8>(f, o, a); return gather_b<8>(f, o, b);
    case 16: gather_a<16>(f, o, a); return gather_b<16>(f, o, b);
    default: gather_a<32>(f, o, a); return gather_b<32>(f, o, b);
  }
}

constexpr int kMaxK = 64;  // of what gather() takes

// Two registers make 8 rows of C: their lanes, taken in turn, are the tile row by row.
template <typename T>
void gather_c(const MmaForm& f, const void* const* registers, T* c) {
  for (int r = 0; r < f.m / 8; ++r) {
    const T* even = static_cast<const T*>(registers[2 * r]);
    const T* odd = static_cast<const T*>(registers[2 * r + 1]);
    for (int t = 0; t < 32; ++t) {
      c[64 * r + 2 * t] = even[t];
      c[64 * r + 2 * t + 1] = odd[t];
    }
  }
}

template <typename T>
void scatter_d(const MmaForm& f, const T* d, void* const* registers) {
  for (int r = 0; r < f.m / 8; ++r) {
    T* even = static_cast<T*>(registers[2 * r]);
    T* odd = static_cast<T*>(registers[2 * r + 1]);
    for (int t = 0; t < 32; ++t) {
      even[t] = d[64 * r + 2 * t];
      odd[t] = d[64 * r + 2 * t + 1];
    }
  }
}

void load_float(const MmaForm& f, const MmaOperands& o, float* c) {
  if (f.c == Accumulator::f32) return gather_c<float>(f, o.c, c);
  for (int r = 0; r < 2; ++r) widen_f16(static_cast<const uint16_t*>(o.c[r]), 64, c + 64 * r);
}

void store_float(const MmaForm& f, const float* d, const MmaOperands& o) {
  if (f.d == Accumulator::f32) return scatter_d<float>(f, d, o.d);
  for (int r = 0; r < 2; ++r) narrow_f16(d + 64 * r, 64, static_cast<uint16_t*>(o.d[r]));
}

}  // namespace

void run_mma_float(const MmaForm& f, const MmaOperands& o) {
  alignas(64) float a[16 * kMaxK], b[8 * kMaxK], c[16 * 8];
  gather(f, o, a, b);
  load_float(f, o, c);
  multiply(16, 8, f.k, a, f.k, b, c);
  store_float(f, c, o);
}

// The products of one block of k that share their scales are summed as above, from zero; the sum
// times both scales, exact in double but for what the sum of e4m3 and e5m2 products has rounded, is
// then added to the accumulator with one rounding to f32.
void run_mma_scaled(const MmaForm& f, const MmaOperands& o) {
  alignas(64) float a[16 * kMaxK], b[8 * kMaxK], c[16 * 8];
  gather(f, o, a, b);
  load_float(f, o, c);
  const int block = f.k / f.scale_blocks;
  const auto scale = [&f](uint32_t word, int byte) {
    return decode(f.scale, word >> (8 * byte) & 0xff);
  };
  for (int s = 0; s < f.scale_blocks; ++s) {
    float sum[16 * 8] = {};
    multiply(16, 8, block, a + s * block, f.k, b + s * block * 8, sum);
    double by_row[16], by_column[8];
    for (int i = 0; i < 16; ++i) {
      const int lane = 4 * (i % 8) + 2 * o.select_a.thread + i / 8;
      by_row[i] = scale(o.scale_a[lane], o.select_a.byte + s);
    }
    for (int j = 0; j < 8; ++j) {
      by_column[j] = scale(o.scale_b[4 * j + o.select_b.thread], o.select_b.byte + s);
    }
    for (int i = 0; i < 16; ++i) {
      for (int j = 0; j < 8; ++j) {
        float& to = c[8 * i + j];
        to = float(double(to) + double(sum[8 * i + j]) * by_row[i] * by_column[j]);
      }
    }
  }
  store_float(f, c, o);
}

void run_mma_integer(const MmaForm& f, const MmaOperands& o) {
  alignas(64) int32_t a[16 * kMaxK], b[8 * kMaxK], c[16 * 8], sum[16 * 8] = {};
  gather(f, o, a, b);
  gather_c<int32_t>(f, o.c, c);
  multiply(f.m, 8, f.k, a, f.k, b, sum);  // at most 32 * 255 * 255: does not wrap
  for (int i = 0; i < 8 * f.m; ++i) {
    const int64_t exact = int64_t(c[i]) + sum[i];
    c[i] = f.satfinite ? int32_t(std::clamp<int64_t>(exact, INT32_MIN, INT32_MAX)) : int32_t(exact);
  }
  scatter_d<int32_t>(f, c, o.d);
}

// Rows of A and columns of B are words of 32 bits: those of register r hold bits 128 r' to 128 r' +
// 127, where r' counts the registers of the same rows.
void run_mma_bits(const MmaForm& f, const MmaOperands& o) {
  int32_t c[16 * 8];
  gather_c<int32_t>(f, o.c, c);
  const int words = f.k / 32, row_tiles = f.m / 8;
  for (int i = 0; i < f.m; ++i) {
    for (int j = 0; j < 8; ++j) {
      uint32_t count = 0;
      for (int w = 0; w < words; ++w) {
        const uint32_t* a = static_cast<const uint32_t*>(o.a[w / 4 * row_tiles + i / 8]);
        const uint32_t* b = static_cast<const uint32_t*>(o.b[w / 4]);
        const uint32_t x = a[4 * (i % 8) + w % 4], y = b[4 * j + w % 4];
        count += uint32_t(std::popcount(f.is_xor ? x ^ y : x & y));
      }
      c[8 * i + j] = int32_t(uint32_t(c[8 * i + j]) + count);
    }
  }
  scatter_d<int32_t>(f, c, o.d);
}

void run_mma_double(const MmaForm& f, const MmaOperands& o) {
  alignas(64) double a[16 * kMaxK], b[8 * kMaxK], c[16 * 8];
  gather(f, o, a, b);
  gather_c<double>(f, o.c, c);
  multiply(f.m, 8, f.k, a, f.k, b, c);
  scatter_d<double>(f, c, o.d);
}

}  // namespace ptxsim
