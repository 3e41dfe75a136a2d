# SPDX-License-Identifier: Apache-2.0
"""The oracles' kernels on small integers, whose products and sums every type here holds exactly."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

from ptxsim.driver import aligned, simulator
from ptxsim.tests.oracles import built

Array = NDArray[Any]
BF16, E4M3 = ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn


class Problem(NamedTuple):
    read: dict[str, Array]
    write: dict[str, Array]
    expected: list[Array]  # of each of `write`
    call: Callable[[Any], int]  # runs the library's function on these arrays


class Outcome(NamedTuple):
    status: int
    exact: bool
    reports: list[dict[str, Any]]  # but for known faults
    known: set[tuple[str, str]]

    @property
    def clean(self) -> bool:
        return self.status == 0 and self.exact and not self.reports


@dataclass(frozen=True)
class Oracle:
    entry: str
    library: str
    device: str
    problems: tuple[Callable[[np.random.Generator], Problem], ...]
    # What CUTLASS does against the letter of the ISA: the kind of report and its line.
    known: frozenset[tuple[str, str]] = frozenset()
    is_extra: bool = False  # not among those that every run of the tests compiles

    def run(self, problem: int, seed: int, ptx: str | None = None) -> Outcome:
        """One problem in one schedule, with the library's PTX or another."""
        library = built.load(self.library)
        sim = simulator()
        sim.reset(self.device, seed=seed, max_reports=1000)
        if ptx is not None:
            sim.replace_ptx(f"lib{self.library}-", ptx)
        given = self.problems[problem](np.random.default_rng(seed))
        with sim.exposed(given.read, given.write, written=False):
            status = given.call(getattr(library, self.entry))
            reports = sim.reports()
        places = [(report["kind"], report["source"].rpartition("/")[2]) for report in reports]
        new = [r for r, place in zip(reports, places, strict=True) if place not in self.known]
        exact = all(map(np.array_equal, given.write.values(), given.expected))
        return Outcome(status, exact, new, self.known.intersection(places))


def pointer(array: Array | None) -> int | None:
    return None if array is None else array.ctypes.data


def integers(rng: np.random.Generator, shape: Sequence[int], dtype: DTypeLike) -> Array:
    return rng.integers(-3, 4, shape).astype(dtype)


def exact(product: Array, dtype: DTypeLike) -> Array:
    return product.astype(np.float32).astype(dtype)


def dense(
    shape: tuple[int, int, int],
    a_type: DTypeLike,
    b_type: DTypeLike,
    out: DTypeLike,
    *more: int,
    adds: bool,
    a_columns: bool = False,
    b_rows: bool = False,
) -> Callable[[np.random.Generator], Problem]:
    """d = a b + c, or without `adds` d = a b."""
    m, n, k = shape

    def problem(rng: np.random.Generator) -> Problem:
        a, b = integers(rng, (m, k), a_type), integers(rng, (n, k), b_type)
        read = {"a": aligned(a.T if a_columns else a), "b": aligned(b.T if b_rows else b)}
        expected = a.astype(np.float32) @ b.astype(np.float32).T
        if adds:
            read["c"] = aligned(integers(rng, (m, n), out))
            expected += read["c"].astype(np.float32)
        d = aligned(np.zeros((m, n), out))
        places = [pointer(x) for x in (read["a"], read["b"], read.get("c"), d)]
        return Problem(
            read, {"d": d}, [exact(expected, out)], lambda run: run(m, n, k, *places, *more)
        )

    return problem


def grouped(
    sizes: Sequence[tuple[int, int, int]], out: DTypeLike, blocks: int
) -> Callable[[np.random.Generator], Problem]:
    """Each group's d = a b; a group without rows has arrays of one element."""

    def pointers(arrays: Sequence[Array]) -> Any:
        return (ctypes.c_void_p * len(arrays))(*map(pointer, arrays))

    def problem(rng: np.random.Generator) -> Problem:
        a, b, d, expected = [], [], [], []
        for m, n, k in sizes:
            a.append(aligned(integers(rng, (max(m, 1), k), BF16)))
            b.append(aligned(integers(rng, (n, k), BF16)))
            d.append(aligned(np.zeros((max(m, 1), n), out)))
            product = a[-1].astype(np.float32) @ b[-1].astype(np.float32).T
            expected.append(exact(product if m else 0 * product, out))
        extents = (ctypes.c_int * (3 * len(sizes)))(*np.ravel(sizes))
        arguments = [len(sizes), extents, *map(pointers, (a, b, d)), blocks]
        read = {f"{name}{i}": x for name, xs in (("a", a), ("b", b)) for i, x in enumerate(xs)}
        write = {f"d{i}": x for i, x in enumerate(d)}
        return Problem(read, write, expected, lambda run: run(*arguments))

    return problem


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)


def scales(rng: np.random.Generator, rows: int, count: int, nvfp4: bool) -> tuple[Array, Array]:
    """Powers of two, and their bytes in blocks as sm120_block_scaled.h says."""
    exponents = rng.integers(-2, 3, (rows, count))
    factors = np.exp2(exponents).astype(np.float32)
    codes = factors.astype(E4M3).view(np.uint8) if nvfp4 else (exponents + 127).astype(np.uint8)
    r, q = np.ogrid[:rows, :count]
    wide = -(-count // 4)
    placed = np.full(-(-rows // 128) * wide * 512, 0x38 if nvfp4 else 127, np.uint8)
    placed[(r // 128 * wide + q // 4) * 512 + r % 32 * 16 + r // 32 % 4 * 4 + q % 4] = codes
    return factors, placed


def block_scaled(
    shape: tuple[int, int, int], nvfp4: bool
) -> Callable[[np.random.Generator], Problem]:
    m, n, k = shape
    vector = 16 if nvfp4 else 32

    def operand(rng: np.random.Generator, rows: int) -> tuple[Array, Array, Array]:
        factors, placed = scales(rng, rows, -(-k // vector), nvfp4)
        if nvfp4:
            codes = rng.integers(0, 16, (rows, k), np.uint8)
            values = np.where(codes & 8, -1, 1) * E2M1[codes & 7]
            stored = codes[:, ::2] | codes[:, 1::2] << 4
        else:
            stored = integers(rng, (rows, k), E4M3)
            values = stored.astype(np.float32)
        return values * np.repeat(factors, vector, 1)[:, :k], aligned(stored), aligned(placed)

    def problem(rng: np.random.Generator) -> Problem:
        (a, *stored_a), (b, *stored_b) = operand(rng, m), operand(rng, n)
        out = BF16 if nvfp4 else np.float32
        d = aligned(np.zeros((m, n), out))
        read = {
            "a": stored_a[0],
            "b": stored_b[0],
            "a_scales": stored_a[1],
            "b_scales": stored_b[1],
        }
        places = [pointer(x) for x in (*read.values(), d)]
        return Problem(read, {"d": d}, [exact(a @ b.T, out)], lambda run: run(m, n, k, *places))

    return problem


F16, F32 = np.float16, np.float32
F16, F32 = np.float16, np.float32
GROUPS = [(200, 136, 72), (0, 64, 64), (1, 8, 8), (130, 200, 200)]
SM80 = (200, 136, 200), (72, 264, 40)
SM90 = (200, 136, 208), (328, 264, 592)


def each(shapes: Sequence[tuple[int, int, int]], *more: Any, **layout: bool) -> tuple[Any, ...]:
    return tuple(dense(s, *more, adds=s is shapes[0], **layout) for s in shapes)


ORACLES = (
    Oracle("sm80_bf16", "sm80_gemm", "A100", each(SM80, BF16, BF16, F32)),
    Oracle("sm80_f16", "sm80_gemm", "A100", each(SM80, F16, F16, F16, b_rows=True)),
    Oracle("sm80_s8", "sm80_gemm", "A100",
           each([(200, 136, 208), (72, 260, 48)], np.int8, np.int8, np.int32)),
    Oracle("sm80_tf32", "sm80_gemm", "A100", each([(201, 137, 71), (3, 130, 5)], F32, F32, F32)),
    Oracle("sm80_bf16_split", "sm80_gemm", "A100", each(SM80, BF16, BF16, F32, 3)),
    # Whole tiles of d: stream-K would store their unused edges in its workspace, too, and those
    # come from shared memory that nothing wrote. Who waits for the partial sums sees them by an
    # atom.cas, which is relaxed, and reads them without a fence (barrier.h, wait_eq_reset).
    Oracle("sm80_bf16_stream", "sm80_gemm", "A100",
           each([(128, 128, 520), (128, 256, 392)], BF16, BF16, F32, 5),
           known=frozenset({("race", "block_striped.h:165"), ("race", "functional.h:124")})),
    Oracle("sm80_grouped_bf16", "sm80_grouped", "A100",
           (grouped(GROUPS, F32, 3), grouped(GROUPS[2:3], F32, 0))),
    # Two persistent blocks, so that each has several tiles and more steps of k than stages.
    Oracle("sm90_pingpong", "sm90_gemm", "H100", each(SM90, BF16, BF16, BF16, 2)),
    Oracle("sm90_cooperative", "sm90_gemm", "H100",
           each(SM90, BF16, BF16, BF16, 2, a_columns=True)),
    Oracle("sm90_e4m3", "sm90_e4m3", "H100", each(SM90, E4M3, E4M3, F32, 2), is_extra=True),
    Oracle("sm90_mixed", "sm90_mixed", "H100", each(SM90, np.int8, BF16, F32, 2), is_extra=True),
    Oracle("sm90_grouped_bf16", "sm90_grouped", "H100",
           (grouped(GROUPS, BF16, 4), grouped(GROUPS[2:3], BF16, 8))),
    Oracle("sm120_nvfp4", "sm120_nvfp4", "RTXPRO6000",
           (block_scaled((200, 136, 672), True), block_scaled((1, 8, 32), True))),
    # At its end the scheduler warp stores an empty answer with all lanes, of which one then only
    # counts bytes at the mbarrier (complete_tx, always relaxed): readers are ordered after none.
    Oracle("sm120_mxfp8", "sm120_mxfp8", "RTXPRO6000",
           (block_scaled((200, 136, 272), False), block_scaled((1, 4, 16), False)),
           known=frozenset({("race", "sm100_tile_scheduler.hpp:425"),
                            ("hazard within a warp", "sm100_tile_scheduler.hpp:425")}),
           is_extra=True),
)  # fmt: skip
NAMED = {oracle.entry: oracle for oracle in ORACLES}
