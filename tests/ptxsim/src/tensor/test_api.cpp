// SPDX-License-Identifier: Apache-2.0
// C functions for test_tensor*.py: formats, cvt and the approximate functions.
#include "tensor/test_api.h"

#include <bit>
#include <cstdint>
#include <cstring>
#include <sstream>

#include "tensor/approx.h"
#include "tensor/convert.h"
#include "tensor/formats.h"

namespace ptxsim::test {

ptx::Instruction instruction(const char* text) {
  using Kind = ptx::Operand::Kind;
  const auto operand = [](Kind kind) {
    ptx::Operand o;
    o.kind = kind;
    return o;
  };
  std::istringstream words(text);
  std::string word;
  words >> word;
  ptx::Instruction in;
  in.line = 1;
  std::istringstream parts(word);
  std::getline(parts, in.opcode, '.');
  for (std::string part; std::getline(parts, part, '.');) in.modifiers.push_back(part);
  while (words >> word) {
    ptx::Operand o = operand(word[0] == 'v'   ? Kind::vector
                             : word[0] == 'a' ? Kind::address
                             : word[0] == 'i' ? Kind::integer
                                              : Kind::reg);
    if (o.kind == Kind::vector)
      o.items.assign(size_t(std::stoi(word.substr(1))), operand(Kind::reg));
    if (o.kind == Kind::address) o.items.push_back(operand(Kind::reg));
    if (o.kind == Kind::integer) o.value = std::stoll(word.substr(1));
    in.operands.push_back(std::move(o));
  }
  return in;
}

}  // namespace ptxsim::test

using namespace ptxsim;

extern "C" {

int ptxsim_test_format(const char* name) {
  for (int i = 0; i <= int(Format::ue8m0); ++i) {
    if (!std::strcmp(info(Format(i)).name, name)) return i;
  }
  return -1;
}

double ptxsim_test_decode(int format, uint64_t code) { return decode(Format(format), code); }

uint64_t ptxsim_test_encode(int format, double value, int rounding, int satfinite, int relu,
                            uint32_t random, int random_bits) {
  return encode(Format(format), value,
                {Rounding(rounding), satfinite != 0, relu != 0, random, random_bits});
}

uint64_t ptxsim_test_encode_integer(int format, uint64_t magnitude, int negative, int rounding) {
  return encode_integer(Format(format), magnitude, negative != 0, Rounding(rounding));
}

// Bits in and out: 64-bit for f64; format is f32, f64, f16 or bf16, and x2 says whether two are
// packed.
uint64_t ptxsim_test_approx(int function, int format, int x2, int ftz, uint64_t x) {
  const Approx f = Approx(function);
  switch (Format(format)) {
    case Format::f32: {
      const float r = approx_f32(f, std::bit_cast<float>(uint32_t(x)), ftz != 0);
      return std::bit_cast<uint32_t>(r);
    }
    case Format::f64:
      return std::bit_cast<uint64_t>(approx_f64(f, std::bit_cast<double>(x), ftz != 0));
    default:
      return x2 ? approx_16x2(f, Format(format), uint32_t(x), ftz != 0)
                : approx_16(f, Format(format), uint16_t(x), ftz != 0);
  }
}

// `bytes` are the widths of the registers of d and the sources; null: those of the types, which are
// then written to `natural`.
int ptxsim_test_convert(const char* text, const int* bytes, int* natural, void* dst,
                        const void* const* src, uint32_t mask, char* error) {
  return test::guarded(error, [&] {
    const ptx::Instruction in = test::instruction(text);
    ConvertForm form = decode_convert(in);
    if (bytes) form.bind(in.line, bytes[0], std::vector<int>(bytes + 1, bytes + 1 + form.sources));
    if (natural) {
      natural[0] = form.dst_bytes;
      for (int i = 0; i < form.sources; ++i) natural[1 + i] = form.src_bytes[i];
    }
    if (dst) form.run(form, dst, src, mask);
  });
}

}  // extern "C"
