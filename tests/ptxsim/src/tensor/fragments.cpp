// SPDX-License-Identifier: Apache-2.0
#include "tensor/fragments.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include <cstring>
#include <iterator>
#include <type_traits>

#include "core/numerics.h"

namespace ptxsim {
namespace {

struct ElementInfo {
  std::string_view name;
  int bits;
};
constexpr ElementInfo kElements[] = {
    {"f64", 64}, {"tf32", 32}, {"f16", 16}, {"bf16", 16}, {"e5m2", 8}, {"e4m3", 8}, {"e3m2", 6},
    {"e2m3", 6}, {"e2m1", 4},  {"u8", 8},   {"s8", 8},    {"u4", 4},   {"s4", 4},   {"b1", 1}};

// Decoders of 16 and 8 bits that vectorise: the magnitude is put where it belongs in an f32 and
// scaled by a power of two, which is exact for subnormal numbers too; infinities and NaN are put
// right after.
inline float scaled(uint32_t magnitude, uint32_t sign, float scale, bool is_special) {
  const uint32_t bits = ww::float_bits(ww::bits_float(magnitude) * scale);
  return ww::bits_float(bits | sign | (is_special ? 0x7f800000 : 0));
}

inline float f16_value(uint32_t bits) {
  return scaled((bits & 0x7fff) << 13, (bits & 0x8000) << 16, 0x1p112f, (bits & 0x7c00) == 0x7c00);
}

template <Element E>
inline float byte_value(uint32_t code) {
  if constexpr (E == Element::e5m2) return f16_value(code << 8);
  if constexpr (E == Element::e4m3) {
    return scaled((code & 0x7f) << 20, (code & 0x80) << 24, 0x1p120f, (code & 0x7f) == 0x7f);
  }
  if constexpr (E == Element::e3m2) {
    return scaled((code & 0x1f) << 21, (code & 0x20) << 26, 0x1p124f, false);
  }
  if constexpr (E == Element::e2m3) {
    return scaled((code & 0x1f) << 20, (code & 0x20) << 26, 0x1p126f, false);
  }
  return scaled((code & 0x7) << 22, (code & 0x8) << 28, 0x1p126f, false);  // e2m1
}

template <Element E>
void unpack_bytes(const uint8_t* in, int count, float* out) {
  for (int i = 0; i < count; ++i) out[i] = byte_value<E>(in[i]);
}

void expand_nibbles(const void* packed, uint8_t* out) {
  const auto* in = static_cast<const uint8_t*>(packed);
  for (int i = 0; i < kUnpackBytes; ++i) {
    out[2 * i] = in[i] & 15;
    out[2 * i + 1] = in[i] >> 4;
  }
}

// W numbers that may lie anywhere.
template <typename T, int W>
struct VectorOf {
  typedef T Type __attribute__((vector_size(W * sizeof(T)), aligned(alignof(T)), may_alias));
};

inline float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }
inline int32_t fused(int32_t a, int32_t b, int32_t c) {
  return int32_t(uint32_t(a) * uint32_t(b) + uint32_t(c));  // wraps
}

// sum += x row, made of whole vectors: writing to their elements in place does not vectorise.
template <typename T, int W>
inline void add_product(T x, const typename VectorOf<T, W>::Type& row,
                        typename VectorOf<T, W>::Type& sum) {
  typename VectorOf<T, W>::Type r;
  for (int j = 0; j < W; ++j) r[j] = fused(x, row[j], sum[j]);
  sum = r;
}

// A block of c of kRows rows and W columns stays in registers for all of k.
template <typename T, int W, int kRows>
inline void multiply_block(int n, int k, const T* a, int a_stride, const T* b, T* c) {
  using Vector = typename VectorOf<T, W>::Type;
  Vector sum[kRows];
  for (int i = 0; i < kRows; ++i) sum[i] = *reinterpret_cast<const Vector*>(c + i * n);
  for (int l = 0; l < k; ++l) {
    const Vector row = *reinterpret_cast<const Vector*>(b + l * n);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      add_product<T, W>(a[i * a_stride + l], row, sum[i]);
    }
  }
  for (int i = 0; i < kRows; ++i) *reinterpret_cast<Vector*>(c + i * n) = sum[i];
}

template <typename T, int W>
void multiply_any(int m, int n, int k, const T* a, int a_stride, const T* b, T* c) {
  for (int j = 0; j < n; j += W) {
    for (int i = 0; i < m; i += 8) {
      multiply_block<T, W, 8>(n, k, a + i * a_stride, a_stride, b + j, c + i * n + j);
    }
  }
}

}  // namespace

std::optional<Element> parse_element(std::string_view name) {
  for (size_t i = 0; i < std::size(kElements); ++i) {
    if (kElements[i].name == name) return Element(i);
  }
  return std::nullopt;
}

int bits_of(Element element) { return kElements[int(element)].bits; }

void unpack(Element element, bool in_containers, const void* packed, float* out) {
  constexpr int kN = kUnpackBytes;
  const auto* bytes = static_cast<const uint8_t*>(packed);
  switch (element) {
    case Element::tf32: {  // the lower 13 bits are not looked at
      const auto* in = static_cast<const uint32_t*>(packed);
      for (int i = 0; i < kN / 4; ++i) out[i] = ww::bits_float(in[i] & 0xffffe000);
      return;
    }
    case Element::f16: return widen_f16(static_cast<const uint16_t*>(packed), kN / 2, out);
    case Element::bf16: {
      const auto* in = static_cast<const uint16_t*>(packed);
      for (int i = 0; i < kN / 2; ++i) out[i] = ww::bits_float(uint32_t(in[i]) << 16);
      return;
    }
    case Element::e5m2: return unpack_bytes<Element::e5m2>(bytes, kN, out);
    case Element::e4m3: return unpack_bytes<Element::e4m3>(bytes, kN, out);
    case Element::e3m2: return unpack_bytes<Element::e3m2>(bytes, kN, out);
    case Element::e2m3: return unpack_bytes<Element::e2m3>(bytes, kN, out);
    default: break;
  }
  uint8_t codes[kMostUnpacked];
  if (in_containers) {
    for (int i = 0; i < kN; ++i) codes[i] = bytes[i] >> 2;
  } else {
    expand_nibbles(packed, codes);
  }
  unpack_bytes<Element::e2m1>(codes, in_containers ? kN : 2 * kN, out);
}

void unpack(Element element, bool, const void* packed, int32_t* out) {
  uint8_t codes[kMostUnpacked];
  switch (element) {
    case Element::u8: {
      const auto* in = static_cast<const uint8_t*>(packed);
      for (int i = 0; i < kUnpackBytes; ++i) out[i] = in[i];
      return;
    }
    case Element::s8: {
      const auto* in = static_cast<const int8_t*>(packed);
      for (int i = 0; i < kUnpackBytes; ++i) out[i] = in[i];
      return;
    }
    case Element::u4:
      expand_nibbles(packed, codes);
      for (int i = 0; i < kMostUnpacked; ++i) out[i] = codes[i];
      return;
    default:
      expand_nibbles(packed, codes);
      for (int i = 0; i < kMostUnpacked; ++i) out[i] = (codes[i] ^ 8) - 8;
  }
}

void multiply(int m, int n, int k, const float* a, int a_stride, const float* b, float* c) {
  multiply_any<float, 8>(m, n, k, a, a_stride, b, c);
}
void multiply(int m, int n, int k, const int32_t* a, int a_stride, const int32_t* b, int32_t* c) {
  multiply_any<int32_t, 8>(m, n, k, a, a_stride, b, c);
}
void multiply(int m, int n, int k, const double* a, int a_stride, const double* b, double* c) {
  multiply_any<double, 4>(m, n, k, a, a_stride, b, c);
}

void widen_f16(const uint16_t* in, int count, float* out) {
  for (int i = 0; i < count; ++i) out[i] = f16_value(in[i]);
}

void narrow_f16(const float* in, int count, uint16_t* out) {
  int i = 0;
#if defined(__F16C__) && defined(__AVX__)
  for (; i + 8 <= count; i += 8) {
    const __m256 v = _mm256_loadu_ps(in + i);
    __m128i half = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    // NaN is above infinity in magnitude; both are small enough to compare as signed numbers.
    const __m128i magnitude = _mm_and_si128(half, _mm_set1_epi16(0x7fff));
    const __m128i is_nan = _mm_cmpgt_epi16(magnitude, _mm_set1_epi16(0x7c00));
    half = _mm_blendv_epi8(half, _mm_set1_epi16(0x7fff), is_nan);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), half);
  }
#endif
  for (; i < count; ++i) {
    out[i] = in[i] != in[i] ? 0x7fff : ww::from_float<ww::f16_t>(in[i]).bits;
  }
}

}  // namespace ptxsim
