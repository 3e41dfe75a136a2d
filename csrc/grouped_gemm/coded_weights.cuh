// SPDX-License-Identifier: Apache-2.0
// Quantised weights between a stage in shared memory and the operand a of mma.m16n8k16.
//
// A stage keeps them as they lie in global memory, in pieces of 16 bytes. Of 64 elements of k lane
// 4g + q takes the 16 from 16q on, in rows g, g + 8, g + 16 and g + 24: so a block of 16 codes is
// one lane's, and its scale is decoded once. The rows they are multiplied by take the same order.
//
// Values without their global scale are exact in bf16: decoding is exact, and a NaN stays one.
#pragma once

#include "core/cuda/ptx.cuh"
#include "core/cuda/repeat.cuh"
#include "core/weights.h"

namespace ww {

constexpr int kRowsOfLane = 4;

// bf16 pairs. The addend -0 keeps the sign of a zero; sm_80 has no product of pairs alone.
__device__ inline uint32_t mul_bf16x2(uint32_t a, uint32_t b) {
  return ptx::fma_bf16x2(a, b, 0x80008000);
}

// E4M3 in the high byte of each half, what is below it does not matter, as bf16 but for the factor
// of 2^120 between the exponents' biases, which also makes subnormals what they are.
__device__ inline uint32_t e4m3_magnitude(uint32_t pair) { return pair >> 4 & 0x07f007f0; }
__device__ inline uint32_t finite_e4m3_pair(uint32_t pair) {
  constexpr uint32_t kBias = 0x7b807b80;  // 2^120
  return mul_bf16x2(e4m3_magnitude(pair) | (pair & 0x80008000), kBias);
}
__device__ inline uint32_t e4m3_pair(uint32_t pair) {
  const uint32_t is_nan = (e4m3_magnitude(pair) + 0x00100010) >> 4 & 0x00800080;
  return finite_e4m3_pair(pair) | is_nan * 0xff;  // all bits of the exponent
}

// Eight E2M1 codes as bf16: prmt looks up a byte of four magnitudes at once, with codes as indices.
__device__ inline void e2m1_pairs(uint32_t codes, uint32_t (&out)[4]) {
  constexpr uint32_t kHigh[2] = {0x3f3f3f00, 0x40404040};  // of 0 .5 1 1.5 and 2 3 4 6
  constexpr uint32_t kLow[2] = {0xc0800000, 0xc0804000};
  const uint32_t even = codes << 4;  // the sign of the even codes where that of the odd ones is
  repeat<2>([&](auto half) {
    const uint32_t index = (codes & 0x77777777) >> (16 * half);
    const uint32_t sign = __byte_perm(even, codes, half ? 0x7362 : 0x5140);
    const uint32_t high = __byte_perm(kHigh[0], kHigh[1], index) | (sign & 0x80808080);
    const uint32_t low = __byte_perm(kLow[0], kLow[1], index);
    out[2 * half] = __byte_perm(low, high, 0x5140);
    out[2 * half + 1] = __byte_perm(low, high, 0x7362);
  });
}

// Of each format: how many of k a byte holds, what 64 of k take, the key by which pieces of a row
// of kSlices times that are permuted so that no two lanes meet in a bank, and the weights of a
// lane. get(h, r) are those with k = 8h .. 8h + 7 of its 16 in row r of its four.

struct E4m3Format {
  static constexpr int kPerByte = 1, kRowBytes = 64, kScaleBytes = 0;
  template <int kSlices>
  __device__ static uint32_t key(int row) {
    return kSlices > 1 ? row % 2 * 4 : 0;
  }
  __device__ static uint32_t lane_offset(uint32_t slice, uint32_t key, int lane) {
    return ((slice * 4 + lane % 4) ^ key) * 16;
  }
  template <int kSlices>
  class Lane {
   public:
    __device__ Lane(uint32_t rows, uint32_t) {
      repeat<kRowsOfLane>([&](auto r) {
        ptx::load_shared_x4<decltype(r)::value * 8 * kRowBytes * kSlices>(codes_[r], rows);
      });
    }
    template <typename H, typename R>
    __device__ void get(H h, R r, uint32_t (&out)[4]) const {
      uint32_t after_nan = 0;  // bit 7 of each byte whose code is NaN
      repeat<2>([&](auto i) {
        const uint32_t codes = codes_[r][2 * h + i];
        after_nan |= (codes & 0x7f7f7f7f) + 0x01010101;
        repeat<2>([&](auto half) {
          const uint32_t pair = __byte_perm(codes, 0, half ? 0x3424 : 0x1404);
          out[2 * i + half] = finite_e4m3_pair(pair);
        });
      });
      if (after_nan & 0x80808080) out[0] = 0x7fff7fff;  // one makes all of its row's results NaN
    }

   private:
    uint32_t codes_[kRowsOfLane][4];
  };
};

struct Nvfp4Format {
  static constexpr int kPerByte = 2, kRowBytes = 32, kScaleBytes = 4;
  template <int kSlices>
  __device__ static uint32_t key(int row) {
    return kSlices > 1 ? row % 4 * 2 : 0;
  }
  __device__ static uint32_t lane_offset(uint32_t slice, uint32_t key, int lane) {
    return ((slice * 2) ^ key) * 16 + lane % 4 * 8;
  }
  template <int kSlices>
  class Lane {
   public:
    __device__ Lane(uint32_t rows, uint32_t scales) {
      repeat<kRowsOfLane>([&](auto r) {
        ptx::load_shared_x2<decltype(r)::value * 8 * kRowBytes * kSlices>(codes_[r], rows);
      });
      repeat<kRowsOfLane / 2>([&](auto i) {
        constexpr int kFirst = decltype(i)::value * 16 * kScaleBytes * kSlices;
        const uint32_t first = ptx::load_shared_byte<kFirst>(scales);
        const uint32_t second = ptx::load_shared_byte<kFirst + 8 * kScaleBytes * kSlices>(scales);
        const uint32_t both = e4m3_pair(first << 8 | second << 24);
        scale_[2 * i] = __byte_perm(both, 0, 0x1010);
        scale_[2 * i + 1] = __byte_perm(both, 0, 0x3232);
      });
    }
    template <typename H, typename R>
    __device__ void get(H h, R r, uint32_t (&out)[4]) const {
      e2m1_pairs(codes_[r][h], out);
#pragma unroll
      for (int i = 0; i < 4; ++i) out[i] = mul_bf16x2(out[i], scale_[r]);
    }

   private:
    uint32_t codes_[kRowsOfLane][2], scale_[kRowsOfLane];
  };
};

}  // namespace ww
