// SPDX-License-Identifier: Apache-2.0
#include "engine/memory.h"

#include <bit>
#include <cstring>

#include "checks/races.h"
#include "checks/taint.h"
#include "counters/counting.h"
#include "engine/lanes.h"

namespace ptxsim {
namespace {

std::string hex(uint64_t v) {
  char text[24];
  snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(v));
  return text;
}

const char* verb(Access::Kind kind) {
  return kind == Access::Kind::read ? "reads" : kind == Access::Kind::write ? "writes" : "updates";
}

Place locate_global(Warp& w, const Op& op, int lane, uint64_t address, uint32_t bytes,
                    Access::Kind kind) {
  GlobalMemory& memory = w.launch().memory;
  Allocation* a = memory.find(address);
  const std::string what = std::string(verb(kind)) + " " + std::to_string(bytes) + " bytes at ";
  if (!a || !a->contains(address, bytes))
    fault(w, op, Report::Kind::out_of_bounds, 1u << lane,
          what + "global " + hex(address) + ", " + memory.describe(address));
  if (!a->is_live)
    fault(w, op, Report::Kind::use_after_free, 1u << lane,
          what + "global " + hex(address) + ", " + memory.describe(address) + ", which was freed");
  if (a->read_only && kind != Access::Kind::read)
    fault(w, op, Report::Kind::read_only_write, 1u << lane,
          what + memory.describe(address) + ", which kernels may only read");
  return {reinterpret_cast<uint8_t*>(address), nullptr, 0, a};
}

Place locate_shared(Warp& w, const Op& op, int lane, uint32_t address, uint32_t bytes,
                    Access::Kind kind) {
  Block& block = shared_block(w, op, lane, address);
  const uint32_t offset = shared_offset(address);
  if (offset < kSharedBase || uint64_t(offset) + bytes > block.shared.size())
    fault(w, op, Report::Kind::out_of_bounds, 1u << lane,
          std::string(verb(kind)) + " " + std::to_string(bytes) + " bytes at shared " +
              hex(address) + "; the block has [" + hex(kSharedBase) + ", " +
              hex(block.shared.size()) + ")");
  return {block.shared.data() + offset, &block, offset, nullptr};
}

void check_aligned(Warp& w, const Op& op, int lane, uint64_t address, uint32_t bytes) {
  if (address % bytes)
    fault(w, op, Report::Kind::misaligned, 1u << lane,
          "address " + hex(address) + " is no multiple of " + std::to_string(bytes));
}

void check_unwritten(Warp& w, const Op& op, const Place* places, const Access& access) {
  const uint32_t bytes = access.bytes;
  uint32_t bad = 0;
  for_active(w.mask, [&](int l) {
    const Place& p = places[l];
    if (!is_written(p, bytes)) bad |= 1u << l;
  });
  if (!bad) return;
  if (access.unwritten) {
    *access.unwritten = bad;
    return;
  }
  const Place& p = places[std::countr_zero(bad)];
  finding(w, op, Report::Kind::unwritten_read, bad,
          "updates memory that nothing wrote, at " +
              (p.shared_block ? "shared " + hex(p.shared_offset)
                              : w.launch().memory.describe(uint64_t(p.data))));
}

}  // namespace

Block& shared_block(Warp& w, const Op& op, int lane, uint32_t address) {
  const uint32_t rank =
      address >> kBlockShift;  // 0 is the block itself, else one more than the rank
  if (rank == 0) return *w.block;
  std::vector<Block>& blocks = w.block->cluster->blocks;
  if (rank > blocks.size())
    fault(w, op, Report::Kind::out_of_bounds, 1u << lane,
          "shared address " + hex(address) + " is of no block of the cluster");
  if (blocks[rank - 1].live == 0)
    fault(w, op, Report::Kind::out_of_bounds, 1u << lane,
          "shared address " + hex(address) + " is of a block that has exited");
  return blocks[rank - 1];
}

bool shared_written(const Block& block, uint32_t offset, uint32_t bytes) {
  for (uint32_t i = offset; i < offset + bytes; ++i)
    if (!((block.written[i / 64] >> (i % 64)) & 1)) return false;
  return true;
}

bool is_written(const Place& p, uint32_t bytes) {
  if (p.shared_block) return shared_written(*p.shared_block, p.shared_offset, bytes);
  return !p.allocation || p.allocation->is_written(uint64_t(p.data), bytes);
}

void mark_shared(Block& block, uint32_t offset, uint32_t bytes, bool written) {
  for (uint32_t i = offset; i < offset + bytes; ++i) {
    const uint64_t bit = uint64_t(1) << (i % 64);
    if (written)
      block.written[i / 64] |= bit;
    else
      block.written[i / 64] &= ~bit;
  }
}

Place locate(Warp& w, const Op& op, SpaceKind space, int lane, uint64_t address, uint32_t bytes,
             Access::Kind kind) {
  if (space == SpaceKind::generic) {
    if (address & kSharedWindow)
      space = SpaceKind::shared;
    else if (address & kLocalWindow)
      space = SpaceKind::local, address &= ~kLocalWindow;
    else if (address & kParamWindow)
      space = SpaceKind::param_kernel, address &= ~kParamWindow;
    else
      space = SpaceKind::global;
  }
  switch (space) {
    case SpaceKind::shared: return locate_shared(w, op, lane, uint32_t(address), bytes, kind);
    case SpaceKind::local: {
      if (address + bytes > w.local_bytes)
        fault(w, op, Report::Kind::out_of_bounds, 1u << lane,
              std::string(verb(kind)) + " " + std::to_string(bytes) + " bytes at local " +
                  hex(address) + "; the thread has " + std::to_string(w.local_bytes));
      return {w.local.data() + size_t(lane) * w.local_bytes + address, nullptr, 0, nullptr};
    }
    case SpaceKind::param_kernel: {
      std::vector<uint8_t>& parameters = w.launch().parameters;
      if (address + bytes > parameters.size() || kind != Access::Kind::read)
        fault(w, op, Report::Kind::out_of_bounds, 1u << lane,
              std::string(verb(kind)) + " " + std::to_string(bytes) + " bytes at parameter byte " +
                  std::to_string(address) + " of " + std::to_string(parameters.size()));
      return {parameters.data() + address, nullptr, 0, nullptr};
    }
    case SpaceKind::param_local: {
      Frame& frame = *w.fragment->frame;
      return {&frame.params[size_t(lane) * frame.program->param_bytes + address], nullptr, 0,
              nullptr};
    }
    default: return locate_global(w, op, lane, address, bytes, kind);
  }
}

void access_memory(Warp& w, const Op& op, SpaceKind space, const uint64_t* addresses,
                   const Access& access, Place* places) {
  Launch& launch = w.launch();
  Allocation* last = nullptr;
  uint32_t global = 0, shared = 0;
  for_active(w.mask, [&](int l) {
    const uint64_t address = addresses[l];
    check_aligned(w, op, l, address, access.bytes);
    // Neighbouring lanes mostly touch one allocation: only the first of them is looked up.
    if (last && last->contains(address, access.bytes)) {
      places[l] = {reinterpret_cast<uint8_t*>(address), nullptr, 0, last};
    } else {
      places[l] = locate(w, op, space, l, address, access.bytes, access.kind);
      last = places[l].allocation;
    }
    if (places[l].allocation) global |= 1u << l;
    if (places[l].shared_block) shared |= 1u << l;
  });

  const bool reads = access.kind != Access::Kind::write, writes = access.kind != Access::Kind::read;
  if (reads && launch.options.check_unwritten && (global | shared))
    check_unwritten(w, op, places, access);
  if (launch.races && (global | shared)) launch.races->access(w, op, places, access);
  if (writes)
    for_active(global | shared, [&](int l) {
      if (places[l].shared_block)
        mark_shared(*places[l].shared_block, places[l].shared_offset, access.bytes, true);
      else
        places[l].allocation->mark_written(uint64_t(places[l].data), access.bytes);
    });

  if (global) count_global(w, places, global, access);
  if (shared) count_shared(w, places, shared, access);
}

uint8_t* shared_range(Warp& w, const Op& op, int lane, uint32_t address, uint32_t bytes,
                      Access::Kind kind, Block** block, uint32_t* offset) {
  const Place p = locate_shared(w, op, lane, address, bytes, kind);
  *block = p.shared_block, *offset = p.shared_offset;
  return p.data;
}

std::string read_string(Warp& w, const Op& op, int lane, uint64_t address) {
  std::string text;
  for (; text.size() < 4096; ++address) {
    const char c =
        char(*locate(w, op, SpaceKind::generic, lane, address, 1, Access::Kind::read).data);
    if (!c) break;
    text += c;
  }
  return text;
}

// vprintf's arguments lie one behind the other, each aligned to its size; chars and shorts are ints
// and floats are doubles, as C promotes them.
std::string format_print(Warp& w, const Op& op, int lane, uint64_t format, uint64_t arguments) {
  const std::string f = read_string(w, op, lane, format);
  std::string out;
  auto take = [&](uint32_t bytes) {
    arguments = (arguments + bytes - 1) / bytes * bytes;
    uint64_t value = 0;
    memcpy(&value,
           locate(w, op, SpaceKind::generic, lane, arguments, bytes, Access::Kind::read).data,
           bytes);
    arguments += bytes;
    return value;
  };
  for (size_t i = 0; i < f.size(); ++i) {
    if (f[i] != '%') {
      out += f[i];
      continue;
    }
    std::string spec = "%";
    bool is_wide = false;
    for (++i; i < f.size() && strchr("-+ #0123456789.*lhzjt", f[i]); ++i) {
      if (f[i] == '*') {
        spec += std::to_string(int(take(4)));
      } else if (strchr("ljzt", f[i])) {
        is_wide = true;
      } else if (f[i] != 'h') {
        spec += f[i];
      }
    }
    if (i >= f.size()) break;
    char text[512];
    switch (f[i]) {
      case '%': out += '%'; continue;
      case 'd':
      case 'i': {
        const uint64_t v = take(is_wide ? 8 : 4);
        snprintf(text, sizeof text, (spec + "lld").c_str(),
                 is_wide ? (long long)v : (long long)int(v));
        break;
      }
      case 'u':
      case 'x':
      case 'X':
      case 'o':
        snprintf(text, sizeof text, (spec + "ll" + f[i]).c_str(),
                 (unsigned long long)take(is_wide ? 8 : 4));
        break;
      case 'c': snprintf(text, sizeof text, (spec + "c").c_str(), int(take(4))); break;
      case 'p': snprintf(text, sizeof text, "0x%llx", (unsigned long long)take(8)); break;
      case 's':
        snprintf(text, sizeof text, (spec + "s").c_str(),
                 read_string(w, op, lane, take(8)).c_str());
        break;
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G':
      case 'a':
      case 'A':
        snprintf(text, sizeof text, (spec + f[i]).c_str(), std::bit_cast<double>(take(8)));
        break;
      default: snprintf(text, sizeof text, "%%%c", f[i]);
    }
    out += text;
  }
  return out;
}

}  // namespace ptxsim
