# SPDX-License-Identifier: Apache-2.0
"""python -m ptxsim profile SCRIPT [ARGS]: what the CUDA launches of a Python program do.

The program runs in a simulated device instead of a real one; libraries of kernels that it loads
must be built as README.md says. Run it where `ptxsim` can be imported (PYTHONPATH=tests).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import runpy
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ptxsim import build
from ptxsim.driver import Op, Simulator, simulator

COLUMNS = ("", "warp instr", "DRAM bytes", "sectors / least", "wavefronts / least", "tensor MFLOP",
           "regs", "shared", "occupancy", "lower bound", "limit")  # fmt: skip
TRAFFIC = ("global_load", "global_store", "global_atomic", "cp_async_load", "bulk_load",
           "bulk_store", "tma_load", "tma_store")  # fmt: skip
SHARED = ("shared_load", "shared_store", "shared_atomic", "ldmatrix", "stmatrix", "cp_async",
          "wgmma", "bulk", "tma")  # fmt: skip

LEGEND = """\
DRAM bytes: each 32-byte sector once a launch. Sectors: by warp instruction, against the bytes asked
for. Wavefronts: against those without bank conflicts. The lower bound is the time that the busiest
unit needs at its peak; what a kernel takes is more."""


def ratio(actual: int, least: float) -> str:
    return f"{actual:,} / {actual / least:.2f}x" if least else "-"


def row(c: dict[str, Any]) -> list[str]:
    sectors, asked = (sum(c[k][part] for k in TRAFFIC) for part in ("sectors", "bytes"))
    wavefronts, minimal = (sum(c[k][part] for k in SHARED) for part in ("actual", "minimal"))
    dims = (" x ".join(str(n) for n in c[k] if n > 1) or "1" for k in ("grid", "block"))
    return [
        f"{c['kernel']} <<<{', '.join(dims)}>>>", f"{c['warp_instructions']:,}",
        f"{c['dram_bytes']:,}", ratio(sectors, asked / 32), ratio(wavefronts, minimal),
        f"{sum(c['tensor_operations'].values()) / 1e6:,.1f}",
        f"{c['registers']}{'' if c['registers_known'] else '?'}",
        f"{c['shared_bytes']:,}", f"{c['occupancy']:.0%}", f"{c['time_bound_s'] * 1e6:.3f} us",
        c["limited_by"],
    ]  # fmt: skip


def op_row(op: Op, launches: list[dict[str, Any]]) -> list[str]:
    parts = launches[op.first : op.end]
    dram = sum(c["dram_bytes"] for c in parts)
    bound = sum(c["time_bound_s"] for c in parts)
    return [f"{op.name}, launches: {len(parts)}", f"{sum(c['warp_instructions'] for c in parts):,}",
            f"{dram:,} = {dram / op.compulsory_bytes:.2f}x compulsory", *[""] * 6,
            f"{bound * 1e6:.3f} us", ""]  # fmt: skip


def show(sim: Simulator, launches: list[dict[str, Any]]) -> None:
    table = Table(*COLUMNS, title=f"{sim.device()['full_name']}, simulated")
    for column in table.columns[1:-1]:
        column.justify = "right"
    for counters in launches:
        table.add_row(*row(counters))
    table.add_section()
    for op in sim.ops:
        table.add_row(*op_row(op, launches))
    terminal = Console()
    (terminal if terminal.is_terminal else Console(width=200)).print(table)
    print(LEGEND)


def profile(arguments: argparse.Namespace) -> None:
    sim = simulator()
    checks = int(not arguments.no_checks)
    sim.reset(arguments.device, seed=arguments.seed, check_races=checks, check_unwritten=checks)
    # Ops of warpweave come here as they are, if its kernels were built for the simulator.
    if build.warpweave().is_file() and importlib.util.find_spec("warpweave"):
        sim.serve(importlib.import_module("warpweave._native"))
    sys.argv = [arguments.script, *arguments.arguments]
    try:
        if Path(arguments.script).is_file():
            sys.path.insert(0, str(Path(arguments.script).resolve().parent))
            runpy.run_path(arguments.script, run_name="__main__")
        else:
            runpy.run_module(arguments.script, run_name="__main__", alter_sys=True)
    finally:
        sim.ask_ptxas()
        launches = sim.counters()
        if arguments.json:
            ops = [vars(op) for op in sim.ops]
            print(json.dumps({"device": sim.device(), "launches": launches, "ops": ops}, indent=1))
        else:
            show(sim, launches)
        for text in sim.report_texts():
            print(text, file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(prog="ptxsim", description=(__doc__ or "").splitlines()[0])
    command = parser.add_subparsers(required=True).add_parser("profile", help=parser.description)
    command.add_argument("--device", default="H100", help="A100, RTX4090, H100, B200, RTXPRO6000")
    command.add_argument("--json", action="store_true", help="all counters instead of a table")
    command.add_argument("--seed", type=int, default=0, help="of the schedule")
    command.add_argument("--no-checks", action="store_true", help="look for no races: faster")
    command.add_argument("script", help="a Python file, or the name of a module")
    command.add_argument("arguments", nargs=argparse.REMAINDER)
    profile(parser.parse_args())


if __name__ == "__main__":
    main()
