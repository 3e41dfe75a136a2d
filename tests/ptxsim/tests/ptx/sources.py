# SPDX-License-Identifier: Apache-2.0
"""The PTX that nvcc makes of this repository's kernels, out of libraries that other tests run."""

from __future__ import annotations

from collections.abc import Iterator

from ptxsim import build

TARGETS = {name: ("90a",) for name in ("checkers_sm90", "counters", "module", "reports")} | {
    "bench": ("80",), "checkers": ("80",), "pipeline_sm80": ("80",), "pipeline_sm90": ("90a",),
    "runtime": ("80", "90a"),
}  # fmt: skip


def own(name: str) -> list[str]:
    """Of kernels/<name>.cu."""
    return build.texts(build.kernels(name, *TARGETS[name]))


def texts() -> Iterator[tuple[str, str]]:
    """All, by who they are of."""
    assert set(TARGETS) == {path.stem for path in build.HERE.glob("kernels/*.cu")}
    for name in TARGETS:
        yield from ((name, text) for text in own(name))
    if build.warpweave().is_file():
        yield from (("warpweave", text) for text in build.texts(build.warpweave()))
