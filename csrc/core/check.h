// SPDX-License-Identifier: Apache-2.0
// WW_CHECK: always on. The message names the op and the argument, gives the value and what is
// supported; it reaches Python as a ValueError. For host code only, never for per-ISA files.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace ww {

struct Error : std::invalid_argument {  // crosses into Python as ValueError
  using std::invalid_argument::invalid_argument;
};

template <typename... Args>
[[noreturn]] void fail(const Args&... args) {
  std::ostringstream message;
  (message << ... << args);
  throw Error(message.str());
}

}  // namespace ww

#define WW_CHECK(cond, ...)               \
  do {                                    \
    if (!(cond)) ::ww::fail(__VA_ARGS__); \
  } while (0)
