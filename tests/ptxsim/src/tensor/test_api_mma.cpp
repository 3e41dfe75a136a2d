// SPDX-License-Identifier: Apache-2.0
// C functions for test_tensor_mma.py.
#include <cstdint>
#include <stdexcept>

#include "tensor/mma.h"
#include "tensor/test_api.h"

using namespace ptxsim;

extern "C" {

// Operands are their registers one after the other, each of 32 lanes. `counts` gets the numbers of
// registers of d, a, b and c and the bytes a lane. `selectors` are byte-id-a, thread-id-a,
// byte-id-b, thread-id-b. d may be null: the instruction is decoded only.
int ptxsim_test_mma(const char* text, int* counts, uint8_t* d, const uint8_t* a, const uint8_t* b,
                    const uint8_t* c, const uint32_t* scale_a, const uint32_t* scale_b,
                    const int* selectors, int repeat, char* error) {
  return test::guarded(error, [&] {
    const MmaForm form = decode_mma(test::instruction(text));
    if (counts) {
      counts[0] = form.d_registers;
      counts[1] = form.a_registers;
      counts[2] = form.b_registers;
      counts[3] = form.c_registers;
      counts[4] = form.register_bytes;
    }
    if (!d) return;
    MmaOperands o;
    const size_t bytes = size_t(32 * form.register_bytes);
    for (int i = 0; i < form.d_registers; ++i) o.d[i] = d + i * bytes;
    for (int i = 0; i < form.a_registers; ++i) o.a[i] = a + i * bytes;
    for (int i = 0; i < form.b_registers; ++i) o.b[i] = b + i * bytes;
    for (int i = 0; i < form.c_registers; ++i) o.c[i] = c + i * bytes;
    o.scale_a = scale_a;
    o.scale_b = scale_b;
    if (form.scale_blocks) {
      o.select_a = {selectors[0], selectors[1]};
      o.select_b = {selectors[2], selectors[3]};
      const std::string problem = form.check(o.select_a, o.select_b);
      if (!problem.empty()) throw std::runtime_error(problem);
    }
    for (int i = 0; i < repeat; ++i) form.run(form, o);
  });
}

}  // extern "C"
