// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>
#include <cstring>

#include "tensor/wmma.h"

namespace ptxsim {
namespace {

constexpr int kMost = 32 * 32;  // elements of a matrix: 32 x 16, or 8 x 32; b1 aside

// Registers one after the other are the matrix, packed: A and C row by row, B column by column.
template <typename T>
void load_packed(const void* const* registers, int elements, T* out) {
  for (int done = 0, r = 0; done < elements; done += 32, ++r) {
    std::memcpy(out + done, registers[r], 32 * sizeof(T));
  }
}

template <typename T>
void store_packed(const T* in, int elements, void* const* registers) {
  for (int done = 0, r = 0; done < elements; done += 32, ++r) {
    std::memcpy(registers[r], in + done, 32 * sizeof(T));
  }
}

template <typename T>
void load_operand(Element element, const void* const* registers, int elements, T* out) {
  T words[kMostUnpacked];
  const int per_register = 32 * 32 / bits_of(element);
  for (int done = 0, r = 0; done < elements; done += per_register, ++r) {
    unpack(element, false, registers[r], words);
    std::copy_n(words, std::min(per_register, elements - done), out + done);
  }
}

template <typename T>
void transpose(const T* from, int rows, int columns, T* to) {
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < columns; ++j) to[j * rows + i] = from[i * columns + j];
  }
}

void load_float(Accumulator type, const void* const* c, int elements, float* out) {
  if (type == Accumulator::f32) return load_packed(c, elements, out);
  for (int r = 0; r < elements / 64; ++r) {
    widen_f16(static_cast<const uint16_t*>(c[r]), 64, out + 64 * r);
  }
}

void store_float(Accumulator type, const float* in, int elements, void* const* d) {
  if (type == Accumulator::f32) return store_packed(in, elements, d);
  for (int r = 0; r < elements / 64; ++r) {
    narrow_f16(in + 64 * r, 64, static_cast<uint16_t*>(d[r]));
  }
}

// Rows of A and columns of B of 128 bits, four lanes each.
void multiply_bits(const WmmaForm& f, const void* const* a, const void* const* b, int32_t* sum) {
  const auto* x = static_cast<const uint32_t*>(a[0]);
  const auto* y = static_cast<const uint32_t*>(b[0]);
  for (int i = 0; i < f.m * f.n; ++i) {
    int count = 0;
    for (int w = 0; w < 4; ++w) {
      const uint32_t p = x[4 * (i / f.n) + w], q = y[4 * (i % f.n) + w];
      count += std::popcount(f.is_xor ? p ^ q : p & q);
    }
    sum[i] = count;
  }
}

}  // namespace

void run_wmma(const WmmaForm& f, void* const* d, const void* const* a, const void* const* b,
              const void* const* c) {
  const int mk = f.m * f.k, nk = f.n * f.k, mn = f.m * f.n;
  if (f.a == Element::f64) {
    double x[32], y[32], turned[32], sum[64];
    load_packed(a, mk, x);
    load_packed(b, nk, turned);
    transpose(turned, f.n, f.k, y);
    load_packed(c, mn, sum);
    multiply(f.m, f.n, f.k, x, f.k, y, sum);
    store_packed(sum, mn, d);
  } else if (f.c == Accumulator::s32) {
    int32_t x[kMost], y[kMost], turned[kMost], sum[kMost] = {}, start[kMost];
    if (f.a == Element::b1) {
      multiply_bits(f, a, b, sum);
    } else {
      load_operand(f.a, a, mk, x);
      load_operand(f.b, b, nk, turned);
      transpose(turned, f.n, f.k, y);
      multiply(f.m, f.n, f.k, x, f.k, y, sum);
    }
    load_packed(c, mn, start);
    for (int i = 0; i < mn; ++i) {
      const int64_t exact = int64_t(start[i]) + sum[i];
      sum[i] =
          f.satfinite ? int32_t(std::clamp<int64_t>(exact, INT32_MIN, INT32_MAX)) : int32_t(exact);
    }
    store_packed(sum, mn, d);
  } else {
    float x[kMost], y[kMost], turned[kMost], sum[kMost];
    load_operand(f.a, a, mk, x);
    load_operand(f.b, b, nk, turned);
    transpose(turned, f.n, f.k, y);
    load_float(f.c, c, mn, sum);
    multiply(f.m, f.n, f.k, x, f.k, y, sum);
    store_float(f.d, sum, mn, d);
  }
}

}  // namespace ptxsim
