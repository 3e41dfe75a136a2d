# SPDX-License-Identifier: Apache-2.0
"""The PTX that nvcc makes of this repository's kernels."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from ptxsim import build

ROOT = build.HERE.parents[1]


@cache
def kernel_sources() -> dict[str, Path]:
    """Of libwarpweave_cuda (csrc/cuda.cmake) and of the simulator's own kernels."""
    package = ROOT.glob("csrc/*/*_cuda.cu")
    found = {path.stem.removesuffix("_cuda"): path for path in package}
    return found | {path.stem: path for path in build.HERE.glob("kernels/*.cu")}


def architectures(name: str) -> tuple[str, ...]:
    """What a source is compiled for; the simulator's kernels need one."""
    return ("90a",) if kernel_sources()[name].is_relative_to(build.HERE) else ("80", "90a", "120a")


def compiled(name: str, target: str) -> Path:
    """PTX for a target, "90a", compiled where a source changed."""
    source, ptx = kernel_sources()[name], build.BUILD / f"{name}_{target}.ptx"
    headers = (*(ROOT / "csrc").glob("*/*.h"), *source.parent.glob("*.*h"))
    newest = max(path.stat().st_mtime for path in (source, *headers))
    if not ptx.exists() or ptx.stat().st_mtime < newest:
        partial = ptx.with_suffix(".partial")
        command = [build.nvcc(), "-std=c++17", "-O3", f"-arch=compute_{target}", "-ptx",
                   f"-I{ROOT / 'csrc'}", str(source), "-o", str(partial)]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
        partial.replace(ptx)
    return ptx
