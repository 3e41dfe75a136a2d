// SPDX-License-Identifier: Apache-2.0
// The fat binary that nvcc puts into host objects: PTX and machine code for several targets.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/device.h"

namespace ptxsim::runtime {

struct Target {     // "sm_90a"
  int number = 0;   // 90
  char suffix = 0;  // 'a': this architecture only; 'f': its family; 0: it and all newer
  std::string name() const;
};

struct Image {
  Target target;
  bool is_ptx = false, is_compressed = false;
  std::string_view text;  // of uncompressed PTX
};

// `wrapper` is what __cudaRegisterFatBinary gets. Throws std::runtime_error if it is not
// understood.
std::vector<Image> read_fat_binary(const void* wrapper);

bool runs_on(const Target& target, const Device& device);
// The PTX with the highest target that the device runs, or null.
const Image* choose_image(const std::vector<Image>& images, const Device& device);

}  // namespace ptxsim::runtime
