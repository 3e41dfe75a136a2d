# SPDX-License-Identifier: Apache-2.0
"""The compiled files: torch's stable ABI, exports and needs, and the gate on per-ISA objects."""

from __future__ import annotations

import ast
import ctypes
import json
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import warpweave
from warpweave import _native

ROOT = Path(__file__).resolve().parent.parent
NATIVE = Path(_native.__file__)
CUDA = NATIVE.with_name("libwarpweave_cuda.so")
built_with_cuda = pytest.mark.skipif(
    not _native.cuda_info()["built"], reason="this build has no CUDA kernels"
)


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def dynamic_symbols(library: Path, which: str) -> set[str]:
    listing = run("nm", "--dynamic", "--portability", which, library)
    return {line.split()[0].split("@")[0] for line in listing.splitlines()}


def needed(library: Path) -> set[str]:
    return set(re.findall(r"NEEDED.*\[(.*)\]", run("readelf", "--dynamic", library)))


# --- _native ---


def test_torch_abi_is_stable_from_2_10() -> None:
    audit = Path(sysconfig.get_path("scripts")) / "torch-abi-audit"
    (extension,) = json.loads(run(audit, "--json", NATIVE))["extensions"]
    torch_use = extension["torch"]
    assert torch_use["uses_torch"]
    assert torch_use["stable"]
    assert torch_use["unstable_symbols"] == []
    assert torch_use["unknown_shim_symbols"] == []
    assert torch_use["min_torch_version"] == "2.10.0"


def test_native_exports_only_its_init_function() -> None:
    assert dynamic_symbols(NATIVE, "--defined-only") == {"PyInit__native"}


def test_native_needs_torch_and_no_cuda() -> None:
    libraries = needed(NATIVE)
    assert "libtorch.so" in libraries
    assert not [name for name in libraries if re.search("cuda|cudart|c10|python", name)]


def test_build_info() -> None:
    info = _native.build_info()
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", info["version"])
    assert info["torch_minimum"] == "2.10"
    assert info["compiler"]
    assert info["torch_headers"]


def test_stub_names_what_the_module_has() -> None:
    stub = ast.parse((Path(warpweave.__file__).parent / "_native.pyi").read_text())
    functions = {node.name: node for node in stub.body if isinstance(node, ast.FunctionDef)}
    public = {name for name in dir(_native) if not name.startswith("_")} - {"numerics"}
    assert set(functions) == public
    for name, node in functions.items():
        assert ast.get_docstring(node), name
        arguments = [argument.arg for argument in node.args.args]
        assert all(f"{argument}:" in getattr(_native, name).__doc__ for argument in arguments), name
    (numerics,) = (n for n in stub.body if isinstance(n, ast.ClassDef) and n.name == "_Numerics")
    methods = {node.name for node in numerics.body if isinstance(node, ast.FunctionDef)}
    assert methods == {name for name in dir(_native.numerics) if not name.startswith("_")}


# --- libwarpweave_cuda.so ---


@built_with_cuda
def test_cuda_library_exports_only_launchers() -> None:
    exported = dynamic_symbols(CUDA, "--defined-only")
    general = {
        "ww_version",
        "ww_error_string",
        "ww_device_count",
        "ww_kernels",
        "ww_launches",
        "ww_range",
    }
    ops = {path.parent.name for path in (ROOT / "csrc").glob("*/*_cuda.cu")}
    workspaces = {f"ww_{op}_workspace" for op in ops}
    assert exported - workspaces == general | {f"ww_{op}" for op in ops}


@built_with_cuda
def test_cuda_library_needs_neither_torch_nor_cuda() -> None:
    assert not [name for name in needed(CUDA) if re.search("torch|c10|cuda|python", name)]


@built_with_cuda
def test_cuda_library_is_of_this_build() -> None:
    library = ctypes.CDLL(str(CUDA))
    library.ww_version.restype = ctypes.c_char_p
    assert library.ww_version().decode() == _native.build_info()["version"]


@built_with_cuda
def test_cuda_library_says_why_there_is_no_device() -> None:
    library = ctypes.CDLL(str(CUDA))
    library.ww_error_string.restype = ctypes.c_char_p
    count = ctypes.c_int(-1)
    status = library.ww_device_count(ctypes.byref(count))
    assert count.value >= 0
    assert (status == 0) or (count.value == 0)
    assert library.ww_error_string(status).decode() != "unrecognized error code"


# --- The gate on per-ISA objects (csrc/check_isa_objects.py runs in every build) ---


def gate(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    compiler, nm = shutil.which("g++") or shutil.which("clang++"), shutil.which("nm")
    if not compiler or not nm:
        pytest.skip("needs a C++ compiler and nm")
    file, compiled = folder / "kernel.cpp", folder / "kernel.o"
    file.write_text(source)
    run(compiler, "-std=c++20", "-O0", "-c", file, "-o", compiled)
    script = ROOT / "csrc" / "check_isa_objects.py"
    return subprocess.run(
        (sys.executable, script, nm, compiled), capture_output=True, text=True, check=False
    )


def test_gate_passes_internal_symbols(tmp_path: Path) -> None:
    result = gate(tmp_path, "static inline int f() { return 1; }\nint kernel() { return f(); }\n")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "source",
    [
        "inline int f() { return 1; }\nint kernel() { return f(); }\n",
        "template <class T> T f() { return 1; }\nint kernel() { return f<int>(); }\n",
        "inline int f() { static int n; return n++; }\nint kernel() { return f(); }\n",
        "#include <vector>\nint kernel(int n) { return std::vector<int>(n).size(); }\n",
    ],
    ids=["inline", "template", "static-local", "std-template"],
)
def test_gate_stops_weak_symbols(tmp_path: Path, source: str) -> None:
    result = gate(tmp_path, source)
    assert result.returncode != 0
    assert "define weak symbols" in result.stderr
