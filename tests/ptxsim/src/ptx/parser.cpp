// SPDX-License-Identifier: Apache-2.0
// A module: its header, variables, functions and debug information.
#include <algorithm>
#include <unordered_set>

#include "ptx/function_parser.h"
#include "ptx/variables.h"

namespace ptxsim::ptx {

namespace {

// Cluster, block and multiprocessor sizes are all far below it.
constexpr uint64_t kMaxDimension = 1 << 20;

struct Linkage { bool is_extern = false, is_visible = false, is_weak = false; };

class ModuleParser {
 public:
  explicit ModuleParser(std::string_view text) : lexer_(text) {}

  Module parse();

 private:
  void parse_header();
  void parse_target();
  void parse_statement();
  void parse_file();
  void parse_section();
  void parse_variables(Space space, const Linkage& linkage);
  void parse_function(bool is_entry, const Linkage& linkage);
  Function* declare_function(std::string_view name, Function made);
  void parse_launch_directives(Function& function);
  void parse_dimensions(uint32_t (&sizes)[3]);
  void check_late_uses() const;

  Lexer lexer_;
  Module module_;
  ModuleNames names_;
  LateUses late_;
  std::unordered_set<std::string_view> info_strings_;  // labels of .debug_str
};

Module ModuleParser::parse() {
  parse_header();
  while (lexer_.peek().kind != Token::Kind::end) parse_statement();
  check_late_uses();
  return std::move(module_);
}

void ModuleParser::parse_header() {
  if (!lexer_.accept_directive("version")) lexer_.fail_expected("'.version'");
  const std::string_view version = lexer_.peek().text;
  const size_t point = version.find('.');
  if (lexer_.peek().kind != Token::Kind::float64 || point != 1 || version.size() != 3)
    lexer_.fail_expected("a version as in '9.0'");
  module_.version_major = version[0] - '0';
  module_.version_minor = version[2] - '0';
  lexer_.take();
  if (!lexer_.accept_directive("target")) lexer_.fail_expected("'.target'");
  parse_target();
  if (!lexer_.accept_directive("address_size")) lexer_.fail_expected("'.address_size'");
  if (lexer_.peek().kind != Token::Kind::integer || lexer_.peek().value != 64)
    lexer_.fail_expected("64, the only address size");
  lexer_.take();
}

// sm_90, sm_90a, sm_100f
void ModuleParser::parse_target() {
  const Token token = lexer_.peek();
  std::string_view number = lexer_.expect_identifier("a target");
  module_.target = number;
  const bool is_sm = number.substr(0, 3) == "sm_";
  if (is_sm) number.remove_prefix(3);
  if (is_sm && !number.empty() && (number.back() == 'a' || number.back() == 'f'))
    number.remove_suffix(1);
  if (!is_sm || number.size() < 2 || number.find_first_not_of("0123456789") != number.npos)
    throw Error(token.line, "unknown target '" + module_.target + "'");
  while (lexer_.accept(',')) {
    const std::string_view option = lexer_.peek().text;
    if (option != "debug" && option != "texmode_independent" && option != "texmode_unified")
      lexer_.fail("unknown target option " + lexer_.peek().describe());
    module_.target_options.emplace_back(lexer_.expect_identifier("a target option"));
  }
}

void ModuleParser::parse_statement() {
  if (lexer_.accept_directive("file")) return parse_file();
  if (lexer_.accept_directive("section")) return parse_section();
  Linkage linkage;
  for (;;) {
    if (lexer_.accept_directive("visible"))
      linkage.is_visible = true;
    else if (lexer_.accept_directive("extern"))
      linkage.is_extern = true;
    else if (lexer_.accept_directive("weak"))
      linkage.is_weak = true;
    else if (lexer_.accept_directive("common"))
      linkage.is_weak = true;  // one of many, zeros at first
    else
      break;
  }
  if (lexer_.accept_directive("entry")) return parse_function(true, linkage);
  if (lexer_.accept_directive("func")) return parse_function(false, linkage);
  if (lexer_.peek().kind != Token::Kind::directive) lexer_.fail_expected("a directive");
  Space space;
  if (!parse_space(lexer_.peek().text, &space))
    lexer_.fail("unknown directive " + lexer_.peek().describe());
  if (space == Space::local || space == Space::param)
    lexer_.fail(lexer_.peek().describe() + " outside a function");
  lexer_.take();
  parse_variables(space, linkage);
}

// .file 1 "name.cu", and of old compilers its time and size.
void ModuleParser::parse_file() {
  const size_t index = size_t(lexer_.expect_unsigned("a file number", 1 << 20));
  if (lexer_.peek().kind != Token::Kind::string) lexer_.fail_expected("the name of a file");
  if (index == 0 || lexer_.peek().text.empty()) lexer_.fail("a file without a number or a name");
  if (module_.files.size() <= index) module_.files.resize(index + 1);
  if (!module_.files[index].empty())
    lexer_.fail("file " + std::to_string(index) + " is declared twice");
  module_.files[index] = lexer_.take().text;
  for (int i = 0; i < 2 && lexer_.accept(','); ++i) lexer_.expect_unsigned("a number", UINT64_MAX);
}

void ModuleParser::parse_section() {
  // What nvcc -lineinfo (.debug_str, the names of inlined functions) and -G emit. They hold data
  // for debuggers alone: nothing that runs can refer to them; .file and .loc are no part of them.
  static constexpr std::string_view kKnown[] = {"debug_str", "debug_abbrev", "debug_info",
                                                "debug_loc", "debug_macinfo"};
  const std::string_view name = lexer_.peek().text;
  if (lexer_.peek().kind != Token::Kind::directive ||
      std::find(std::begin(kKnown), std::end(kKnown), name) == std::end(kKnown))
    lexer_.fail("unknown section " + lexer_.peek().describe());
  lexer_.take();
  const uint32_t line = lexer_.peek().line;
  lexer_.expect('{');
  while (!lexer_.accept('}')) {
    const Token token = lexer_.take();
    if (token.kind == Token::Kind::end)
      throw Error(token.line, "the '{' of line " + std::to_string(line) + " is not closed");
    if (name == "debug_str" && token.kind == Token::Kind::identifier && lexer_.accept(':'))
      info_strings_.insert(token.text);
  }
}

void ModuleParser::parse_variables(Space space, const Linkage& linkage) {
  VariableHead head = parse_variable_head(lexer_, space);
  head.variable.is_extern = linkage.is_extern;
  head.variable.is_visible = linkage.is_visible;
  head.variable.is_weak = linkage.is_weak;
  do {
    std::string_view name;
    Variable made = parse_declarator(lexer_, head, &name);
    const uint32_t id = uint32_t(module_.variables.size());
    const auto [at, is_new] = names_.try_emplace(name, Symbol{Symbol::Kind::variable, 0, id, 0});
    if (is_new) {
      module_.variables.push_back(std::move(made));
      continue;
    }
    const uint32_t line = made.line;
    Variable* known =
        at->second.kind == Symbol::Kind::variable ? &module_.variables[at->second.id] : nullptr;
    if (!known || (!known->is_extern && !made.is_extern) || known->space != made.space)
      throw Error(line, "'" + made.name + "' is declared twice");
    if (!made.is_extern) *known = std::move(made);
  } while (lexer_.accept(','));
  lexer_.expect(';');
}

// --- Functions ---

void ModuleParser::parse_function(bool is_entry, const Linkage& linkage) {
  Function made;
  made.is_entry = is_entry;
  made.is_extern = linkage.is_extern;
  made.is_visible = linkage.is_visible;
  made.is_weak = linkage.is_weak;
  made.line = lexer_.peek().line;
  std::vector<std::string_view> results, parameters;
  if (!is_entry) made.results = parse_parameters(lexer_, &results);
  const std::string_view name = lexer_.expect_identifier("the name of a function");
  made.name = name;
  made.parameters = parse_parameters(lexer_, &parameters);
  parse_launch_directives(made);
  made.is_declaration = lexer_.accept(';');
  if (!made.is_declaration && linkage.is_extern) lexer_.fail("an .extern function with a body");
  const bool has_body = !made.is_declaration;
  Function* function = declare_function(name, std::move(made));
  if (!has_body) return;
  FunctionParser parser(lexer_, names_, late_, *function);
  parser.declare_formals(results, parameters);
  parser.parse_body();
}

// A function keeps the place of its first declaration.
Function* ModuleParser::declare_function(std::string_view name, Function made) {
  const uint32_t id = uint32_t(module_.functions.size());
  const auto [at, is_new] = names_.try_emplace(name, Symbol{Symbol::Kind::function, 0, id, 0});
  if (is_new) {
    module_.functions.push_back(std::move(made));
    return &module_.functions.back();
  }
  if (at->second.kind != Symbol::Kind::function)
    throw Error(made.line, "'" + made.name + "' is declared twice");
  Function* known = &module_.functions[at->second.id];
  auto same = [](const std::vector<Variable>& a, const std::vector<Variable>& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                      [](const Variable& x, const Variable& y) { return x.bytes == y.bytes; });
  };
  if (!known->is_declaration && !made.is_declaration)
    throw Error(made.line, "function '" + made.name + "' has two bodies");
  if (known->is_entry != made.is_entry || !same(known->results, made.results) ||
      !same(known->parameters, made.parameters))
    throw Error(made.line, "'" + made.name + "' differs from its declaration");
  if (!made.is_declaration) *known = std::move(made);
  return known;
}

void ModuleParser::parse_launch_directives(Function& function) {
  auto number = [&] { return uint32_t(lexer_.expect_unsigned("a number", kMaxDimension)); };
  while (lexer_.peek().kind == Token::Kind::directive) {
    if (lexer_.accept_directive("pragma")) {
      parse_pragma(lexer_, &function.pragmas);
      continue;
    }
    if (!function.is_entry && lexer_.accept_directive("noreturn")) {
      function.is_noreturn = true;
      continue;
    }
    if (!function.is_entry) lexer_.fail("unknown directive " + lexer_.peek().describe());
    if (lexer_.accept_directive("maxntid"))
      parse_dimensions(function.maxntid);
    else if (lexer_.accept_directive("reqntid"))
      parse_dimensions(function.reqntid);
    else if (lexer_.accept_directive("reqnctapercluster"))
      parse_dimensions(function.reqnctapercluster);
    else if (lexer_.accept_directive("explicitcluster"))
      function.explicit_cluster = true;
    else if (lexer_.accept_directive("maxclusterrank"))
      function.maxclusterrank = number();
    else if (lexer_.accept_directive("minnctapersm"))
      function.minnctapersm = number();
    else if (lexer_.accept_directive("maxnreg"))
      function.maxnreg = number();
    else if (lexer_.peek().is_directive("blocksareclusters"))
      lexer_.fail("grids counted in clusters (.blocksareclusters) are not supported");
    else
      lexer_.fail("unknown directive " + lexer_.peek().describe());
  }
}

// .maxntid 128, 2: what is left out is 1.
void ModuleParser::parse_dimensions(uint32_t (&sizes)[3]) {
  sizes[0] = sizes[1] = sizes[2] = 1;
  int i = 0;
  do {
    if (i == 3) lexer_.fail("more than three dimensions");
    sizes[i] = uint32_t(lexer_.expect_unsigned("a size", kMaxDimension));
    if (sizes[i++] == 0) lexer_.fail("a size of zero");
  } while (lexer_.accept(','));
}

// --- What may be declared after its use ---

void ModuleParser::check_late_uses() const {
  uint32_t line = UINT32_MAX;
  std::string what;
  auto complain = [&](uint32_t at, std::string message) {
    if (at < line) line = at, what = std::move(message);
  };
  for (const auto& [file, at] : late_.files)
    if (file >= module_.files.size() || module_.files[file].empty())
      complain(at, "undeclared file " + std::to_string(file));
  for (const auto& [name, at] : late_.info_strings)
    if (!info_strings_.count(name)) complain(at, "undeclared name '" + std::string(name) + "'");
  for (const Variable& variable : module_.variables)
    for (const Variable::Relocation& relocation : variable.relocations)
      if (!names_.count(relocation.symbol))
        complain(variable.line, "undeclared name '" + relocation.symbol + "'");
  if (line != UINT32_MAX) throw Error(line, what);
}

}  // namespace

Module parse(std::string_view text) { return ModuleParser(text).parse(); }

}  // namespace ptxsim::ptx
