// SPDX-License-Identifier: Apache-2.0
// Special registers, as constants of a frame: PTX ISA 10.
#include <cstring>

#include "engine/calls.h"
#include "engine/launch.h"

namespace ptxsim {
namespace {

uint64_t value_of(const Warp& w, ptx::Special special, int lane) {
  using S = ptx::Special;
  const Launch& launch = w.launch();
  const LaunchConfig& c = launch.config;
  const Block& block = *w.block;
  const Cluster& cluster = *block.cluster;
  const Dim3 t = w.thread(lane);
  const Dim3 clusters{c.grid.x / c.cluster.x, c.grid.y / c.cluster.y, c.grid.z / c.cluster.z};
  const Dim3 in_cluster{block.index.x % c.cluster.x, block.index.y % c.cluster.y,
                        block.index.z % c.cluster.z};
  const uint32_t bit = 1u << lane;
  switch (special) {
    case S::tid_x: return t.x;
    case S::tid_y: return t.y;
    case S::tid_z: return t.z;
    case S::ntid_x: return c.block.x;
    case S::ntid_y: return c.block.y;
    case S::ntid_z: return c.block.z;
    case S::ctaid_x: return block.index.x;
    case S::ctaid_y: return block.index.y;
    case S::ctaid_z: return block.index.z;
    case S::nctaid_x: return c.grid.x;
    case S::nctaid_y: return c.grid.y;
    case S::nctaid_z: return c.grid.z;
    case S::laneid: return uint64_t(lane);
    case S::warpid: return w.index;
    case S::nwarpid: return uint64_t(launch.device.warps_per_sm);
    case S::smid: {
      const uint64_t linear =
          block.index.x + uint64_t(c.grid.x) * (block.index.y + uint64_t(c.grid.y) * block.index.z);
      return linear % uint64_t(launch.device.sms);
    }
    case S::nsmid: return uint64_t(launch.device.sms);
    case S::gridid: return launch.id;
    case S::lanemask_eq: return bit;
    case S::lanemask_lt: return bit - 1;
    case S::lanemask_le: return bit | (bit - 1);
    case S::lanemask_ge: return ~uint32_t(bit - 1);
    case S::lanemask_gt: return ~uint32_t(bit | (bit - 1));
    case S::is_explicit_cluster: return c.cluster.count() > 1;
    case S::clusterid_x: return cluster.index.x;
    case S::clusterid_y: return cluster.index.y;
    case S::clusterid_z: return cluster.index.z;
    case S::nclusterid_x: return clusters.x;
    case S::nclusterid_y: return clusters.y;
    case S::nclusterid_z: return clusters.z;
    case S::cluster_ctaid_x: return in_cluster.x;
    case S::cluster_ctaid_y: return in_cluster.y;
    case S::cluster_ctaid_z: return in_cluster.z;
    case S::cluster_nctaid_x: return c.cluster.x;
    case S::cluster_nctaid_y: return c.cluster.y;
    case S::cluster_nctaid_z: return c.cluster.z;
    case S::cluster_ctarank: return block.rank;
    case S::cluster_nctarank: return c.cluster.count();
    case S::total_smem_size: return launch.shared_bytes - kSharedBase;
    case S::aggr_smem_size: return launch.shared_bytes;
    case S::dynamic_smem_size: return c.dynamic_shared;
    case S::current_graph_exec: return 0;
    case S::envreg1: return launch.grid_workspace >> 32;
    case S::envreg2: return launch.grid_workspace & 0xffffffff;
    case S::reserved_smem_offset_1: return 0;
    case S::warp_sz: return kLanes;
    default: return 0;  // clocks, which the decoder does not make constants of
  }
}

}  // namespace

void fill_specials(const Warp& w, const Program& program, uint8_t* registers) {
  for (const Program::SpecialSlot& s : program.specials)
    for (int l = 0; l < kLanes; ++l) {
      const uint64_t value = value_of(w, s.special, l);
      if (s.special == ptx::Special::is_explicit_cluster && s.bytes == 0) {
        if (value) memset(registers + s.slot, 0xff, 4);
        continue;
      }
      memcpy(registers + s.slot + uint32_t(l * s.bytes), &value, size_t(s.bytes));
    }
}

uint64_t clock_of(const Warp& w) { return w.launch().instructions; }

}  // namespace ptxsim
