// SPDX-License-Identifier: Apache-2.0
#include <bit>

#include "engine/launch.h"

namespace ptxsim {
namespace { constexpr uint32_t kWarpsOfGroup = 4; }  // namespace

const char* name_of(Report::Kind kind) {
  switch (kind) {
    case Report::Kind::out_of_bounds: return "out of bounds";
    case Report::Kind::misaligned: return "misaligned address";
    case Report::Kind::use_after_free: return "use after free";
    case Report::Kind::read_only_write: return "write to read-only memory";
    case Report::Kind::unwritten_read: return "read of memory nothing wrote";
    case Report::Kind::race: return "race";
    case Report::Kind::proxy_race: return "race through the async proxy";
    case Report::Kind::warp_hazard: return "hazard within a warp";
    case Report::Kind::async_hazard: return "asynchronous operation in flight";
    case Report::Kind::barrier_misuse: return "barrier misuse";
    case Report::Kind::deadlock: return "deadlock";
    case Report::Kind::trap: return "trap";
    case Report::Kind::assertion: return "assertion";
    case Report::Kind::limit: return "limit";
    case Report::Kind::illegal_instruction: return "illegal instruction";
    case Report::Kind::launch: return "launch";
  }
  return "?";
}

std::string Report::describe() const {
  auto triple = [](Dim3 d) {
    return "(" + std::to_string(d.x) + "," + std::to_string(d.y) + "," + std::to_string(d.z) + ")";
  };
  std::string out = std::string(name_of(kind)) + " in " + kernel + ", block " + triple(block) +
                    ", thread " + triple(thread);
  if (ptx_line) out += ", PTX line " + std::to_string(ptx_line);
  if (!source.empty()) out += ", " + source;
  out += ": " + text;
  if (repeated) out += " (and " + std::to_string(repeated) + " more of this instruction)";
  return out;
}

Dim3 Warp::thread(int lane) const {
  const Dim3 b = launch().config.block;
  const uint32_t i = linear_thread(lane);
  return {i % b.x, i / b.x % b.y, i / b.x / b.y};
}

Report make_report(const Warp& w, const Op& op, Report::Kind kind, uint32_t lanes,
                   const std::string& text) {
  Report r;
  r.kind = kind;
  r.is_fault = false;
  r.kernel = w.launch().kernel;
  r.block = w.block->index;
  r.thread = w.thread(lanes ? std::countr_zero(lanes) : 0);
  r.text = text;
  if (std::popcount(lanes) > 1) r.text += " (" + std::to_string(std::popcount(lanes)) + " lanes)";
  if (const Program* p = w.launch().programs.owner(op)) {
    const ptx::Instruction& ins = p->instruction(op);
    r.ptx_line = ins.line;
    r.text = ins.spelling() + ": " + r.text;
    if (ins.source.line)
      r.source = p->module->files[ins.source.file] + ":" + std::to_string(ins.source.line);
  }
  return r;
}

void fault(const Warp& w, const Op& op, Report::Kind kind, uint32_t lanes,
           const std::string& text) {
  Fault f{make_report(w, op, kind, lanes, text)};
  f.report.is_fault = true;
  throw f;
}

void finding(const Warp& w, const Op& op, Report::Kind kind, uint32_t lanes,
             const std::string& text) {
  Launch& launch = w.launch();
  Report r = make_report(w, op, kind, lanes, text);
  for (Report& known : launch.reports)  // once for each instruction
    if (known.kind == kind && known.ptx_line == r.ptx_line) {
      ++known.repeated;
      return;
    }
  if (int(launch.reports.size()) >= launch.options.max_reports) {
    ++launch.suppressed;
    return;
  }
  launch.reports.push_back(std::move(r));
}

std::string describe(const Launch& launch, Doer doer, uint32_t warp, int lane, uint32_t line) {
  const std::string by = "warp " + std::to_string(warp);
  if (doer == Doer::thread) return by + " lane " + std::to_string(lane);
  if (doer == Doer::copy) return "the cp.async of " + by + " lane " + std::to_string(lane);
  const ptx::Instruction* at = launch.programs.at_line(line);
  const std::string what = at ? at->spelling() : "";
  if (what.starts_with("wgmma"))
    return "the wgmma of warpgroup " + std::to_string(warp / kWarpsOfGroup);
  const bool is_tensor = what.find(".tensor.") != std::string::npos;
  return std::string(is_tensor ? "the TMA copy" : "the bulk copy") + " that " + by + " issued";
}

}  // namespace ptxsim
