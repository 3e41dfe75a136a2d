// SPDX-License-Identifier: Apache-2.0
// Declarations of variables and parameters, with their initial values.
#pragma once

#include "ptx/lexer.h"

namespace ptxsim::ptx {

// What stands between the state space and the first name: ".align 4 .b8".
struct VariableHead {
  Variable variable;
  uint64_t lanes = 1;                                        // of .v2 and .v4
};

bool parse_space(std::string_view directive, Space* space);  // "shared"
VariableHead parse_variable_head(Lexer& lexer, Space space);
// One "name[4][2] = {...}" of the list after the head, in which linkage is already set.
Variable parse_declarator(Lexer& lexer, const VariableHead& head, std::string_view* name);
// "(.param .b32 a, .param .align 8 .b8 b[16])", of which the parenthesis may be absent.
std::vector<Variable> parse_parameters(Lexer& lexer, std::vector<std::string_view>* names);

}  // namespace ptxsim::ptx
