// SPDX-License-Identifier: Apache-2.0
// Divergence. A branch that lanes answer differently cuts their fragment in two; where a label or
// an aligned instruction is reached, fragments at the same place in the same frame become one
// again. The fragment with the lowest program counter in the innermost call usually runs first,
// which brings lanes together after structured code; now and then another one does, so that lanes
// which wait for others of their warp make progress, as independent thread scheduling promises (PTX
// ISA, sm_70 on).
#include <algorithm>
#include <cstring>

#include "checks/races.h"
#include "engine/calls.h"
#include "engine/launch.h"
#include "engine/waits.h"

namespace ptxsim {
namespace {

int depth(const Frame* frame) {
  int d = 0;
  for (; frame->caller; frame = frame->caller.get()) ++d;
  return d;
}

void remove_fragment(Warp& w, Fragment* fragment) {
  w.fragments.erase(w.fragments.begin() + (fragment - w.fragments.data()));
  w.fragment = nullptr;
}

}  // namespace

void bind(Warp& w, Fragment& fragment) {
  w.fragment = &fragment;
  w.registers = fragment.frame->registers.data();
}

Flow branch(Warp& w, uint32_t taken, uint32_t target) {
  Fragment& f = *w.fragment;
  const uint32_t stay = f.mask & ~taken;
  if (stay == 0) {
    f.pc = target;
    return Flow::jump;
  }
  if (taken == 0) return Flow::next;
  Fragment other = f;
  other.mask = taken, other.pc = target;
  f.mask = stay, ++f.pc;
  w.fragments.push_back(std::move(other));
  w.fragment = nullptr;  // the vector may have moved, and another fragment may be due
  return Flow::jump;
}

Flow end_lanes(Warp& w, uint32_t lanes) {
  Block& block = *w.block;
  Launch& launch = w.launch();
  w.live &= ~lanes;
  const uint32_t count = uint32_t(std::popcount(lanes));
  block.live -= count, block.cluster->live -= count;
  ++launch.progress;
  if (block.live == 0 && launch.races)
    launch.races->end_block(w, w.fragment->frame->program->ops[w.fragment->pc]);
  w.fragment->mask &= ~lanes;
  if (w.fragment->mask == 0) {
    remove_fragment(w, w.fragment);
  } else {
    ++w.fragment->pc;
  }
  release_if_complete(block);  // barriers wait for the threads that are left
  return Flow::jump;
}

bool merge_fragments(Warp& w) {
  bool changed = false;
  for (size_t i = 0; i < w.fragments.size(); ++i) {
    for (size_t j = i + 1; j < w.fragments.size();) {
      Fragment &a = w.fragments[i], &b = w.fragments[j];
      const auto may = [](const Fragment& f) {
        return f.wait.kind == Wait::Kind::none || f.wait.kind == Wait::Kind::converge;
      };
      if (a.pc != b.pc || a.frame != b.frame || !may(a) || !may(b)) {
        ++j;
        continue;
      }
      a.mask |= b.mask;
      a.wait = {};
      w.fragments.erase(w.fragments.begin() + long(j));
      changed = true;
    }
  }
  if (changed) w.fragment = nullptr;
  return changed;
}

Fragment* choose_fragment(Warp& w, Random& random) {
  if (w.fragments.size() > 1) merge_fragments(w);
  Fragment* best = nullptr;
  int best_depth = 0, ready = 0;
  for (Fragment& f : w.fragments) {
    if (!may_continue(w, f)) continue;
    ++ready;
    if (w.fragments.size() == 1) return &f;
    const int d = depth(f.frame.get());
    if (!best || d > best_depth || (d == best_depth && f.pc < best->pc)) best = &f, best_depth = d;
  }
  if (ready > 1 && random.one_in(16)) {
    uint32_t pick = random.below(uint32_t(ready));
    for (Fragment& f : w.fragments)
      if (may_continue(w, f) && pick-- == 0) return &f;
  }
  return best;
}

void reserve_local(Warp& w, uint32_t needed) {
  if (needed <= w.local_bytes) return;
  const uint32_t bytes = std::max(needed, 2 * w.local_bytes);
  std::vector<uint8_t> wider(size_t(bytes) * kLanes, 0xcb);
  for (int l = 0; l < kLanes; ++l)
    std::copy_n(w.local.begin() + long(l) * w.local_bytes, w.local_bytes,
                wider.begin() + long(l) * bytes);
  w.local.swap(wider);
  w.local_bytes = bytes;
}

std::shared_ptr<Frame> make_frame(Warp& w, const Program& program, std::shared_ptr<Frame> caller) {
  auto frame = std::make_shared<Frame>();
  frame->program = &program;
  frame->registers = program.image;
  frame->params.resize(size_t(program.param_bytes) * kLanes);
  frame->local_base = caller ? (caller->local_top + 15) / 16 * 16 : 0;
  frame->local_top = frame->local_base + program.local_bytes;
  reserve_local(w, frame->local_top);
  for (const Program::LocalSlot& s : program.local_slots)
    for (int l = 0; l < kLanes; ++l) {
      const uint64_t address = frame->local_base + s.offset;
      memcpy(frame->registers.data() + s.slot + uint32_t(l * s.bytes), &address, size_t(s.bytes));
    }
  fill_specials(w, program, frame->registers.data());
  frame->caller = std::move(caller);
  return frame;
}

bool converged(Warp& w, uint32_t mask) {
  const uint32_t needed = mask & w.live;
  if ((w.fragment->mask & needed) == needed) return true;
  w.fragment->wait = {Wait::Kind::converge, needed, 0, 0, 0};
  return false;
}

}  // namespace ptxsim
