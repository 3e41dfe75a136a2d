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

Dim3 Warp::thread(int lane) const { return launch().thread(linear_thread(lane)); }

Dim3 Launch::thread(uint32_t linear) const {
  const Dim3 b = config.block;
  return {linear % b.x, linear / b.x % b.y, linear / b.x / b.y};
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
  if (const Program* p = w.launch().programs.owner(op)) locate(r, *p, p->instruction(op));
  return r;
}

void locate(Report& r, const Program& program, const ptx::Instruction& ins) {
  r.ptx_line = ins.line;
  r.text = ins.spelling() + ": " + r.text;
  if (ins.source.line)
    r.source = program.module->files[ins.source.file] + ":" + std::to_string(ins.source.line);
}

void fault(const Warp& w, const Op& op, Report::Kind kind, uint32_t lanes,
           const std::string& text) {
  Fault f{make_report(w, op, kind, lanes, text)};
  f.report.is_fault = true;
  throw f;
}

void finding(const Warp& w, const Op& op, Report::Kind kind, uint32_t lanes,
             const std::string& text) {
  w.launch().add(make_report(w, op, kind, lanes, text));
}

void Launch::add(Report report) {
  for (Report& known : reports)
    if (known.kind == report.kind && known.ptx_line == report.ptx_line) {
      known.repeated += 1 + report.repeated;
      return;
    }
  if (int(reports.size()) >= options.max_reports)
    ++suppressed;
  else
    reports.push_back(std::move(report));
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
