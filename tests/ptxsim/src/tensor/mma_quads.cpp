// SPDX-License-Identifier: Apache-2.0
// mma.sync.m8n8k4 with f16: four products, of the quad pairs {0-3, 16-19}, {4-7, 20-23}, {8-11,
// 24-27} and {12-15, 28-31}. In each, a lane has its place q = lane % 4 and half h = lane / 16; its
// elements i = 0 .. 3 of A and B, 0 .. 7 of C and D are
//   A   .row: (q + 4h, i)   .col: (i + 4h, q)
//   B   .row: (q, i + 4h)   .col: (i, q + 4h)
//   C   f16: (q + 4h, i)    f32: (q % 2 + i & 2 + 4h, i & 4 + q & 2 + i % 2)
#include "tensor/mma.h"

namespace ptxsim {
namespace {

struct Place { int row, column; };

Place place_ab(int lane, int i, bool lane_is_row, bool half_is_row) {
  const int q = lane % 4, h = lane / 16;
  Place p = lane_is_row ? Place{q, i} : Place{i, q};
  (half_is_row ? p.row : p.column) += 4 * h;
  return p;
}

Place place_c(int lane, int i, Accumulator type) {
  const int q = lane % 4, h = lane / 16;
  if (type == Accumulator::f16) return {q + 4 * h, i};
  return {(q & 1) + (i & 2) + 4 * h, (i & 4) + (q & 2) + (i & 1)};
}

// Element i of a lane, two to a register.
float half_of(const void* const* registers, int lane, int i) {
  const auto* lanes = static_cast<const uint16_t*>(registers[i / 2]);
  float v;
  widen_f16(lanes + 2 * lane + i % 2, 1, &v);
  return v;
}

}  // namespace

void run_mma_quads(const MmaForm& f, const MmaOperands& o) {
  float a[4][8 * 4], b[4][4 * 8], c[4][8 * 8];
  for (int lane = 0; lane < 32; ++lane) {
    const int pair = lane % 16 / 4;
    for (int i = 0; i < 4; ++i) {
      const Place pa = place_ab(lane, i, !f.a_is_col, true);
      a[pair][4 * pa.row + pa.column] = half_of(o.a, lane, i);
      const Place pb = place_ab(lane, i, !f.b_is_col, false);
      b[pair][8 * pb.row + pb.column] = half_of(o.b, lane, i);
    }
    for (int i = 0; i < 8; ++i) {
      const Place p = place_c(lane, i, f.c);
      c[pair][8 * p.row + p.column] =
          f.c == Accumulator::f16 ? half_of(o.c, lane, i) : static_cast<const float*>(o.c[i])[lane];
    }
  }
  for (int pair = 0; pair < 4; ++pair) multiply(8, 8, 4, a[pair], 4, b[pair], c[pair]);
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 8; ++i) {
      const Place p = place_c(lane, i, f.d);
      const float v = c[lane % 16 / 4][8 * p.row + p.column];
      if (f.d == Accumulator::f16) {
        narrow_f16(&v, 1, static_cast<uint16_t*>(o.d[i / 2]) + 2 * lane + i % 2);
      } else {
        static_cast<float*>(o.d[i])[lane] = v;
      }
    }
  }
}

}  // namespace ptxsim
