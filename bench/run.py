# SPDX-License-Identifier: Apache-2.0
"""Runs the benchmarks of the ops: python bench/run.py [WORD ...] [--device D] [--json FILE].

A WORD picks the files bench_*.py whose name contains it, or the cases whose shape does. On
`sim:NAME` (A100, H100, "RTX PRO 6000" ..) CUDA kernels are counted, not timed: bench/simulated.py.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

import harness


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="parts of names of ops or of shapes")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or sim:NAME")
    parser.add_argument("--isa", help="use no CPU instruction set above this one")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="also append one JSON object a case to this file")
    parser.add_argument(
        "--cpu-time", action="store_true",
        help="one thread, timed by the CPU time it gets: for machines that are busy otherwise",
    )  # fmt: skip
    options = parser.parse_args()
    if options.cpu_time:
        options.threads, harness.clock = 1, time.process_time
    torch.set_num_threads(options.threads)
    if options.isa:
        from warpweave import _native

        _native.set_cpu_isa(options.isa)
    if options.device.startswith("sim:"):
        import simulated

        rows = simulated.run(options.device.removeprefix("sim:"), options.words)
        report(rows, simulated.line, options.json)
        return
    if options.device not in ("cpu", "cuda"):
        parser.error(f"--device is {options.device!r}; supported: cpu, cuda, sim:NAME")
    harness.device = options.device
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        name = path.stem.removeprefix("bench_")
        named = any(word in name for word in options.words)
        cases = [
            case for case in importlib.import_module(path.stem).cases()
            if named or not options.words or any(word in case.shape for word in options.words)
        ]  # fmt: skip
        if cases:
            report(harness.run_cases(name, cases), harness.line, options.json)


def report(rows: Iterable[dict[str, Any]], line: Callable[[dict[str, Any]], str],
           json_file: Path | None) -> None:  # fmt: skip
    for row in rows:
        print(line(row), flush=True)
        if json_file:
            with json_file.open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
