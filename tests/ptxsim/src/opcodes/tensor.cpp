// SPDX-License-Identifier: Apache-2.0
// Tensor cores of one warp: mma, ldmatrix, stmatrix, movmatrix. The arithmetic and the layouts are
// in tensor/; here are registers, memory and counting.
#include <cstring>

#include "checks/taint.h"
#include "counters/counters.h"
#include "engine/lanes.h"
#include "engine/operands.h"
#include "tensor/matrix.h"
#include "tensor/mma.h"

namespace ptxsim {
namespace {

using ptx::Operand;

// The elements of a vector operand, or the operand itself.
std::vector<const Operand*> flatten(const Operand& operand) {
  std::vector<const Operand*> out;
  if (operand.kind == Operand::Kind::vector)
    for (const Operand& item : operand.items) out.push_back(&item);
  else
    out.push_back(&operand);
  return out;
}

void consume_all(Decode& d) {  // the decoders in tensor/ have consumed every modifier
  while (!d.mods.peek().empty()) d.mods.take(d.mods.peek());
}

// --- mma ---

struct MmaOp {
  MmaForm form;
  uint32_t d[8], a[8], b[4], c[8];
  uint32_t scale_a = Op::kNone, scale_b = Op::kNone;
  uint32_t select[4] = {};  // slots of byte and thread of a, then of b
  std::string name;
  uint64_t operations;
};

Flow run_mma(Warp& w, const Op& op) {
  const auto& m = *static_cast<const MmaOp*>(op.form);
  MmaOperands operands;
  for (int i = 0; i < m.form.d_registers; ++i) operands.d[i] = w.registers + m.d[i];
  for (int i = 0; i < m.form.a_registers; ++i) operands.a[i] = w.registers + m.a[i];
  for (int i = 0; i < m.form.b_registers; ++i) operands.b[i] = w.registers + m.b[i];
  for (int i = 0; i < m.form.c_registers; ++i) operands.c[i] = w.registers + m.c[i];
  if (m.scale_a != Op::kNone) {
    operands.scale_a = w.lanes<uint32_t>(m.scale_a);
    operands.scale_b = w.lanes<uint32_t>(m.scale_b);
    auto selector = [&](int i) {
      return ScaleSelector{w.lanes<uint16_t>(m.select[i])[0],
                           w.lanes<uint16_t>(m.select[i + 1])[0]};
    };
    operands.select_a = selector(0), operands.select_b = selector(2);
    const std::string problem = m.form.check(operands.select_a, operands.select_b);
    if (!problem.empty()) fault(w, op, Report::Kind::illegal_instruction, w.mask, problem);
  }
  m.form.run(m.form, operands);
  w.launch().counters->tensor_operations[m.name] += m.operations;
  return Flow::next;
}

void decode_mma_op(Decode& d) {
  MmaOp& m = d.form<MmaOp>();
  m.form = decode_mma(d.instruction);
  consume_all(d);
  const int bytes = m.form.register_bytes;
  auto take = [&](int i, int count, uint32_t* slots, bool writes) {
    const auto list = flatten(d.operand(i));
    if (int(list.size()) != count) d.fail("has another number of registers than its shape takes");
    for (size_t k = 0; k < list.size(); ++k)
      slots[k] = writes ? d.out(*list[k], bytes) : d.in(*list[k], bytes);
  };
  take(0, m.form.d_registers, m.d, true);
  take(1, m.form.a_registers, m.a, false);
  take(2, m.form.b_registers, m.b, false);
  take(3, m.form.c_registers, m.c, false);
  if (m.form.scale_blocks) {
    m.scale_a = d.in(*flatten(d.operand(4)).at(0), 4),
    m.scale_b = d.in(*flatten(d.operand(6)).at(0), 4);
    for (int side = 0; side < 2; ++side) {
      const auto list = flatten(d.operand(5 + 2 * side));
      for (int k = 0; k < 2; ++k) m.select[2 * side + k] = d.in(*list.at(size_t(k)), 2);
    }
  }
  m.name = d.instruction.spelling();
  m.operations = 2ull * uint64_t(m.form.m) * uint64_t(m.form.n) * uint64_t(m.form.k);
  d.op.converges = true;
  d.op.kind = InstructionClass::mma;
  d.op.run = run_mma;
}

// --- ldmatrix, stmatrix, movmatrix ---

struct MatrixOp {
  MatrixForm form;
  AddressForm address;
  uint32_t slots[4];
};

// A lane's row is its read or write, as far as order between lanes goes. Returns the rows that
// nothing wrote.
uint32_t access_rows(Warp& w, const Op& op, const MatrixOp& m, Access::Kind kind, Place* places) {
  uint64_t addresses[kLanes];
  read_addresses(w, m.address, addresses);
  const uint32_t all = w.mask;
  w.mask = m.form.rows == kLanes ? kAllLanes : (1u << m.form.rows) - 1;
  Access access{kind, false, kMatrixRowBytes};
  Counters& counters = *w.launch().counters;
  access.wavefronts = m.form.is_store ? &counters.stmatrix : &counters.ldmatrix;
  uint32_t unwritten = 0;
  if (kind == Access::Kind::read) access.unwritten = &unwritten;
  access_memory(w, op, m.address.space, addresses, access, places);
  for_active(w.mask, [&](int l) {
    if (!places[l].shared_block)
      fault(w, op, Report::Kind::out_of_bounds, 1u << l, "takes addresses of shared memory");
  });
  w.mask = all;
  return unwritten;
}

Flow run_ldmatrix(Warp& w, const Op& op) {
  const auto& m = *static_cast<const MatrixOp*>(op.form);
  Place places[kLanes];
  const uint32_t unwritten = access_rows(w, op, m, Access::Kind::read, places);
  uint8_t rows[kLanes][kMatrixRowBytes];
  for (int i = 0; i < m.form.rows; ++i) memcpy(rows[i], places[i].data, kMatrixRowBytes);
  uint32_t* registers[4];
  for (int i = 0; i < m.form.registers; ++i) registers[i] = w.lanes<uint32_t>(m.slots[i]);
  rows_to_fragment(m.form, rows, registers);
  // Of 8x8 matrices row r is in lanes 4r to 4r + 3, or transposed in every fourth from r / 2 on.
  const bool plain = m.form.shape == MatrixForm::Shape::m8n8;
  for_active(unwritten, [&](int row) {
    const uint32_t lanes = !plain             ? kAllLanes
                           : m.form.transpose ? 0x11111111u << (row % 8 / 2)
                                              : 0xfu << (row % 8 * 4);
    for (int i = 0; i < m.form.registers; ++i)
      if (!plain || i == row / 8) set_taint(w, m.slots[i], taint_of(w, m.slots[i]) | lanes);
  });
  return Flow::next;
}

Flow run_stmatrix(Warp& w, const Op& op) {
  const auto& m = *static_cast<const MatrixOp*>(op.form);
  Place places[kLanes];
  access_rows(w, op, m, Access::Kind::write, places);
  const uint32_t* registers[4];
  for (int i = 0; i < m.form.registers; ++i) registers[i] = w.lanes<uint32_t>(m.slots[i]);
  uint8_t rows[kLanes][kMatrixRowBytes];
  fragment_to_rows(m.form, registers, rows);
  for (int i = 0; i < m.form.rows; ++i) memcpy(places[i].data, rows[i], kMatrixRowBytes);
  return Flow::next;
}

void decode_matrix_op(Decode& d) {
  MatrixOp& m = d.form<MatrixOp>();
  m.form = decode_matrix(d.instruction);
  consume_all(d);
  d.expect_operands(2, 2);
  m.address = decode_address(d, d.operand(m.form.is_store ? 0 : 1),
                             m.form.is_generic ? SpaceKind::generic : SpaceKind::shared);
  const auto list = flatten(d.operand(m.form.is_store ? 1 : 0));
  if (int(list.size()) != m.form.registers)
    d.fail("has another number of registers than its shape takes");
  for (size_t i = 0; i < list.size(); ++i)
    m.slots[i] = m.form.is_store ? d.in(*list[i], 4) : d.out(*list[i], 4);
  d.op.converges = true;
  d.op.kind = m.form.is_store ? InstructionClass::stmatrix : InstructionClass::ldmatrix;
  d.op.run = m.form.is_store ? run_stmatrix : run_ldmatrix;
}

void decode_movmatrix(Decode& d) {
  check_movmatrix(d.instruction);
  consume_all(d);
  d.expect_operands(2, 2);
  d.op.slot[0] = d.out(0, 4), d.op.slot[1] = d.in(1, 4);
  d.op.converges = true;
  d.op.kind = InstructionClass::move;
  d.op.run = [](Warp& w, const Op& op) {
    transpose_fragment(w.lanes<uint32_t>(op.slot[1]), w.lanes<uint32_t>(op.slot[0]));
    return Flow::next;
  };
}

}  // namespace

// D's element (i, j) needs row i of A, column j of B and the same element of C (layouts: mma.h).
bool taint_mma(Warp& w, const Op& op) {
  if (op.run != run_mma) return false;
  const auto& m = *static_cast<const MmaOp*>(op.form);
  const bool packed = m.form.d == Accumulator::f16;
  uint32_t d[8] = {};
  for (int r = 0; r < m.form.c_registers && r < m.form.d_registers; ++r) d[r] = taint_of(w, m.c[r]);
  for (int r = 0; r < m.form.a_registers; ++r)
    for_active(taint_of(w, m.a[r]), [&](int lane) {
      const uint32_t group = 0xfu << (lane / 4 * 4);
      for (int i = 0; i < m.form.d_registers; ++i)
        if (m.form.m == 8 || (packed ? i : i / 2) % 2 == r % 2) d[i] |= group;
    });
  for (int r = 0; r < m.form.b_registers; ++r)
    for_active(taint_of(w, m.b[r]), [&](int lane) {
      const int column = lane / 4;
      for (int i = 0; i < m.form.d_registers; ++i)
        if (packed || i % 2 == column % 2) d[i] |= 0x11111111u << (column / 2);
    });
  for (int i = 0; i < m.form.d_registers; ++i) set_taint(w, m.d[i], d[i]);
  return true;
}

std::initializer_list<DecodeEntry> tensor_opcodes() {
  static const std::initializer_list<DecodeEntry> all = {{"mma", decode_mma_op},
                                                         {"ldmatrix", decode_matrix_op},
                                                         {"stmatrix", decode_matrix_op},
                                                         {"movmatrix", decode_movmatrix}};
  return all;
}

}  // namespace ptxsim
