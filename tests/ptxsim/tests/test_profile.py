# SPDX-License-Identifier: Apache-2.0
"""python -m ptxsim profile, on a program that launches two kernels and knows what one must move."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ptxsim import build

TESTS = Path(build.__file__).resolve().parents[1]
PROGRAM = """
import ctypes, sys
import numpy as np
from ptxsim import build
from ptxsim.driver import aligned, simulator

library = ctypes.CDLL(str(build.kernels("counters", "90a")))
x, y = (aligned(np.zeros(64, np.float32)) for _ in range(2))
with simulator().exposed({"x": x}, {"y": y}), simulator().op("copy", 2 * x.nbytes):
    library.run_strided_load(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data),
                             1, 0, 1, 64)
library.run_strided_shared(32)
print("arguments", sys.argv[1:])
sys.exit(3)
"""


@pytest.mark.parametrize("form", ["table", "json"])
def test_profile(tmp_path: Path, form: str) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "ptxsim", "profile", "--device", "h100", "--no-checks"]
    command += ["--json"] * (form == "json") + [str(tmp_path / "program.py"), "--seed", "x"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(TESTS)},
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 3, done.stderr  # the program's own
    first, _, rest = done.stdout.partition("\n")
    assert first == "arguments ['--seed', 'x']"
    if form == "json":
        got = json.loads(rest)
        assert got["device"]["name"] == "H100"
        assert [c["kernel"] for c in got["launches"]] == ["strided_load", "strided_shared<Word>"]
        assert all(c["registers_known"] for c in got["launches"])
        assert got["ops"] == [{"name": "copy", "compulsory_bytes": 512, "first": 0, "end": 1}]
    else:
        words = " ".join(rest.split())
        for expected in ("NVIDIA H100 80GB HBM3, simulated", "strided_load <<<1, 64>>>",
                         "512 = 1.00x compulsory", "32 / 32.00x", "lower bound"):  # fmt: skip
            assert expected in words
