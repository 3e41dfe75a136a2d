# SPDX-License-Identifier: Apache-2.0
"""What a machine with a GPU has to show: python bench/gpu_check.py [--device D] [--out FILE].

Builds for its GPU, runs the tests of the target `cuda`, compares the results of every op with the
simulator's bit by bit, runs the benchmarks, and writes one JSON file. `--device sim:H100` rehearses
all of it with a simulated device in the GPU's place.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
# What the rehearsal runs instead of the tests of the target "cuda". A bracket begins the parameters
# of a test: others have such words in their names.
TARGETS = {"A100": "[sim:sm_80", "H100": "[sim:sm_90a", "RTX PRO 6000": "[sim:sm_120a"}
# Compute capability: the simulated device to compare with, and what to compile for.
CARDS = {
    "8.0": ("A100", "80-real"),
    "8.6": ("RTX 4090", "86-real"),
    "8.9": ("RTX 4090", "89-real"),
    "9.0": ("H100", "90a-real"),
    "10.0": ("B200", "100-real"),
    "12.0": ("RTX PRO 6000", "120-real"),
}


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, text=True, capture_output=True
    )


def find_card() -> tuple[str, str, str]:
    """The GPU as its driver describes it, the simulated card like it, and its architecture."""
    asked = run(
        "nvidia-smi", "--query-gpu=compute_cap,name,driver_version", "--format=csv,noheader"
    )
    if asked.returncode:
        sys.exit(f"gpu_check: nvidia-smi failed: {asked.stderr or asked.stdout}")
    text = asked.stdout.splitlines()[0]
    capability = text.split(",")[0]
    if capability not in CARDS:
        sys.exit(f"gpu_check: compute capability {capability}; supported: {', '.join(CARDS)}")
    return (text, *CARDS[capability])


def build(arch: str) -> None:
    done = run(
        sys.executable, "-m", "pip", "install", "-q", "--no-build-isolation", "-e", ".[test]",
        WARPWEAVE_CUDA="ON", WARPWEAVE_SIMULATION="ON",
        WARPWEAVE_CUDA_ARCHS=f"{arch};80-virtual;90a-virtual;120-virtual",
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"gpu_check: the build failed\n{done.stdout}{done.stderr}")


def tests(words: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tests.xml"
        done = run(sys.executable, "-m", "pytest", "-q", "tests", "--ignore=tests/ptxsim",
                   "-k", words, f"--junitxml={file}", OMP_WAIT_POLICY="passive")  # fmt: skip
        suite = ElementTree.parse(file).getroot()[0]
    failed = [
        f"{case.get('classname')}::{case.get('name')}: {bad.get('message')}"
        for case in suite.iter("testcase") for bad in case if bad.tag in ("failure", "error")
    ]  # fmt: skip
    counts = {k: int(suite.get(k, 0)) for k in ("tests", "failures", "errors", "skipped")}
    return {**counts, "rc": done.returncode, "failed": failed}


def compare_bits(device: str, simulated: str) -> Iterator[dict[str, Any]]:
    """Each op's first benchmark case, on the device and in the simulator."""
    import torch

    sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests")]
    import targets

    def results(case: Any, args: tuple[Any, ...]) -> list[torch.Tensor]:
        out = case.run(*args)
        outs = out if isinstance(out, tuple) else (out,)
        return [t.cpu() for t in (*outs, *args) if isinstance(t, torch.Tensor)]

    for path in sorted((ROOT / "bench").glob("bench_*.py")):
        if path.stem == "bench_model":
            continue
        case = next(iter(importlib.import_module(path.stem).cases()))
        torch.manual_seed(0)
        first = case.make()
        copy = tuple(v.clone() if isinstance(v, torch.Tensor) else v for v in first)
        with targets.simulated(simulated, check_races=0):
            expected = results(case, first)
        if device == "cuda":
            copy = tuple(v.cuda() if isinstance(v, torch.Tensor) else v for v in copy)
            actual = results(case, copy)
        else:
            with targets.simulated(simulated, seed=100, check_races=0):
                actual = results(case, copy)
        pairs = list(zip(actual, expected, strict=True))
        same = sum(int((a == e).sum()) for a, e in pairs)
        total = sum(a.numel() for a, _ in pairs)
        apart = max((float((a.double() - e.double()).abs().max()) for a, e in pairs if a.numel()),
                    default=0.0)  # fmt: skip
        yield {"op": path.stem.removeprefix("bench_"), "shape": case.shape, "elements": total,
               "equal": same, "largest_difference": apart}  # fmt: skip


def benches(device: str) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.jsonl"
        words = ["slice"] if device.startswith("sim:") else []
        done = run(sys.executable, "bench/run.py", "--device", device, "--json", str(file), *words)
        if done.returncode:
            return [{"failed": done.stderr[-2000:]}]
        return [json.loads(text) for text in file.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, or sim:NAME to rehearse")
    parser.add_argument("--out", type=Path, help="default: bench/results/<card>-<date>.json")
    options = parser.parse_args()
    start = time.time()
    if options.device == "cuda":
        card, simulated, arch = find_card()
        build(arch)
    else:
        card = simulated = options.device.removeprefix("sim:")
        if simulated not in TARGETS:
            parser.error(f"--device is {options.device!r}; supported: cuda, {', '.join(TARGETS)}")
    result: dict[str, Any] = {"card": card, "date": time.strftime("%Y-%m-%d %H:%M:%S")}

    def step(name: str, value: Any) -> None:
        result[name] = value
        print(f"{time.time() - start:6.0f} s  {name}", flush=True)

    doctor = run(sys.executable, "-m", "warpweave", "doctor", "--json")
    step("doctor", json.loads(doctor.stdout) if doctor.returncode == 0 else doctor.stderr)
    step("tests", tests("[cuda" if options.device == "cuda" else TARGETS[simulated]))
    step("bits", list(compare_bits(options.device, simulated)))
    step("bench", benches(options.device))
    result["seconds"] = time.time() - start

    name = "".join(c if c.isalnum() else "-" for c in card)
    out = options.out or ROOT / "bench" / "results" / f"{name}-{time.strftime('%Y%m%d')}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(out)
    bad = result["tests"]["rc"] != 0
    for row in result["bits"]:
        print(f"{row['op']:<22} {row['equal']} of {row['elements']} elements have the same bits, "
              f"largest difference {row['largest_difference']:.3g}")  # fmt: skip
    print(f"tests: {result['tests']}\n{out}: {result['seconds']:.0f} s")
    sys.exit(bad)


if __name__ == "__main__":
    main()
