// SPDX-License-Identifier: Apache-2.0
// The parts of an op's workspace, each on 256 bytes.
#pragma once

#include <stdint.h>

namespace ww {

constexpr int64_t on_256_bytes(int64_t bytes) { return (bytes + 255) / 256 * 256; }

struct WorkspaceParts {
  void* base;  // null: only `bytes`, what all take, is of use
  int64_t bytes = 0;

  template <typename T>
  T* take(int64_t count) {
    const int64_t at = bytes;
    bytes += on_256_bytes(count * int64_t(sizeof(T)));
    return reinterpret_cast<T*>(static_cast<char*>(base) + at);
  }
};

}  // namespace ww
