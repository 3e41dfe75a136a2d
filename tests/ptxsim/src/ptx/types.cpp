// SPDX-License-Identifier: Apache-2.0
// Names and sizes of types and special registers, and the few look-ups of the module itself.
#include <iterator>
#include <unordered_map>

#include "ptx/ir.h"

namespace ptxsim::ptx {

namespace {

struct TypeInfo {
  const char* name;
  int bytes;
};

// In the order of Type.
constexpr TypeInfo kTypes[] = {{"none", 0},  {"pred", 0},  {"b8", 1},   {"b16", 2},    {"b32", 4},
                               {"b64", 8},   {"b128", 16}, {"u8", 1},   {"u16", 2},    {"u32", 4},
                               {"u64", 8},   {"s8", 1},    {"s16", 2},  {"s32", 4},    {"s64", 8},
                               {"f16", 2},   {"f16x2", 4}, {"bf16", 2}, {"bf16x2", 4}, {"f32", 4},
                               {"f32x2", 8}, {"f64", 8}};
static_assert(std::size(kTypes) == size_t(Type::f64) + 1);

// In the order of Special.
constexpr const char* kSpecials[] = {"%tid.x",
                                     "%tid.y",
                                     "%tid.z",
                                     "%ntid.x",
                                     "%ntid.y",
                                     "%ntid.z",
                                     "%ctaid.x",
                                     "%ctaid.y",
                                     "%ctaid.z",
                                     "%nctaid.x",
                                     "%nctaid.y",
                                     "%nctaid.z",
                                     "%laneid",
                                     "%warpid",
                                     "%nwarpid",
                                     "%smid",
                                     "%nsmid",
                                     "%gridid",
                                     "%lanemask_eq",
                                     "%lanemask_le",
                                     "%lanemask_lt",
                                     "%lanemask_ge",
                                     "%lanemask_gt",
                                     "%clock",
                                     "%clock_hi",
                                     "%clock64",
                                     "%globaltimer",
                                     "%globaltimer_lo",
                                     "%globaltimer_hi",
                                     "%is_explicit_cluster",
                                     "%clusterid.x",
                                     "%clusterid.y",
                                     "%clusterid.z",
                                     "%nclusterid.x",
                                     "%nclusterid.y",
                                     "%nclusterid.z",
                                     "%cluster_ctaid.x",
                                     "%cluster_ctaid.y",
                                     "%cluster_ctaid.z",
                                     "%cluster_nctaid.x",
                                     "%cluster_nctaid.y",
                                     "%cluster_nctaid.z",
                                     "%cluster_ctarank",
                                     "%cluster_nctarank",
                                     "%total_smem_size",
                                     "%aggr_smem_size",
                                     "%dynamic_smem_size",
                                     "%current_graph_exec",
                                     "%envreg1",
                                     "%envreg2",
                                     "%reserved_smem_offset_1",
                                     "WARP_SZ"};
static_assert(std::size(kSpecials) == size_t(Special::warp_sz) + 1);

}  // namespace

int size_of(Type type) { return kTypes[size_t(type)].bytes; }

const char* name_of(Type type) { return kTypes[size_t(type)].name; }

bool parse_type(std::string_view text, Type* type) {
  for (size_t i = 1; i < std::size(kTypes); ++i) {
    if (text != kTypes[i].name) continue;
    *type = Type(i);
    return true;
  }
  return false;
}

const char* name_of(Special special) { return kSpecials[size_t(special)]; }

bool parse_special(std::string_view text, Special* special) {
  static const auto* const table = [] {
    auto* made = new std::unordered_map<std::string_view, Special>;
    for (size_t i = 0; i < std::size(kSpecials); ++i) made->emplace(kSpecials[i], Special(i));
    return made;
  }();
  const auto found = table->find(text);
  if (found == table->end()) return false;
  *special = found->second;
  return true;
}

std::string Instruction::spelling() const {
  std::string text = opcode;
  for (const std::string& modifier : modifiers) text += "." + modifier;
  return text;
}

const Function* Module::find(std::string_view name) const {
  for (const Function& function : functions)
    if (function.name == name) return &function;
  return nullptr;
}

}  // namespace ptxsim::ptx
