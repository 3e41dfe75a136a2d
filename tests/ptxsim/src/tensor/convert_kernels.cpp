// SPDX-License-Identifier: Apache-2.0
// The arithmetic of `cvt` on 32 lanes. Kernels work on dense lanes of the types' own widths; wider
// registers are narrowed before and widened after.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <tuple>
#include <type_traits>

#include "core/numerics.h"
#include "tensor/convert.h"

namespace ptxsim {
namespace {

constexpr int kLanes = 32;

using Types = std::tuple<uint8_t, uint16_t, uint32_t, uint64_t, int8_t, int16_t, int32_t, int64_t,
                         ww::f16_t, ww::bf16_t, float, double>;

template <typename T>
constexpr Format kFormatOf = std::is_same_v<T, ww::f16_t>    ? Format::f16
                             : std::is_same_v<T, ww::bf16_t> ? Format::bf16
                             : std::is_same_v<T, float>      ? Format::f32
                                                             : Format::f64;

// numerics.h keeps the sign and the payload of a NaN; PTX gives the canonical one.
inline ww::f16_t to_f16(float v) {
  return v != v ? ww::f16_t{0x7fff} : ww::from_float<ww::f16_t>(v);
}
inline ww::bf16_t to_bf16(float v) {
  return v != v ? ww::bf16_t{0x7fff} : ww::from_float<ww::bf16_t>(v);
}

// Widening to f32. A bf16 is the upper half of an f32, NaN included; the NaN of an f16 becomes the
// canonical one.
inline float widen(ww::bf16_t v) { return ww::to_float(v); }
inline float widen(ww::f16_t v) {
  const float f = ww::to_float(v);
  return f != f ? ww::bits_float(0x7fffffff) : f;
}
inline float widen(float v) { return v; }
inline double widen(double v) { return v; }

template <typename To>
To from_code(uint64_t code) {
  To v;
  std::memcpy(&v, &code, sizeof v);  // little endian
  return v;
}

template <typename To, typename From>
To clamp_integer(From v) {
  constexpr To kMin = std::numeric_limits<To>::min(), kMax = std::numeric_limits<To>::max();
  if constexpr (std::is_signed_v<From>) {
    const int64_t x = v;
    if constexpr (!std::is_signed_v<To>) {
      if (x < 0) return 0;
      return uint64_t(x) > uint64_t(kMax) ? kMax : To(x);
    }
    return x < int64_t(kMin) ? kMin : x > int64_t(kMax) ? kMax : To(x);
  }
  return uint64_t(v) > uint64_t(kMax) ? kMax : To(v);
}

template <typename To>
To integer_of(const ConvertForm& f, double v) {
  if (v != v) return To(f.nan_integer);
  const double r = round_to_integral(v, f.encode.rounding);
  constexpr int kDigits = std::numeric_limits<To>::digits;
  const double end = 2.0 * double(uint64_t(1) << (kDigits - 1));  // one past the largest
  if (r >= end) return std::numeric_limits<To>::max();
  if (r < double(std::numeric_limits<To>::min())) return std::numeric_limits<To>::min();
  return To(r);
}

// .sat to [0, 1]: NaN and -0 become +0.
inline double saturate(double v) { return v > 0 ? std::min(v, 1.0) : 0.0; }

template <typename To, typename From>
To convert_one(const ConvertForm& f, From v) {
  constexpr bool kFromInteger = std::is_integral_v<From>, kToInteger = std::is_integral_v<To>;
  if constexpr (kFromInteger && kToInteger) {
    return f.sat ? clamp_integer<To>(v) : To(v);
  } else if constexpr (kFromInteger) {
    if (f.sat) return from_code<To>(encode(kFormatOf<To>, v > 0 ? 1.0 : 0.0));
    const bool negative = std::is_signed_v<From> && v < 0;
    const uint64_t magnitude = negative ? 0 - uint64_t(v) : uint64_t(v);
    return from_code<To>(encode_integer(kFormatOf<To>, magnitude, negative, f.encode.rounding));
  } else {
    auto wide = widen(v);
    if constexpr (std::is_same_v<From, float>) {
      if (f.ftz) wide = flush_subnormal(wide);
    }
    if constexpr (kToInteger) {
      return integer_of<To>(f, double(wide));
    } else {
      if constexpr (sizeof(To) >= sizeof(From) && !std::is_same_v<To, ww::f16_t> &&
                    !std::is_same_v<To, ww::bf16_t>) {
        // Exact, and a NaN keeps its payload.
        if (!f.sat && !f.to_integral) {
          To r = To(wide);
          if constexpr (std::is_same_v<To, float>) {
            if (f.ftz) r = flush_subnormal(r);
          }
          return r;
        }
      } else if constexpr (std::is_same_v<To, From>) {
        if (!f.sat && !f.to_integral) return v;
      }
      double x = double(wide);
      if (f.to_integral) x = round_to_integral(x, f.encode.rounding);
      if (f.sat) x = saturate(x);
      EncodeOptions options = f.encode;
      if (f.to_integral) options.rounding = Rounding::rn;
      To r = from_code<To>(encode(kFormatOf<To>, x, options));
      if constexpr (std::is_same_v<To, float>) {
        if (f.ftz) r = flush_subnormal(r);
      }
      return r;
    }
  }
}

template <typename To, typename From>
void any_lanes(const ConvertForm& f, void* dst, const void* const* src) {
  const From* s = static_cast<const From*>(src[0]);
  To* d = static_cast<To*>(dst);
  for (int i = 0; i < kLanes; ++i) d[i] = convert_one<To>(f, s[i]);
}

// Conversions without modifiers that C++ or numerics.h does as PTX wants: integers among each
// other, integers to f32 and f64 to nearest, f32 to f16 and bf16 to nearest, and widening to f32
// and f64.
template <typename To, typename From>
void plain_lanes(const ConvertForm&, void* dst, const void* const* src) {
  const From* s = static_cast<const From*>(src[0]);
  To* d = static_cast<To*>(dst);
  for (int i = 0; i < kLanes; ++i) {
    if constexpr (std::is_same_v<To, From>) {
      d[i] = s[i];
    } else if constexpr (std::is_integral_v<From>) {
      d[i] = To(s[i]);
    } else if constexpr (std::is_same_v<To, ww::f16_t>) {
      d[i] = to_f16(s[i]);
    } else if constexpr (std::is_same_v<To, ww::bf16_t>) {
      d[i] = to_bf16(s[i]);
    } else {
      d[i] = To(widen(s[i]));
    }
  }
}

template <typename To, typename From>
ConvertForm::Kernel choose(const ConvertForm& f) {
  constexpr bool kToInteger = std::is_integral_v<To>, kFromInteger = std::is_integral_v<From>;
  constexpr bool kToWide = std::is_same_v<To, float> || std::is_same_v<To, double>;
  constexpr bool kNarrow = std::is_same_v<From, float> && !kToInteger && sizeof(To) == 2;
  constexpr bool kPlain = (kToInteger && kFromInteger) || (kFromInteger && kToWide) || kNarrow ||
                          (!kFromInteger && kToWide && sizeof(To) >= sizeof(From)) ||
                          (std::is_same_v<To, From> && !kToInteger);
  if constexpr (kPlain) {
    const bool modified = f.ftz || f.sat || f.encode.satfinite || f.encode.relu || f.to_integral;
    if (!modified && f.encode.rounding == Rounding::rn) return plain_lanes<To, From>;
  }
  return any_lanes<To, From>;
}

template <typename To, size_t... I>
ConvertForm::Kernel choose_from(const ConvertForm& f, Number from, std::index_sequence<I...>) {
  using Choose = ConvertForm::Kernel (*)(const ConvertForm&);
  static constexpr Choose kChoices[] = {choose<To, std::tuple_element_t<I, Types>>...};
  return kChoices[int(from)](f);
}

template <size_t... I>
ConvertForm::Kernel choose_to(const ConvertForm& f, Number to, Number from,
                              std::index_sequence<I...> all) {
  using Choose = ConvertForm::Kernel (*)(const ConvertForm&, Number, std::index_sequence<I...>);
  static constexpr Choose kChoices[] = {choose_from<std::tuple_element_t<I, Types>>...};
  return kChoices[int(to)](f, from, all);
}

// One element of a packed destination, in the low bits.
uint64_t encode_element(const ConvertForm& f, float v, const EncodeOptions& options) {
  if (options.rounding == Rounding::rn && !options.relu && v == v) {
    switch (f.to) {
      case Format::f16:
        if (!options.satfinite) return to_f16(v).bits;
        break;
      case Format::bf16:
        if (!options.satfinite) return to_bf16(v).bits;
        break;
      case Format::e4m3: return ww::e4m3_saturate(v).bits;  // these always have .satfinite
      case Format::e2m1: return ww::from_float<ww::e2m1_t>(v).bits;
      default: break;
    }
  }
  return encode(f.to, double(v), options);
}

uint32_t reverse16(uint32_t v) {
  v = ((v & 0x5555) << 1) | ((v >> 1) & 0x5555);
  v = ((v & 0x3333) << 2) | ((v >> 2) & 0x3333);
  v = ((v & 0x0f0f) << 4) | ((v >> 4) & 0x0f0f);
  return ((v & 0xff) << 8) | (v >> 8);
}

// The random bits of element `index`, counted from the first source. Two elements share 16 bits of
// rbits; the first of the two takes them in reverse order (ISA, figures 38 to 41 of `cvt`).
EncodeOptions with_random(const ConvertForm& f, uint32_t rbits, int index) {
  EncodeOptions o = f.encode;
  o.random_bits = f.to == Format::f16 ? 13 : 16;
  if (f.elements == 2) {
    o.random = (index == 0 ? rbits >> 16 : rbits) & ((1u << o.random_bits) - 1);
    return o;
  }
  uint32_t half = index < 2 ? rbits >> 16 : rbits & 0xffff;
  if (f.field_bits == 4) {  // e2m1x4: a byte of each half
    const int at = index < 2 ? 8 : 0;
    half = ((rbits >> at) & 0xff) | ((rbits >> (at + 16)) & 0xff) << 8;
  }
  o.random = index % 2 == 0 ? reverse16(half) : half;
  return o;
}

template <typename To>
void pack_lanes(const ConvertForm& f, void* dst, const void* const* src) {
  To* d = static_cast<To*>(dst);
  const int n = f.elements;
  const bool random = f.encode.rounding == Rounding::rs;
  for (int lane = 0; lane < kLanes; ++lane) {
    uint64_t packed = 0;
    for (int i = 0; i < n; ++i) {
      float v;
      if (f.source_field_bits == 0) {
        v = static_cast<const float*>(src[i])[lane];
      } else {
        uint32_t word = 0;
        const int bytes = f.src_type_bytes[0];
        std::memcpy(&word, static_cast<const uint8_t*>(src[0]) + lane * bytes, size_t(bytes));
        word >>= (n - 1 - i) * f.source_field_bits;
        v = float(decode(f.from, word & ((uint64_t(1) << f.source_field_bits) - 1)));
      }
      const EncodeOptions options =
          random ? with_random(f, static_cast<const uint32_t*>(src[n])[lane], i) : f.encode;
      packed |= encode_element(f, v, options) << ((n - 1 - i) * f.field_bits);
    }
    d[lane] = To(packed);
  }
}

void pack_any(const ConvertForm& f, void* dst, const void* const* src) {
  switch (f.dst_type_bytes) {
    case 1: return pack_lanes<uint8_t>(f, dst, src);
    case 2: return pack_lanes<uint16_t>(f, dst, src);
    default: return pack_lanes<uint32_t>(f, dst, src);
  }
}

// b fills the lowest field, a the next; c is shifted up by both.
void pack_integers(const ConvertForm& f, void* dst, const void* const* src) {
  const int bits = f.pack_bits;
  const int32_t lo = f.pack_is_signed ? -(1 << (bits - 1)) : 0;
  const int32_t hi = f.pack_is_signed ? (1 << (bits - 1)) - 1 : (1 << bits) - 1;
  const uint32_t field = (1u << bits) - 1;
  for (int i = 0; i < kLanes; ++i) {
    const int32_t a = std::clamp(static_cast<const int32_t*>(src[0])[i], lo, hi);
    const int32_t b = std::clamp(static_cast<const int32_t*>(src[1])[i], lo, hi);
    uint32_t packed = (uint32_t(a) & field) << bits | (uint32_t(b) & field);
    if (f.sources == 3) packed |= static_cast<const uint32_t*>(src[2])[i] << (2 * bits);
    static_cast<uint32_t*>(dst)[i] = packed;
  }
}

void store(const ConvertForm& f, const uint8_t* dense, uint8_t* dst, uint32_t mask) {
  const size_t narrow = f.dst_type_bytes, wide = f.dst_bytes;
  for (; mask; mask &= mask - 1) {
    const size_t lane = size_t(__builtin_ctz(mask));
    const uint8_t* from = dense + lane * narrow;
    uint8_t* to = dst + lane * wide;
    std::memcpy(to, from, narrow);
    const bool negative = f.dst_is_signed && from[narrow - 1] & 0x80;
    std::memset(to + narrow, negative ? 0xff : 0, wide - narrow);
  }
}

}  // namespace

ConvertForm::Kernel basic_kernel(const ConvertForm& form, Number to, Number from) {
  return choose_to(form, to, from, std::make_index_sequence<std::tuple_size_v<Types>>());
}

ConvertForm::Kernel pack_elements_kernel() { return pack_any; }
ConvertForm::Kernel pack_integers_kernel() { return pack_integers; }

void run_convert(const ConvertForm& f, void* dst, const void* const* src, uint32_t mask) {
  alignas(64) uint8_t narrowed[5][kLanes * 8], dense[kLanes * 8];
  const void* sources[5];
  for (int i = 0; i < f.sources; ++i) {
    sources[i] = src[i];
    const size_t narrow = f.src_type_bytes[i], wide = f.src_bytes[i];
    if (narrow == wide) continue;
    for (size_t lane = 0; lane < kLanes; ++lane) {
      std::memcpy(narrowed[i] + lane * narrow, static_cast<const uint8_t*>(src[i]) + lane * wide,
                  narrow);
    }
    sources[i] = narrowed[i];
  }
  if (mask == 0xffffffff && f.dst_bytes == f.dst_type_bytes) {
    f.kernel(f, dst, sources);
  } else {
    f.kernel(f, dense, sources);
    store(f, dense, static_cast<uint8_t*>(dst), mask);
  }
}

}  // namespace ptxsim
