// SPDX-License-Identifier: Apache-2.0
// A kernel's name for people: without unnamed namespaces and parameters, and without template
// arguments if it is still long.
#pragma once

#include <string>

namespace ptxsim { std::string readable_name(const std::string& mangled); }  // namespace ptxsim
