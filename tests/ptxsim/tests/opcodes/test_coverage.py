# SPDX-License-Identifier: Apache-2.0
"""Every instruction that this repository's kernels and the oracles use has a unit test: the table.

A form is an opcode with all modifiers but those that the simulator has no use for. The forms of the
oracles are those of oracles/forms.txt, which is held equal to what compiled oracles contain;
`python -m ptxsim.tests.opcodes.test_coverage` writes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

from ptxsim import build
from ptxsim.driver import simulator
from ptxsim.oracles import build as oracles
from ptxsim.tests.opcodes import (
    program,
    table,
    test_async,
    test_atomic,
    test_barrier,
    test_compare,
    test_control,
    test_float,
    test_integer,
    test_logic,
    test_memory,
    test_tensor,
    test_warp,
)
from ptxsim.tests.opcodes.assembler import accepted
from ptxsim.tests.ptx import sources

FORMS = Path(oracles.__file__).parent / "forms.txt"

# Modifiers that change nothing: caches are not simulated, and .uni is a promise of the compiler.
NO_ACTION = re.compile(
    r"\.(L[12]::(evict_\w+|no_allocate|cache_hint|\d+B)|c[agsv]|lu|w[bt]|nc|uni)(?=\.|$)"
)
# What tests/tensor checks as functions of the instruction's text, all forms that ptxas takes; here
# (test_tensor.py) and in the oracles the engine runs them.
FUNCTIONS = {
    "cvt.": "tensor/test_convert.py", "mma.": "tensor/test_mma.py",
    "ldmatrix.": "tensor/test_memory.py", "stmatrix.": "tensor/test_memory.py",
    "wgmma.": "tensor/test_memory.py", "cp.async.bulk.tensor.": "tensor/test_tma.py",
    "wmma.": "tensor/test_wmma.py",
}  # fmt: skip
# What only a whole kernel can use; the oracles' results depend on it.
KERNELS = {
    "tensormap.": "oracles: sm90_grouped changes its tensor maps",
    "clusterlaunchcontrol.": "oracles: sm120 kernels take over clusters that have not started",
    "prefetch.tensormap": "no action",
}


SCOPE = r"(?:\.(?:cta|cluster|gpu|sys))?"
ORDER = rf"(?:weak|volatile|mmio\.relaxed\.sys|(?:relaxed|acquire|release|acq_rel){SCOPE})"


def plain(form: str) -> str:
    """Without modifiers of no action, the order of an access before its space."""
    return re.sub(rf"^(ld|st|atom|red)\.(global|shared)\.({ORDER})\.", r"\1.\3.\2.",
                  NO_ACTION.sub("", form))  # fmt: skip


def needed(form: str) -> list[str]:
    """The forms that must be tested: orders of accesses are apart from types and vectors."""
    form = plain(form)
    found = re.match(rf"(ld|st|atom|red)\.({ORDER})\.((?:global|shared(?:::\w+)?)\.)?(.*)$", form)
    if not found:
        return [form]
    opcode, order, space, rest = found[1], found[2], found[3] or "", found[4]
    word = "b32" if opcode in ("ld", "st") else "add.u32"
    return [f"{opcode}.{order}.{space}{word}", f"{opcode}.{space}{rest}"]


def texts() -> dict[str, list[str]]:
    """The PTX that each test module runs."""
    tables = {
        "test_integer.py": [*test_integer.CASES, *test_integer.carries()],
        "test_float.py": test_float.CASES, "test_logic.py": test_logic.CASES,
        "test_compare.py": test_compare.CASES, "test_tensor.py": test_tensor.CASES,
        "test_warp.py": test_warp.with_mask(test_warp.cases()),
    }  # fmt: skip
    out = {name: [table.kernel(accepted(cases))[0]] for name, cases in tables.items()}
    for module in (test_control, test_barrier, test_async, test_tensor):
        programs: Iterable[program.Program] = module.PROGRAMS.values()
        name = module.__name__.rpartition(".")[2] + ".py"
        out.setdefault(name, []).extend(p.ptx() for p in programs if test_async.taken(p))
    out["test_control.py"] += [test_control.PRINT.ptx()]
    out["test_control.py"] += [
        program.Program(body, []).ptx() for body, _ in test_control.FAULTS.values()
    ]
    accesses = "".join(a.instruction() for a in test_memory.taken(list(test_memory.accesses())))
    whole = f"{test_memory.HEAD}{test_memory.BEFORE}{accesses}ret; }}"
    out["test_memory.py"] = [test_memory.PARAMETERS, whole]
    out["test_atomic.py"] = [test_atomic.BEFORE + "".join(
        a.instruction() for a in test_atomic.taken()) + "ret; }"]  # fmt: skip
    return out


@cache
def forms_tested() -> dict[str, str]:
    """Form: the module that runs it."""
    found: dict[str, str] = {}
    for name, module in texts().items():
        for ptx in module:
            for form in simulator().forms(ptx):
                found.setdefault(plain(form), name)
    return found


@cache
def used() -> dict[str, set[str]]:
    """Form: the kernels and oracles that use it."""
    found: dict[str, set[str]] = {}
    for form in FORMS.read_text().split():
        found.setdefault(form, set()).add("oracles")
    for name, text in sources.texts():
        for form in simulator().forms(text):
            found.setdefault(form, set()).add(name)
    return found


def covered_by(form: str) -> str:
    """The tests of a form, "" if there are none."""
    for prefix, where in (FUNCTIONS | KERNELS).items():
        if form.startswith(prefix):
            return where
    where = [forms_tested().get(part, "") for part in needed(form)]
    return ", ".join(sorted(set(where))) if all(where) else ""


def test_every_form_has_a_test() -> None:
    rows = {form: covered_by(form) for form in sorted(used())}
    for form, where in rows.items():
        print(f"{form:80} {', '.join(sorted(used()[form])):28} {where or 'NOTHING'}")
    print(f"{len(rows)} forms; the tests run {len(forms_tested())}")
    assert [form for form, where in rows.items() if not where] == []
    if not build.warpweave().is_file():
        pytest.skip("the package's kernels are not among them: WARPWEAVE_SIMULATION=ON")


def compiled_oracles() -> dict[str, list[str]]:
    """Those whose libraries are there."""
    found = {}
    for name in oracles.TARGETS:
        for library in build.BUILD.glob(f"**/lib{name}-*.so"):
            found[name] = simulator().forms(oracles.ptx(library))
    return found


def test_forms_of_the_oracles_are_listed() -> None:
    found = compiled_oracles()
    if not found:
        pytest.skip("no oracle is compiled")
    listed = set(FORMS.read_text().split())
    contained = {form for forms in found.values() for form in forms}
    assert sorted(contained - listed) == []
    if set(found) == set(oracles.TARGETS):  # the others are of Triton's kernels
        assert len(listed) >= len(contained)


if __name__ == "__main__":
    everything = {form for forms in compiled_oracles().values() for form in forms}
    FORMS.write_text("\n".join(sorted(everything | set(FORMS.read_text().split()))) + "\n")
