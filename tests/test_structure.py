# SPDX-License-Identifier: Apache-2.0
"""One op, one room: every ww_op() line of CMakeLists.txt has its parts, and every part a line."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from warpweave import ops, reference

ROOT = Path(__file__).resolve().parent.parent
LINE = re.compile(r"^ww_op\((\w+) (VECTOR|MATRIX|SHARED)( CUDA)?\)$", re.MULTILINE)
ROOMS = {
    op: (kind, bool(cuda)) for op, kind, cuda in LINE.findall((ROOT / "CMakeLists.txt").read_text())
}
SOURCES = {".h", ".cpp", ".inc", ".cu", ".cuh", ".py", ".pyi", ".cmake", ".map"}


def parts(op: str, kind: str, cuda: bool) -> list[str]:
    files = [
        f"csrc/{op}/{op}.h",
        f"csrc/{op}/{op}.cpp",
        f"csrc/bindings/{op}_op.cpp",
        f"python/warpweave/ops/{op}.py",
        f"python/warpweave/reference/{op}.py",
        f"tests/test_{op}.py",
        f"bench/bench_{op}.py",
    ]
    if kind != "SHARED":
        files.append(f"csrc/{op}/{op}_cpu.inc")
    return [*files, f"csrc/{op}/{op}_cuda.cu"] if cuda else files


def test_rooms_are_found() -> None:
    written = re.findall(r"^ww_op\(", (ROOT / "CMakeLists.txt").read_text(), re.MULTILINE)
    assert len(written) == len(ROOMS) > 0


@pytest.mark.parametrize("op", ROOMS)
def test_room_is_complete(op: str) -> None:
    missing = [part for part in parts(op, *ROOMS[op]) if not (ROOT / part).is_file()]
    assert not missing


@pytest.mark.parametrize("op", ROOMS)
def test_op_is_public(op: str) -> None:
    for module in (ops, reference):
        assert op in module.__all__
        assert (getattr(module, op).__doc__ or "").strip(), module.__name__


@pytest.mark.parametrize("op", ROOMS)
def test_readme_has_a_row(op: str) -> None:
    assert re.search(rf"^\| `{op}` \|", (ROOT / "README.md").read_text(), re.MULTILINE)


def test_every_room_has_its_line() -> None:
    folders = {path.name for path in (ROOT / "csrc").iterdir() if path.is_dir()}
    assert folders - {"core", "bindings"} == set(ROOMS)
    bindings = {path.stem for path in (ROOT / "csrc" / "bindings").glob("*_op.cpp")}
    assert bindings == {f"{op}_op" for op in ROOMS}


def test_cuda_files_are_built() -> None:
    files = {path.parent.name for path in (ROOT / "csrc").glob("*/*_cuda.cu")}
    assert files == {op for op, (_, cuda) in ROOMS.items() if cuda}


def tracked_sources() -> list[Path]:
    try:
        listing = subprocess.run(
            ("git", "ls-files"), cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listing.splitlines()]
    named = {"CMakeLists.txt", "Makefile"}
    return [f for f in files if f.is_file() and (f.suffix in SOURCES or f.name in named)]


def test_every_source_file_names_its_licence() -> None:
    line = "SPDX-License-Identifier: Apache-2.0"
    heads = {path: path.read_text().split("\n", 2)[:2] for path in tracked_sources()}
    missing = [path for path, head in heads.items() if not any(line in text for text in head)]
    assert not missing
