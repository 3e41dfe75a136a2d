// SPDX-License-Identifier: Apache-2.0
#include "opcodes/reduce.h"

#include <cmath>
#include <cstring>

#include "tensor/formats.h"

namespace ptxsim {

Reduce take_reduction(Decode& d) {
  return Reduce(d.mods.require_one_of({"add", "min", "max", "inc", "dec", "and", "or", "xor"}));
}

void reduce_element(Reduce what, TensorType type, uint8_t* to, const uint8_t* from) {
  const uint32_t bytes = uint32_t(global_bits(type)) / 8;
  uint64_t a = 0, b = 0;
  memcpy(&a, to, bytes), memcpy(&b, from, bytes);
  auto floats = [&](Format format) {
    const double x = decode(format, a), y = decode(format, b);
    const bool first = y != y || (x == y ? std::signbit(x) : x < y) == (what == Reduce::min);
    a = encode(format, what == Reduce::add ? x + y : x != x || !first ? y : x);
  };
  if (type == TensorType::f16)
    floats(Format::f16);
  else if (type == TensorType::bf16)
    floats(Format::bf16);
  else if (type == TensorType::f32 || type == TensorType::f32_ftz || type == TensorType::tf32 ||
           type == TensorType::tf32_ftz)
    floats(Format::f32);
  else if (type == TensorType::f64)
    floats(Format::f64);
  else {
    const bool is_signed = type == TensorType::s32 || type == TensorType::s64;
    const int shift = 64 - 8 * int(bytes);
    const auto wide = [&](uint64_t v) {
      return is_signed ? int64_t(v << shift) >> shift : int64_t(v);
    };
    const bool less = is_signed ? wide(a) < wide(b) : a < b;
    switch (what) {
      case Reduce::add: a += b; break;
      case Reduce::min: a = less ? a : b; break;
      case Reduce::max: a = less ? b : a; break;
      case Reduce::inc: a = a >= b ? 0 : a + 1; break;
      case Reduce::dec: a = a == 0 || a > b ? b : a - 1; break;
      case Reduce::and_: a &= b; break;
      case Reduce::or_: a |= b; break;
      default: a ^= b;
    }
  }
  memcpy(to, &a, bytes);
}

}  // namespace ptxsim
