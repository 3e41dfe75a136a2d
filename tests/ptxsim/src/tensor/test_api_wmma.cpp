// SPDX-License-Identifier: Apache-2.0
// C functions for test_tensor_wmma.py.
#include <cstdint>
#include <cstring>

#include "tensor/test_api.h"
#include "tensor/wmma.h"

using namespace ptxsim;

extern "C" {

// Between `memory` and registers, which lie one after the other. A stride below 0 stands for none.
// `info` gets the number of registers and the bytes a lane. null memory: decode only.
int ptxsim_test_wmma_transfer(const char* text, int* info, uint8_t* memory, int64_t stride,
                              uint8_t* registers, char* error) {
  return test::guarded(error, [&] {
    const WmmaTransfer t = decode_wmma_transfer(test::instruction(text));
    if (info) {
      info[0] = t.registers;
      info[1] = t.register_bytes;
    }
    if (!memory) return;
    if (stride < 0) stride = t.default_stride();
    const int count = t.is_store ? t.distinct_registers() : t.registers;
    for (int r = 0; r < count; ++r) {
      for (int lane = 0; lane < 32; ++lane) {
        for (int p = 0; p < t.pieces; ++p) {
          uint8_t* at = memory + t.offset(lane, r, p, stride);
          uint8_t* in = registers + (32 * r + lane) * t.register_bytes + p * t.piece_bytes;
          if (t.is_store) {
            std::memcpy(at, in, size_t(t.piece_bytes));
          } else {
            std::memcpy(in, at, size_t(t.piece_bytes));
          }
        }
      }
    }
  });
}

int ptxsim_test_wmma(const char* text, uint8_t* d, const uint8_t* a, const uint8_t* b,
                     const uint8_t* c, char* error) {
  return test::guarded(error, [&] {
    const WmmaForm f = decode_wmma(test::instruction(text));
    if (!d) return;
    void* to[8];
    const void* from[3][8];
    for (int i = 0; i < 8; ++i) {
      const int at = 32 * f.register_bytes * i;
      to[i] = d + at;
      from[0][i] = a + at;
      from[1][i] = b + at;
      from[2][i] = c + at;
    }
    run_wmma(f, to, from[0], from[1], from[2]);
  });
}

}  // extern "C"
