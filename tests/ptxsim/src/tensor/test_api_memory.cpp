// SPDX-License-Identifier: Apache-2.0
// C functions for test_tensor_memory.py: ldmatrix, stmatrix, movmatrix and wgmma.
#include <cstdint>

#include "tensor/matrix.h"
#include "tensor/test_api.h"
#include "tensor/wgmma.h"

using namespace ptxsim;

extern "C" {

// `info` gets the numbers of registers, rows and bytes of a row, and whether addresses are generic.
// Registers lie one after the other, and rows, each of 16 bytes, too. null rows: decode only.
int ptxsim_test_matrix(const char* text, int* info, uint8_t* rows, uint32_t* registers,
                       char* error) {
  return test::guarded(error, [&] {
    const MatrixForm form = decode_matrix(test::instruction(text));
    if (info) {
      info[0] = form.registers;
      info[1] = form.rows;
      info[2] = form.row_bytes;
      info[3] = form.is_generic;
    }
    if (!rows) return;
    uint32_t* r[4];
    for (int i = 0; i < form.registers; ++i) r[i] = registers + 32 * i;
    auto* lines = reinterpret_cast<uint8_t (*)[kMatrixRowBytes]>(rows);
    if (form.is_store) {
      fragment_to_rows(form, r, lines);
    } else {
      rows_to_fragment(form, lines, r);
    }
  });
}

int ptxsim_test_movmatrix(const char* text, const uint32_t* from, uint32_t* to, char* error) {
  return test::guarded(error, [&] {
    check_movmatrix(test::instruction(text));
    transpose_fragment(from, to);
  });
}

int ptxsim_test_wgmma_decode(const char* text, int* info, char* error) {
  return test::guarded(error, [&] {
    const WgmmaForm form = decode_wgmma(test::instruction(text));
    if (info) info[0] = form.d_registers;
  });
}

// Segments from `shared` memory by the descriptors; d and a registers are those of warp 0, then 1,
// ...
int ptxsim_test_wgmma(const char* text, uint64_t a_descriptor, uint64_t b_descriptor,
                      const uint8_t* shared, int accumulate, uint32_t* d, const uint32_t* a,
                      int repeat, char* error) {
  return test::guarded(error, [&] {
    const WgmmaForm form = decode_wgmma(test::instruction(text));
    const auto fetch = [&](uint64_t bits, bool mn_major, int rows) {
      const MatrixDescriptor descriptor = decode_descriptor(bits);
      if (!descriptor.problem.empty()) throw std::runtime_error(descriptor.problem);
      std::vector<uint32_t> addresses(size_t(2 * rows));
      segment_addresses(descriptor, mn_major, rows, addresses.data());
      std::vector<uint8_t> bytes;
      for (uint32_t at : addresses) bytes.insert(bytes.end(), shared + at, shared + at + 16);
      return bytes;
    };
    std::vector<uint8_t> a_bytes;
    if (!form.a_in_registers) a_bytes = fetch(a_descriptor, form.a_is_m_major, kWgmmaRows);
    const std::vector<uint8_t> b_bytes = fetch(b_descriptor, form.b_is_n_major, form.n);
    WgmmaWarp warps[kWgmmaWarps];
    for (int w = 0; w < kWgmmaWarps; ++w) {
      for (int r = 0; r < form.d_registers; ++r)
        warps[w].d[r] = d + 32 * (w * form.d_registers + r);
      for (int r = 0; r < 4; ++r) warps[w].a[r] = a + 32 * (4 * w + r);
    }
    for (int i = 0; i < repeat; ++i) {
      multiply_wgmma(form, accumulate != 0, a_bytes.data(), b_bytes.data(), warps);
    }
  });
}

}  // extern "C"
