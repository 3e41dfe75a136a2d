// SPDX-License-Identifier: Apache-2.0
// A kernel's name for people: without its parameters, and if it is still long without template
// arguments.
#pragma once

#include <string>

namespace ptxsim { std::string readable_name(const std::string& mangled); }  // namespace ptxsim
