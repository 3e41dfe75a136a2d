# SPDX-License-Identifier: Apache-2.0
"""Plants faults into the PTX of compiled kernels, at places that their source names."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from native import Case
from warpweave import testing as kit

SOURCES = Path(__file__).resolve().parents[2] / "csrc"
Place = tuple[str, int]  # file under csrc, line


class Probe(NamedTuple):
    """A run of an op that has to notice: what the op's own tests do, on a few of their shapes."""

    op: str
    device: str
    check: Callable[[kit.Op], None]
    check_races: int = 1  # 0 where they are others' to find and would take long


def each(check_one: Callable[[kit.Op, Case], None], *cases: Case) -> Callable[[kit.Op], None]:
    def check(op: kit.Op) -> None:
        for case in cases:
            check_one(op, case)

    return check


class Fault(NamedTuple):
    source: str  # file under csrc
    name: str
    at: str  # what stands there once: the fault is in instructions that come of its lines
    find: str  # each match in one of them
    put: str = ""  # a group of `find` by \1 and so on
    nth: int | None = None  # only this one of those instructions of each kernel


class Instruction(NamedTuple):
    text: str
    places: frozenset[Place]  # its line, the line that this is inlined at, and so on


def lines_of(source: str, at: str) -> set[Place]:
    text = (SOURCES / source).read_text()
    if text.count(at) != 1:
        raise ValueError(f"{source} has {text.count(at)} places that read: {at}")
    first = text.partition(at)[0].count("\n") + 1
    return {(source, first + i) for i in range(at.count("\n") + 1)}


def without(ptx: str, kernels: frozenset[str]) -> str:
    """The module with these kernels only."""
    code, files, names_of_files = ptx.partition("\n.file")
    head, *parts = re.split(r"^(?=(?:\.\w+ )?\.entry )", code, flags=re.MULTILINE)
    kept = [part for part in parts if re.search(r"\.entry (\w+)", part)[1] in kernels]
    return "".join((head, *kept, files, names_of_files))


@cache
def located(ptx: str) -> tuple[Instruction, ...]:
    files = dict(re.findall(r'^\.file\s+(\d+) ".*?([^"/]+/[^"/]+)"', ptx, flags=re.MULTILINE))
    for number, path in re.findall(r'^\.file\s+(\d+) ".*?/csrc/([^"]+)"', ptx, flags=re.MULTILINE):
        files[number] = path
    seen: dict[tuple[str, ...], frozenset[Place]] = {}
    here: frozenset[Place] = frozenset()
    found = []
    loc = re.compile(r"\s*\.loc\s+(\d+) (\d+) (\d+)(?:.*inlined_at (\d+) (\d+) (\d+))?")
    for line in ptx.splitlines(keepends=True):
        if match := loc.match(line):
            at, outer = match.groups()[:3], match.groups()[3:]
            here = frozenset({(files[at[0]], int(at[1]))})
            if outer[0]:
                here |= seen.get(outer, frozenset({(files[outer[0]], int(outer[1]))}))
            seen[at] = here
        found.append(Instruction(line, frozenset() if match else here))
    return tuple(found)


def planted(ptx: str, fault: Fault) -> str:
    """The PTX with the fault; the same if it has no place."""
    lines = lines_of(fault.source, fault.at)
    texts, met = [], 0  # of the kernel's instructions, those with the place
    for text, places in located(ptx):
        met = 0 if ".entry" in text else met
        if places & lines and re.search(fault.find, text):
            text = re.sub(fault.find, fault.put, text) if fault.nth in (None, met) else text
            met += 1
        texts.append(text)
    return "".join(texts)
