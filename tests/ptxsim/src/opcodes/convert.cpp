// SPDX-License-Identifier: Apache-2.0
// cvt, which tensor/convert.h implements.
#include "tensor/convert.h"
#include "engine/lanes.h"

namespace ptxsim {
namespace {

struct ConvertOp {
  ConvertForm form;
  uint32_t slots[5] = {};
};

void decode_cvt(Decode& d) {
  auto& c = d.form<ConvertOp>();
  c.form = decode_convert(d.instruction);
  while (!d.mods.peek().empty()) d.mods.take(d.mods.peek());  // decode_convert consumed them all
  std::vector<const ptx::Operand*> sources;
  for (int i = 1; i < d.operands(); ++i) {
    if (d.operand(i).kind == ptx::Operand::Kind::vector)
      for (const ptx::Operand& item : d.operand(i).items) sources.push_back(&item);
    else
      sources.push_back(&d.operand(i));
  }
  if (int(sources.size()) != c.form.sources) d.fail("has another number of sources than it takes");
  int dst_bytes;
  d.op.slot[0] = d.wide_out(d.operand(0), 1, &dst_bytes);
  std::vector<int> bytes;
  for (size_t i = 0; i < sources.size(); ++i) {
    int size;
    c.slots[i] = d.is_register(*sources[i]) ? d.wide(*sources[i], 1, &size)
                                            : d.in(*sources[i], size = c.form.src_bytes[i]);
    bytes.push_back(size);
  }
  c.form.bind(d.instruction.line, dst_bytes, bytes);
  d.op.kind = InstructionClass::convert;
  d.op.run = [](Warp& w, const Op& op) {
    const auto& c = *static_cast<const ConvertOp*>(op.form);
    const void* sources[5];
    for (int i = 0; i < c.form.sources; ++i) sources[i] = w.registers + c.slots[i];
    c.form.run(c.form, w.registers + op.slot[0], sources, w.mask);
    return Flow::next;
  };
}

}  // namespace

std::initializer_list<DecodeEntry> convert_opcodes() {
  static const std::initializer_list<DecodeEntry> all = {{"cvt", decode_cvt}};
  return all;
}

}  // namespace ptxsim
