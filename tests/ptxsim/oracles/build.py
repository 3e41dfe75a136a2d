# SPDX-License-Identifier: Apache-2.0
"""Builds the oracles: libraries of unmodified CUTLASS kernels, PTX inside, no CUDA runtime linked.

    build("sm90_gemm", folder)         compiles (12 to 60 s, up to 5 GB) or finds the library
    load(build("sm80_gemm", folder))   ctypes functions with their argument types

A library needs the symbols of libcudart when it is loaded: load the simulator's stand-in first,
with RTLD_GLOBAL.

    python build.py FOLDER [NAME ...]  builds all, or those named, and prints time and peak memory
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import resource
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGETS = {  # oracle: PTX target
    "sm80_gemm": "80",
    "sm80_grouped": "80",
    "sm90_gemm": "90a",
    "sm90_e4m3": "90a",
    "sm90_grouped": "90a",
    "sm90_mixed": "90a",
    "sm120_nvfp4": "120a",
    "sm120_mxfp8": "120a",
}
# Three quarters of the time and all of the memory go into instantiating templates, so that no
# optimisation level of the device code makes it cheaper; -O1 is the fastest for the host code.
FLAGS = [
    "-std=c++17",
    "--expt-relaxed-constexpr",
    "-lineinfo",
    "-shared",
    "-cudart=none",
    "--no-compress",
    "-Xcompiler=-fPIC,-O1,-fvisibility=hidden",
]


def cutlass_include() -> list[Path]:
    """The include folders of the installed nvidia-cutlass; ModuleNotFoundError if there is none."""
    spec = importlib.util.find_spec("cutlass_library")
    for root in (spec.submodule_search_locations or []) if spec else []:
        source = Path(root) / "source"
        if (source / "include" / "cutlass" / "cutlass.h").is_file():
            return [source / "include", source / "tools" / "util" / "include"]
    raise ModuleNotFoundError(
        "the CUTLASS headers are missing: pip install --no-deps nvidia-cutlass==4.2.0.0"
    )


def _source(path: Path) -> str:
    """The file and after it those of this folder that it includes."""
    text = path.read_text()
    for included in re.findall(r'^#include "(\w+\.h)"', text, re.MULTILINE):
        text += _source(HERE / included)
    return text


def _fingerprint(name: str, nvcc: str) -> str:
    version = subprocess.run((nvcc, "--version"), check=True, capture_output=True, text=True).stdout
    cutlass = importlib.metadata.version("nvidia-cutlass")
    parts = [version, cutlass, TARGETS[name], *FLAGS, _source(HERE / f"{name}.cu")]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def build(name: str, folder: Path, nvcc: str = "nvcc") -> Path:
    """The library of one oracle, compiled unless `folder` has it for these sources and tools."""
    include = cutlass_include()
    library = folder / f"lib{name}-{_fingerprint(name, nvcc)}.so"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if library.is_file():
            return library
        target = f"compute_{TARGETS[name]}"
        partial = library.with_suffix(f".{os.getpid()}")
        command = [nvcc, *FLAGS, f"-gencode=arch={target},code={target}"]
        command += [f"-I{path}" for path in include]
        command += [str(HERE / f"{name}.cu"), "-o", str(partial)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
        for stale in folder.glob(f"lib{name}-*.so"):
            stale.unlink()
        partial.replace(library)
    return library


def load(library: Path) -> ctypes.CDLL:
    """Loads a library and gives its entry points the argument types of their source."""
    loaded = ctypes.CDLL(str(library))
    source = (HERE / f"{library.stem.removeprefix('lib').rpartition('-')[0]}.cu").read_text()
    for name, parameters in re.findall(
        r"^ORACLE_EXPORT int (\w+)\(([^)]*)\)", source, re.MULTILINE
    ):
        types = [ctypes.c_void_p if "*" in p else ctypes.c_int for p in parameters.split(",")]
        getattr(loaded, name).argtypes = types
    return loaded


def ptx(library: Path) -> str:
    """The PTX in a library, as the runtime finds it: nvcc takes out the comments."""
    found = re.search(rb"[^\0]*\.version \d+\.\d+\s[^\0]*", library.read_bytes())
    if not found:
        raise ValueError(f"{library} has no uncompressed PTX in it")
    return found.group().decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=" ".join(TARGETS))
    arguments = parser.parse_args()
    for name in arguments.names or TARGETS:
        start = time.monotonic()
        library = build(name, arguments.folder)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        took = time.monotonic() - start
        print(f"{library.name}: {took:.0f} s, at most {peak:.1f} GiB so far", flush=True)


if __name__ == "__main__":
    main()
