// SPDX-License-Identifier: Apache-2.0
// alloca, stacksave and stackrestore: PTX ISA 9.7.18. Lanes of a frame share the top of their
// stacks, so that a block of different sizes is as large as the largest everywhere.
#include <algorithm>

#include "engine/lanes.h"
#include "engine/launch.h"

namespace ptxsim {
namespace {

using ptx::Type;

constexpr uint32_t kDefaultAlign = 8;
constexpr uint64_t kMaxLocalBytes = 512 << 10;  // of a thread: CUDA C++ Programming Guide

Flow run_alloca(Warp& w, const Op& op) {
  Frame& frame = *w.fragment->frame;
  const bool is_wide = op.slot[2];
  uint64_t largest = 0;
  for_active(w.mask, [&](int l) {
    largest = std::max(largest, is_wide ? w.lanes<uint64_t>(op.slot[1])[l]
                                        : uint64_t(w.lanes<uint32_t>(op.slot[1])[l]));
  });
  const uint64_t align = uint64_t(op.immediate);
  const uint64_t at = (frame.local_top + align - 1) / align * align;
  if (at + largest > kMaxLocalBytes)
    fault(w, op, Report::Kind::limit, w.mask, "alloca leaves the thread's local memory");
  frame.local_top = uint32_t(at + largest);
  reserve_local(w, frame.local_top);
  if (is_wide)
    write_lanes(w, w.lanes<uint64_t>(op.slot[0]), [&](int) { return at; });
  else
    write_lanes(w, w.lanes<uint32_t>(op.slot[0]), [&](int) { return uint32_t(at); });
  return Flow::next;
}

void decode_alloca(Decode& d) {
  const int bytes = ptx::size_of(d.mods.type({Type::u32, Type::u64}));
  d.expect_operands(2, 3);
  d.op.slot[0] = d.out(0, bytes), d.op.slot[1] = d.in(1, bytes);
  d.op.slot[2] = bytes == 8;
  d.op.immediate = d.operands() == 3 ? d.integer(2) : kDefaultAlign;
  if (d.op.immediate <= 0 || !std::has_single_bit(uint64_t(d.op.immediate)))
    d.fail("takes a power of two as alignment");
  d.op.kind = InstructionClass::move;
  d.op.run = run_alloca;
}

void decode_stack_pointer(Decode& d) {
  const int bytes = ptx::size_of(d.mods.type({Type::u32, Type::u64}));
  const bool save = d.instruction.opcode == "stacksave";
  d.expect_operands(1, 1);
  d.op.slot[0] = save ? d.out(0, bytes) : d.in(0, bytes);
  d.op.slot[1] = bytes == 8;
  d.op.kind = InstructionClass::move;
  d.op.run = save ? Run([](Warp& w, const Op& op) {
    const uint32_t top = w.fragment->frame->local_top;
    if (op.slot[1])
      write_lanes(w, w.lanes<uint64_t>(op.slot[0]), [&](int) { return uint64_t(top); });
    else
      write_lanes(w, w.lanes<uint32_t>(op.slot[0]), [&](int) { return top; });
    return Flow::next;
  })
                  : Run([](Warp& w, const Op& op) {
                      const int first = std::countr_zero(w.mask);
                      w.fragment->frame->local_top =
                          op.slot[1] ? uint32_t(w.lanes<uint64_t>(op.slot[0])[first])
                                     : w.lanes<uint32_t>(op.slot[0])[first];
                      return Flow::next;
                    });
}

}  // namespace

std::initializer_list<DecodeEntry> stack_opcodes() {
  static const std::initializer_list<DecodeEntry> all = {{"alloca", decode_alloca},
                                                         {"stacksave", decode_stack_pointer},
                                                         {"stackrestore", decode_stack_pointer}};
  return all;
}

}  // namespace ptxsim
