# SPDX-License-Identifier: Apache-2.0
"""What does not parse is refused with its line, and nothing else ever happens."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ptxsim.driver import simulator

HEAD = ".version 9.0\n.target sm_90a\n.address_size 64\n"  # 3 lines
BODY = (
    HEAD + ".visible .entry k(.param .u64 a)\n{\n"
    ".reg .b32 %r<4>;\n.reg .b64 %rd<3>;\n.reg .pred %p<2>;\n"
)  # what follows is line 9
FULL = (
    BODY
    + """{ .param .b32 p0; st.param.b32 [p0], 3; .param .b32 r0; call.uni (r0), f, (p0);
ld.param.b32 %r1, [r0]; }
ts: .branchtargets A, B;
brx.idx %r1, ts;
A: add.s32 %r1, -1, 017; @!%p1 bra A;
B: }
"""
)
FULL = FULL.replace(
    HEAD,
    HEAD
    + """.global .align 8 .u64 t[2] = {generic(g)+4, 3};
.global .u32 g;
.func (.param .b32 r) f(.param .b32 x)
{ .reg .b32 %r<2>; ld.param.b32 %r1, [x]; st.param.b32 [r+0], %r1; ret; }
""",
)

# Text, line of the error, part of its message. Of whole modules:
MODULES = [
    ("", 1, "expected '.version'"),
    (".version 9.0\n.target sm_20x\n", 2, "unknown target"),
    (".version 9.0\n.target sm_90, foo\n", 2, "unknown target option"),
    (".version 9.0\n.target sm_90\n.address_size 32\n", 3, "64"),
]
# Behind HEAD:
DECLARATIONS = [
    ("\n.foo x;\n", 5, "unknown directive '.foo'"),
    (".global .u33 x;\n", 4, "unknown type '.u33'"),
    (".global .align 3 .u32 x;\n", 4, "power of two"),
    (".global .u32 x;\n.global .u32 x;\n", 5, "declared twice"),
    (".global .u8 x = 256;\n", 4, "does not fit"),
    (".global .u8 x = -129;\n", 4, "does not fit"),
    (".global .u8 x[2] = {1,2,3};\n", 4, "more initial values"),
    (".global .u64 x = y;\n", 4, "undeclared name 'y'"),
    (".global .u32 y;\n.global .u32 x = y;\n", 5, "64 bits"),
    (".global .u32 y;\n.global .u8 x[9] = {0xFF(y), 0xFF00(y), 3};\n", 5, "every byte"),
    (".global .u32 y;\n.global .u8 x[9] = {0xFF(y), 0xFF0000(y)};\n", 5, "follow each other"),
    (".shared .u32 y = 3;\n", 4, "has none"),
    (".global .u32 y[];\n", 4, "without a size"),
    (".local .u32 y;\n", 4, "outside a function"),
    (".section .foo { }\n", 4, "unknown section"),
    (".section .debug_str\n{\n.b8 1\n", 7, "not closed"),
    ('.file 1 "a\n', 4, "does not end"),
    ("/* abc\n\n", 4, "does not end"),
    (".entry k() .blocksareclusters { ret; }\n", 4, "not supported"),
    (".entry k() .foo 3 { ret; }\n", 4, "unknown directive '.foo'"),
    (".entry k() .maxntid 1, 2, 3, 4 { ret; }\n", 4, "three"),
    (".entry k(.reg .u32 x) { ret; }\n", 4, "expected '.param'"),
    (".entry k() { ret; }\n.entry k() { ret; }\n", 5, "two bodies"),
    (".func f(.param .b32 x);\n.func f(.param .b64 x) { ret; }\n", 5, "differs"),
    (".alias a, b;\n", 4, "unknown directive '.alias'"),
]
# Behind BODY:
BODIES = [
    ("mov.b32 %r1, %foo;\n}\n", 9, "undeclared register '%foo'"),
    ("mov.b32 %r1, %r4;\n}\n", 9, "undeclared register '%r4'"),
    ("\nmov.b32 %r1, %tid.w;\n}\n", 10, "unknown special register '%tid.w'"),
    ("mov.b32 %r1, %pm0;\n}\n", 9, "'%pm0'"),
    ("mov.b32 %r1, %ctaid.x.y;\n}\n", 9, "expected ';'"),
    ("bra L1;\nret;\n}\n", 9, "undeclared name 'L1'"),
    ("{ L1: }\nbra L1;\n}\n", 10, "undeclared name 'L1'"),
    ("{ .reg .b32 t;\n}\nmov.b32 %r1, t;\n}\n", 11, "undeclared name 't'"),
    ("mov.b32 %r1, t;\n.reg .b32 t;\n}\n", 9, "before it is declared"),
    ("L:\nL:\n}\n", 10, "declared twice"),
    (".reg .b32 %r3;\n}\n", 9, "declared twice"),
    (".reg .b33 x;\n}\n", 9, "unknown type '.b33'"),
    (".global .b32 x;\n}\n", 9, "inside a function"),
    (".foo;\n}\n", 9, "unknown directive '.foo'"),
    ('.pragma "bar";\n}\n', 9, "unknown pragma"),
    ("{ ret;\n", 10, "'{' of line 9 is not closed"),
    ("ret;\n", 10, "'{' of line 5 is not closed"),
    ("ret;\n}\n}\n", 11, "expected a directive but found '}'"),
    ("add.s32 %r1, %r2", 9, "expected ';' but found the end"),
    ("add.s32 %r1,\n;", 10, "expected an operand"),
    ("ld.global.u32 %r1, [%rd1;\n}", 9, "expected ']'"),
    ("ld.global.u32 %r1, [%rd1+%rd2];\n}", 9, "expected an offset"),
    ("ld.global.u32 %r1, [L];\nL: }", 9, "an address of"),
    ("ld.global.u32 %r1, [{%r1}];\n}", 9, "an address of"),
    ("@%r1 ret;\n}", 9, "is no predicate"),
    ("@%q ret;\n}", 9, "undeclared register"),
    ("selp.b32 %r1, 1, 2, !%r1;\n}", 9, "'!'"),
    ("setp.eq.s32 %p0|3, 1, 2;\n}", 9, "a pair"),
    ("mov.b32 %r1, 0x;\n}", 9, "no number"),
    ("mov.b32 %r1, 09;\n}", 9, "no number"),
    ("mov.b32 %r1, 12ab;\n}", 9, "no number"),
    ("mov.b32 %r1, 0f3F80000;\n}", 9, "wrong number of digits"),
    ("mov.b32 %r1, 18446744073709551616;\n}", 9, "does not fit"),
    ("mov.b32 %r1, -9223372036854775809;\n}", 9, "does not fit"),
    ("mov.b32 %r1, #3;\n}", 9, "unexpected character '#'"),
    ("mov..b32 %r1, 3;\n}", 9, "without a name"),
    (".loc 1 2 3\nret;\n}", 9, "undeclared file 1"),
    (
        '.loc 1 2 3, function_name X, inlined_at 1 2 3\nret;\n}\n.file 1 "a"\n',
        9,
        "undeclared name 'X'",
    ),
    ("call f, (%r1);\n}", 9, "undeclared name 'f'"),
    ("ts: .branchtargets A, B;\nA:\n}", 9, "undeclared name 'B'"),
    ("ts: .calltargets f;\n}", 9, "undeclared function 'f'"),
    ("mov.b64 %rd1, L+4;\nL: ret; }", 9, "offset"),
    ("mov.b32 %r1, %r2+4;\n}", 9, "expected ';'"),
    (".reg .v2 .b32 v;\nmov.b32 %r1, v.z;\n}", 10, "no element"),
]
REFUSED = [
    *MODULES,
    *((HEAD + text, line, part) for text, line, part in DECLARATIONS),
    *((BODY + text, line, part) for text, line, part in BODIES),
]


def error_of(ptx: str) -> str:
    try:
        simulator().parse(ptx)
    except RuntimeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("ptx", "line", "part"), REFUSED)
def test_refused(ptx: str, line: int, part: str) -> None:
    error = error_of(ptx)
    assert part in error
    assert error.endswith(f" at PTX line {line}")


def test_every_truncation_parses_or_names_a_line() -> None:
    for end in range(len(FULL)):
        if error := error_of(FULL[:end]):
            found = re.search(r" at PTX line (\d+)$", error)
            assert found
            assert 1 <= int(found[1]) <= FULL.count("\n", 0, end) + 1


def test_mutants_parse_to_what_prints_the_same() -> None:
    rng = np.random.default_rng(1)
    letters = '{}()[];,.:+-@!|%_$"ax019 \n<>=/*'
    parsed = 0
    for i in range(20000):
        text = list(FULL)
        for at in rng.integers(0, len(text), 1 + i % 3):
            text[at] = letters[rng.integers(0, len(letters))]
        try:
            printed = simulator().parse("".join(text))
        except RuntimeError:
            continue
        parsed += 1
        assert simulator().parse(printed) == printed
    assert parsed > 400
