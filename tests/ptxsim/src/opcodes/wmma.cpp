// SPDX-License-Identifier: Apache-2.0
// wmma.load, wmma.store and wmma.mma: PTX ISA 9.7.14.4. Which lane holds what is tensor/wmma.h's
// choice, as the ISA leaves it open.
#include "tensor/wmma.h"

#include <cstring>

#include "checks/taint.h"
#include "counters/counters.h"
#include "engine/lanes.h"
#include "engine/operands.h"

namespace ptxsim {
namespace {

using ptx::Operand;

void consume_all(Decode& d) {  // the decoders in tensor/ have consumed every modifier
  while (!d.mods.peek().empty()) d.mods.take(d.mods.peek());
}

struct TransferOp {
  WmmaTransfer form;
  AddressForm address;
  uint32_t stride = Op::kNone;
  uint32_t slots[8];
};

Flow run_transfer(Warp& w, const Op& op) {
  const auto& t = *static_cast<const TransferOp*>(op.form);
  uint64_t base[kLanes], addresses[kLanes];
  Place places[kLanes];
  read_addresses(w, t.address, base);
  uint32_t unwritten = 0;
  Access access{t.form.is_store ? Access::Kind::write : Access::Kind::read, false,
                uint8_t(t.form.piece_bytes)};
  if (!t.form.is_store) access.unwritten = &unwritten;
  const int registers = t.form.is_store ? t.form.distinct_registers() : t.form.registers;
  for (int r = 0; r < registers; ++r) {
    unwritten = 0;
    for (int piece = 0; piece < t.form.pieces; ++piece) {
      for (int l = 0; l < kLanes; ++l) {
        const int64_t stride = t.stride == Op::kNone ? t.form.default_stride()
                                                     : int64_t(w.lanes<uint32_t>(t.stride)[l]);
        addresses[l] = base[l] + uint64_t(t.form.offset(l, r, piece, stride));
      }
      access_memory(w, op, t.address.space, addresses, access, places);
      for_active(w.mask, [&](int l) {
        uint8_t* in =
            w.registers + t.slots[r] + l * t.form.register_bytes + piece * t.form.piece_bytes;
        memcpy(t.form.is_store ? places[l].data : in, t.form.is_store ? in : places[l].data,
               size_t(t.form.piece_bytes));
      });
    }
    if (unwritten) set_taint(w, t.slots[r], taint_of(w, t.slots[r]) | unwritten);
  }
  return Flow::next;
}

void decode_transfer(Decode& d) {
  TransferOp& t = d.form<TransferOp>();
  t.form = decode_wmma_transfer(d.instruction);
  consume_all(d);
  const bool store = t.form.is_store;
  const SpaceKind space = t.form.space == WmmaTransfer::Space::global   ? SpaceKind::global
                          : t.form.space == WmmaTransfer::Space::shared ? SpaceKind::shared
                                                                        : SpaceKind::generic;
  t.address = decode_address(d, d.operand(store ? 0 : 1), space);
  const Operand& fragment = d.operand(store ? 1 : 0);
  for (size_t i = 0; i < fragment.items.size(); ++i)
    t.slots[i] = store ? d.in(fragment.items[i], t.form.register_bytes)
                       : d.out(fragment.items[i], t.form.register_bytes);
  if (d.operands() == 3) t.stride = d.in(2, 4);
  d.op.kind = space == SpaceKind::shared
                  ? (store ? InstructionClass::store_shared : InstructionClass::load_shared)
                  : (store ? InstructionClass::store_global : InstructionClass::load_global);
  d.op.run = run_transfer;
}

struct ProductOp {
  WmmaForm form;
  uint32_t d[8], a[8], b[8], c[8];
  std::string name;
  uint64_t operations;
};

Flow run_product(Warp& w, const Op& op) {
  const auto& m = *static_cast<const ProductOp*>(op.form);
  void* d[8];
  const void *a[8], *b[8], *c[8];
  for (int i = 0; i < m.form.d_registers; ++i) d[i] = w.registers + m.d[i];
  for (int i = 0; i < m.form.a_registers; ++i) a[i] = w.registers + m.a[i];
  for (int i = 0; i < m.form.b_registers; ++i) b[i] = w.registers + m.b[i];
  for (int i = 0; i < m.form.c_registers; ++i) c[i] = w.registers + m.c[i];
  run_wmma(m.form, d, a, b, c);
  w.launch().counters->tensor_operations[m.name] += m.operations;
  return Flow::next;
}

void decode_product(Decode& d) {
  ProductOp& m = d.form<ProductOp>();
  m.form = decode_wmma(d.instruction);
  consume_all(d);
  const auto take = [&](int operand, uint32_t* slots) {
    for (const Operand& item : d.operand(operand).items)
      *slots++ = operand ? d.in(item, m.form.register_bytes) : d.out(item, m.form.register_bytes);
  };
  take(0, m.d), take(1, m.a), take(2, m.b), take(3, m.c);
  m.name = d.instruction.spelling();
  m.operations = 2ull * uint64_t(m.form.m) * uint64_t(m.form.n) * uint64_t(m.form.k);
  d.op.kind = InstructionClass::mma;
  d.op.run = run_product;
}

void decode_wmma_op(Decode& d) {
  d.op.converges = true;
  d.mods.peek() == "mma" ? decode_product(d) : decode_transfer(d);
}

// Instructions of parts of the hardware that are not simulated, so that loading says which.
void refuse_tensor_memory(Decode& d) { d.fail("works on tensor memory, which is not simulated"); }
void refuse_multimem(Decode& d) { d.fail("works on several devices, of which one is simulated"); }

}  // namespace

std::initializer_list<DecodeEntry> wmma_opcodes() {
  static const std::initializer_list<DecodeEntry> all = {
      {"wmma", decode_wmma_op}, {"tcgen05", refuse_tensor_memory}, {"multimem", refuse_multimem}};
  return all;
}

}  // namespace ptxsim
