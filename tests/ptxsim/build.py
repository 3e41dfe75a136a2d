# SPDX-License-Identifier: Apache-2.0
"""Builds the simulator, and libraries of kernels that run in it.

The simulator takes libcudart's place: load it first and with RTLD_GLOBAL, then libraries that nvcc
built with `-cudart none` and PTX inside.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build" / "ptxsim"


class Missing(RuntimeError):
    """What the simulator needs and this machine lacks."""


@cache
def nvcc() -> str:
    found = shutil.which(os.environ.get("CUDACXX", "nvcc")) or shutil.which(
        "/usr/local/cuda/bin/nvcc"
    )
    if not found:
        raise Missing("there is no nvcc, which makes the PTX that the simulator runs")
    return found


@cache
def cuda_include() -> Path:
    """The folder of cuda_runtime_api.h, as nvcc itself says."""
    dry = subprocess.run(
        (nvcc(), "--dryrun", "-c", "x.cu"), capture_output=True, text=True, check=False
    ).stderr
    for line in dry.splitlines():
        if line.startswith("#$ INCLUDES="):
            return Path(line.partition("-I")[2].strip().strip('"'))
    raise Missing(f"{nvcc()} does not say where its headers are")


def _tool(name: str) -> str:
    """cmake or ninja, from the environment that runs the tests or from the machine."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=os.pathsep.join((beside, os.environ.get("PATH", ""))))
    if not found:
        raise Missing(f"there is no {name}")
    return found


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


@cache
def simulator() -> Path:
    """libptxsim.so, compiled where its sources changed. PTXSIM_LIBRARY names another one."""
    if given := os.environ.get("PTXSIM_LIBRARY"):
        return Path(given)
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cmake = _tool("cmake")
        _run(cmake, "-S", str(HERE), "-B", str(BUILD), "-G", "Ninja",
             f"-DCMAKE_MAKE_PROGRAM={_tool('ninja')}",
             f"-DPTXSIM_CUDA_INCLUDE={cuda_include()}")  # fmt: skip
        _run(cmake, "--build", str(BUILD), "--parallel", "2")
    return BUILD / "libptxsim.so"


def kernels(name: str, *targets: str, compress: bool = False) -> Path:
    """kernels/<name>.cu as a library, compiled if it is older: with PTX ("80", "90a") or machine
    code ("sm_80")."""
    source = HERE / "kernels" / f"{name}.cu"
    library = BUILD / f"lib{'_'.join((name, *targets))}{'_compressed' * compress}.so"
    newest = max(f.stat().st_mtime for f in (source, *source.parent.glob("*.*h")))
    if not library.exists() or library.stat().st_mtime < newest:
        partial = library.with_suffix(f".{os.getpid()}")
        codes = [t if t.startswith("sm_") else f"compute_{t}" for t in targets]
        _run(nvcc(), "-std=c++17", "-lineinfo", "-shared", "-cudart=none", "-Xcompiler=-fPIC",
             "-Xfatbin=-compress-all" if compress else "--no-compress",
             *(f"-gencode=arch={c.replace('sm_', 'compute_')},code={c}" for c in codes),
             str(source), "-o", str(partial))  # fmt: skip
        partial.replace(library)
    return library


def texts(library: Path) -> list[str]:
    """The PTX in a library, which was not compressed."""
    found = re.findall(rb"[^\0]*\.version \d+\.\d+\s[^\0]*", library.read_bytes())
    return [text.decode() for text in found]


def warpweave() -> Path:
    """libwarpweave_cuda.so for the simulator, which the package's own build leaves here if
    WARPWEAVE_SIMULATION is ON."""
    return BUILD / "libwarpweave_cuda.so"


def _ptxas(ptx: str, arch: str, *options: str) -> str:
    """What `ptxas -v` says about a text, for "sm_90a"; compiled once for each text."""
    ptxas = shutil.which("ptxas") or str(Path(nvcc()).parent / "ptxas")
    key = hashlib.sha256("\0".join((ptx, arch, *options)).encode()).hexdigest()
    known = BUILD / "ptxas" / key
    if not known.exists():
        known.parent.mkdir(parents=True, exist_ok=True)
        source, partial = (known.with_suffix(f".{os.getpid()}{end}") for end in (".ptx", ""))
        source.write_text(ptx)
        partial.write_text(_run(ptxas, f"-arch={arch}", *options, "-v", str(source), "-o",
                                os.devnull))  # fmt: skip
        source.unlink()
        partial.replace(known)
    return known.read_text()


def registers(ptx: str, kernel: str, arch: str) -> int:
    """What ptxas gives a thread of the kernel."""
    said = _ptxas(ptx, arch, f"--entry={kernel}")
    found = re.search(r"Used (\d+) registers", said)
    if not found:
        raise RuntimeError(f"ptxas does not say how many registers {kernel} uses:\n{said}")
    return int(found[1])


class Resources(NamedTuple):
    """Of a kernel, in bytes but for the registers of a thread."""

    registers: int
    stack: int
    spilled: int  # stores and loads
    shared: int  # static


def resources(ptx: str, arch: str) -> dict[str, Resources]:
    """What ptxas gives each kernel of a text."""
    found = {}
    for part in _ptxas(ptx, arch).split("Compiling entry function '")[1:]:
        words = {w: int(n) for n, w in re.findall(r"(\d+) (?:bytes )?(stack|spill \w+|smem)", part)}
        used = re.search(r"Used (\d+) registers", part)
        assert used, part
        spilled = words["spill stores"] + words["spill loads"]
        found[part.partition("'")[0]] = Resources(
            int(used[1]), words["stack"], spilled, words.get("smem", 0)
        )
    return found
