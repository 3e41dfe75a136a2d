# SPDX-License-Identifier: Apache-2.0
"""Which instructions exist: what the simulator takes, and what ptxas does."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from ptxsim import build
from ptxsim.driver import simulator
from ptxsim.tests.opcodes.table import DECLARED, DEVICE, HEAD, TARGET, Case

BEFORE = f"{HEAD}.global .align 128 .b8 memory[4096];\n.visible .entry k() {{\n{DECLARED}\n"


@cache
def refusal(line: str, head: str = BEFORE) -> str:
    """Why the simulator does not load an instruction; "" if it does."""
    sim = simulator()
    try:
        sim.load(f"{head}{line}\nret; }}\n")
    except RuntimeError as error:
        return str(error)
    return ""


def accepted(cases: Iterable[Case]) -> list[Case]:
    """Those whose instruction the simulator loads."""
    simulator().reset(DEVICE)
    taken = [case for case in cases if not refusal(case.instruction())]
    assert taken
    return taken


def ptxas_accepts(lines: Sequence[str], head: str = BEFORE) -> list[bool]:
    first = head.count("\n") + 1
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "forms.ptx"
        source.write_text(head + "\n".join(lines) + "\nret; }\n")
        ptxas = Path(build.nvcc()).resolve().parent / "ptxas"
        command = [str(ptxas), f"-arch={TARGET}", "-O0", str(source), "-o", f"{folder}/cubin"]
        errors = subprocess.run(command, capture_output=True, text=True).stderr
    bad = {int(m.split(";")[0]) - first for m in errors.split(", line ")[1:]}
    return [i not in bad for i in range(len(lines))]


def agree_with_ptxas(cases: Sequence[Case], beyond: Sequence[str] = ()) -> None:
    """The simulator loads the instructions that ptxas takes, and no other. `beyond` are prefixes of
    forms that ptxas takes although the ISA does not have them, and the simulator refuses."""
    simulator().reset(DEVICE)
    lines = [case.instruction() for case in cases]
    out = []
    for case, line, exists in zip(cases, lines, ptxas_accepts(lines), strict=True):
        why = refusal(line)
        is_beyond = any(case.form.startswith(prefix) for prefix in beyond)
        if (not why) != (exists and not is_beyond):
            out.append(f"{line} {'refused: ' + why if why else 'taken'}, ptxas: {exists}")
    assert not out, "\n".join(out)
