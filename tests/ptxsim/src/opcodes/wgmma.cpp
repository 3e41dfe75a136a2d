// SPDX-License-Identifier: Apache-2.0
// wgmma: products that the four warps of a warpgroup start together and that go on without them:
// PTX ISA 9.7.15. A product exists once all four have issued it, and reads shared memory and its
// registers when it completes, at the latest in the wait_group that covers it; products of a
// warpgroup complete in order.
#include <algorithm>
#include <cstring>

#include "checks/races.h"
#include "checks/wgmma_registers.h"
#include "counters/counting.h"
#include "engine/lanes.h"
#include "engine/memory.h"
#include "engine/waits.h"
#include "engine/warpgroup.h"
#include "tensor/wgmma.h"

namespace ptxsim {
namespace {

using ptx::Operand;

struct WgmmaOp {
  WgmmaForm form;
  std::vector<uint32_t> d;
  uint32_t a[4] = {};
  uint32_t a_descriptor = Op::kNone, b_descriptor = 0, scale_d = Op::kNone;
  bool scale_d_negated = false, scale_d_constant = true;
  std::string name;
};

}  // namespace

struct WgmmaProduct {
  const Op* op;
  const WgmmaOp* wgmma;
  uint64_t a_descriptor, b_descriptor, group;
  bool accumulate;
  int joined = 0;
  bool done = false;
  WgmmaWarp warps[kWgmmaWarps];
  std::shared_ptr<Frame> frames[kWgmmaWarps];  // whose registers are used
  Warp* warp[kWgmmaWarps] = {};
  Agent agent;
};

namespace {

// Segments of 16 bytes (segment_addresses) by core matrices: 8 rows, or 8 values of k, of one unit.
void count_core_matrices(const std::vector<uint32_t>& addresses, bool is_mn_major, int rows,
                         Wavefronts& count) {
  const size_t units = is_mn_major ? size_t(rows) / 8 : 2;  // side by side in a line
  for (size_t line = 0; line < addresses.size() / units; line += 8)
    for (size_t unit = 0; unit < units; ++unit) {
      uint32_t offsets[8];
      for (size_t i = 0; i < 8; ++i) offsets[i] = addresses[(line + i) * units + unit];
      count_wavefronts(offsets, 8, 16, count);
    }
}

// What a descriptor stands for, checked and read through the async proxy.
std::vector<uint8_t> fetch(WgmmaProduct& p, uint64_t bits, bool is_mn_major, int rows) {
  Warp& w = *p.warp[0];
  Launch& launch = w.launch();
  const MatrixDescriptor descriptor = decode_descriptor(bits);
  if (!descriptor.problem.empty())
    fault(w, *p.op, Report::Kind::illegal_instruction, w.live,
          "matrix descriptor: " + descriptor.problem);
  std::vector<uint32_t> addresses(size_t(rows) * 2);
  segment_addresses(descriptor, is_mn_major, rows, addresses.data());
  std::vector<uint8_t> data(addresses.size() * 16);
  Block& block = *w.block;
  count_core_matrices(addresses, is_mn_major, rows, launch.counters->wgmma);
  for (size_t i = 0; i < addresses.size(); ++i) {
    Block* at;
    uint32_t offset;
    const uint8_t* from =
        shared_range(w, *p.op, 0, addresses[i], 16, Access::Kind::read, &at, &offset);
    if (launch.options.check_unwritten && !shared_written(block, offset, 16))
      finding(w, *p.op, Report::Kind::unwritten_read, w.live,
              "multiplies bytes that nothing wrote, at shared offset " + std::to_string(offset));
    if (launch.races) launch.races->agent_shared(p.agent, -1, *p.op, block, offset, 16, false);
    memcpy(&data[i * 16], from, 16);
  }
  return data;
}

void complete(WgmmaProduct& p) {
  const WgmmaOp& m = *p.wgmma;
  std::vector<uint8_t> a;
  if (!m.form.a_in_registers) a = fetch(p, p.a_descriptor, m.form.a_is_m_major, kWgmmaRows);
  const std::vector<uint8_t> b = fetch(p, p.b_descriptor, m.form.b_is_n_major, m.form.n);
  multiply_wgmma(m.form, p.accumulate, a.data(), b.data(), p.warps);
  Warp& w = *p.warp[0];
  w.launch().counters->tensor_operations[m.name] +=
      2ull * kWgmmaRows * uint64_t(m.form.n) * uint64_t(m.form.k);
  p.done = true;
  if (p.agent.id)
    for (Warp* warp : p.warp)
      warp->done.push_back({AsyncOp::Kind::wgmma, p.group, kAllLanes, p.agent});
}

// All products of the warpgroup up to `last`, in order.
void complete_up_to(Block& block, uint32_t warpgroup, const WgmmaProduct* last) {
  auto& queue = block.warpgroups[warpgroup];
  while (!queue.empty() && queue.front()->joined == kWgmmaWarps) {
    const std::shared_ptr<WgmmaProduct> first = queue.front();
    queue.pop_front();
    complete(*first);
    if (first.get() == last) break;
  }
}

Flow run_wgmma(Warp& w, const Op& op) {
  const auto& m = *static_cast<const WgmmaOp*>(op.form);
  Block& block = *w.block;
  const uint32_t warpgroup = w.index / kWgmmaWarps, place = w.index % kWgmmaWarps;
  if ((warpgroup + 1) * kWgmmaWarps > block.warps.size())
    fault(w, op, Report::Kind::barrier_misuse, w.mask,
          "wgmma by a warp whose warpgroup is not whole");
  auto& queue = block.warpgroups[warpgroup];
  // The first product that this warp has not joined.
  auto found =
      std::find_if(queue.begin(), queue.end(), [&](const auto& p) { return !p->warp[place]; });
  if (found == queue.end()) {
    auto made = std::make_shared<WgmmaProduct>();
    made->op = &op, made->wgmma = &m, made->group = w.wgmma_group;
    queue.push_back(made);
    found = std::prev(queue.end());
  }
  WgmmaProduct& p = **found;
  const uint64_t a = m.a_descriptor == Op::kNone ? 0 : w.lanes<uint64_t>(m.a_descriptor)[0];
  const uint64_t b = w.lanes<uint64_t>(m.b_descriptor)[0];
  bool accumulate = m.scale_d_constant;
  if (m.scale_d != Op::kNone)
    accumulate = (w.predicate(m.scale_d) & 1) != uint32_t(m.scale_d_negated);
  if (p.joined == 0) {
    p.a_descriptor = a, p.b_descriptor = b, p.accumulate = accumulate;
  } else if (p.op != &op || p.a_descriptor != a || p.b_descriptor != b ||
             p.accumulate != accumulate || p.group != w.wgmma_group) {
    fault(w, op, Report::Kind::barrier_misuse, w.mask,
          "the warps of a warpgroup issue different wgmma instructions or operands");
  }
  for (size_t i = 0; i < m.d.size(); ++i) p.warps[place].d[i] = w.registers + m.d[i];
  if (m.form.a_in_registers)
    for (int i = 0; i < 4; ++i) p.warps[place].a[i] = w.registers + m.a[i];
  p.frames[place] = w.fragment->frame;
  p.warp[place] = &w;
  ++w.launch().progress;
  RaceChecker* races = w.launch().races;
  if (races) {
    issue_wgmma_registers(w, op, m.d, m.a, m.form.a_in_registers ? 4 : 0,
                          uint32_t(m.form.n) * 8 + uint32_t(m.form.d));
    if (p.joined == 0)
      p.agent = races->start_agent(w, w.mask, false, true);
    else
      races->join_issue(p.agent, w, w.mask);
  }
  if (++p.joined == kWgmmaWarps) {
    const std::shared_ptr<WgmmaProduct> product = *found;
    block.cluster->pending.push_back({[product, &block, warpgroup] {
                                        if (!product->done)
                                          complete_up_to(block, warpgroup, product.get());
                                      },
                                      0,
                                      &w,
                                      AsyncOp::Kind::wgmma,
                                      kAllLanes,
                                      {}});
  }
  return Flow::next;
}

Flow run_commit(Warp& w, const Op&) {
  w.wgmma_commits.push_back(w.wgmma_group++);
  return Flow::next;
}

// Orders register accesses, which happen at once here but for the product's own.
Flow run_fence(Warp& w, const Op&) {
  ++w.wgmma_fences;
  return Flow::next;
}

Flow run_wait(Warp& w, const Op& op) {
  const size_t keep = size_t(op.immediate);
  if (w.wgmma_commits.size() <= keep) return Flow::next;
  const uint64_t group = w.wgmma_commits[w.wgmma_commits.size() - keep - 1];
  Block& block = *w.block;
  const uint32_t warpgroup = w.index / kWgmmaWarps;
  auto& queue = block.warpgroups[warpgroup];
  const WgmmaProduct* last = nullptr;
  for (const auto& p : queue) {
    if (p->group > group) break;
    if (p->joined < kWgmmaWarps) {  // it starts when the other warps have issued it
      w.fragment->wait = {Wait::Kind::async_groups, 0, warpgroup, uint32_t(group), 0};
      return Flow::wait;
    }
    last = p.get();
  }
  if (last) complete_up_to(block, warpgroup, last);
  w.wgmma_commits.erase(w.wgmma_commits.begin(), w.wgmma_commits.end() - long(keep));
  complete_groups(w, AsyncOp::Kind::wgmma, group, kAllLanes);
  w.wgmma_waited = group;
  return Flow::next;
}

void decode_wgmma_op(Decode& d) {
  d.op.converges = true;
  if (d.mods.take("fence") || d.mods.peek() == "commit_group" || d.mods.peek() == "wait_group") {
    const int what = d.mods.take_one_of({"commit_group", "wait_group"});
    d.mods.require_one_of({"sync"});
    d.mods.require_one_of({"aligned"});
    d.op.kind = InstructionClass::async_control;
    if (what == 1) d.op.immediate = d.integer(0);
    d.op.run = what == 0 ? run_commit : what == 1 ? run_wait : run_fence;
    return;
  }
  WgmmaOp& m = d.form<WgmmaOp>();
  m.form = decode_wgmma(d.instruction);
  while (!d.mods.peek().empty()) d.mods.take(d.mods.peek());
  if (d.operand(0).kind != Operand::Kind::vector ||
      int(d.operand(0).items.size()) != m.form.d_registers)
    d.fail("has another number of registers than its shape takes");
  for (const Operand& item : d.operand(0).items) m.d.push_back(d.out(item, 4));
  if (m.form.a_in_registers)
    for (size_t i = 0; i < 4; ++i) m.a[i] = d.in(d.operand(1).items.at(i), 4);
  else
    m.a_descriptor = d.in(1, 8);
  m.b_descriptor = d.in(2, 8);
  if (d.operand(3).kind == Operand::Kind::integer)
    m.scale_d_constant = d.integer(3) != 0;
  else
    m.scale_d = d.predicate_in(d.operand(3), &m.scale_d_negated);
  m.name = d.instruction.spelling();
  d.op.kind = InstructionClass::wgmma;
  d.op.run = run_wgmma;
}

}  // namespace

bool wgmma_groups_issued(const Block& block, uint32_t warpgroup, uint64_t group) {
  const auto found = block.warpgroups.find(warpgroup);
  if (found == block.warpgroups.end()) return true;
  return std::none_of(found->second.begin(), found->second.end(),
                      [&](const auto& p) { return p->group <= group && p->joined < kWgmmaWarps; });
}

std::initializer_list<DecodeEntry> wgmma_opcodes() {
  static const std::initializer_list<DecodeEntry> all = {{"wgmma", decode_wgmma_op}};
  return all;
}

}  // namespace ptxsim
