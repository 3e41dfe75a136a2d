# SPDX-License-Identifier: Apache-2.0
"""How the tests of native ops run a case: a dict of arguments, some of them updated in place."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

import targets
from warpweave import testing as kit

Case = dict[str, Any]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def fresh(t: Tensor) -> Tensor:
    """A copy with the same strides, and with the same memory around it."""
    return torch.empty(0, dtype=t.dtype).set_(
        t.untyped_storage().clone(), t.storage_offset(), t.shape, t.stride()
    )


def run(op: kit.Op, case: Case, mutated: Iterable[str] = ()) -> tuple[Tensor, ...]:
    """The results of `op`, then the `mutated` arguments after the call; `case` stays as it is."""
    case = case | {name: fresh(case[name]) for name in mutated if case.get(name) is not None}
    result = op(**case)
    results = result if isinstance(result, tuple) else (result,)
    return (*results, *(case[name] for name in mutated if case.get(name) is not None))


def doubled(case: Case) -> Case:
    """In float64, results of a given dtype too; what is quantised, or float8, stays as it is."""

    def widen(value: Any) -> Any:
        if isinstance(value, torch.dtype):
            return torch.float64
        return value.double() if isinstance(value, Tensor) and value.dtype in DTYPES else value

    return {name: widen(value) for name, value in case.items()}


def check_case(
    op: kit.Op, reference: kit.Op, case: Case, mutated: Iterable[str] = (), axis: int = -1,
    plain: kit.Op | None = None, terms: kit.Op | None = None, by_row: bool = False,
) -> None:  # fmt: skip
    """Accuracy of every result and mutated argument against the reference in float64, with `plain`
    (else the reference) at the case's own dtype as the baseline; rounding too where it is to 16
    bits. An element is judged by its size and that of its neighbours along `axis`, or by what
    `terms` returns for it on the doubled case: the magnitude of its terms."""
    actual = run(op, case, mutated)
    exact = run(reference, doubled(case), mutated)
    baseline = run(plain or reference, case, mutated)
    sizes = run(terms, doubled(case), mutated) if terms else (None,) * len(exact)
    for i, (a, e, b, size) in enumerate(zip(actual, exact, baseline, sizes, strict=True)):
        if not a.is_floating_point():
            kit.assert_same_bits(a, b, name=f"result {i}")
            continue
        a, e, b = (t.movedim(axis, -1) for t in (a, e.double(), b))
        size = size if size is None else size.movedim(axis, -1)
        kit.assert_accurate(a, e, b, name=f"result {i}", terms=size)
        if a.element_size() == 2:
            kit.assert_unbiased(a, e, b, name=f"result {i}", by_row=by_row)


def assert_same_runs(runs: Iterable[tuple[Tensor, ...]]) -> None:
    first, *others = runs
    for other in others:
        for a, b in zip(first, other, strict=True):
            kit.assert_same_bits(b, a)


def check_repeatable(op: kit.Op, case: Case, mutated: Iterable[str] = ()) -> None:
    """The same bits every time: with one thread, with two and again (use the `threads` fixture); on
    a simulated device, where each call has another schedule, eight times, half of them as a CUDA
    graph, which can hold no allocation and nothing that waits."""
    runs = []
    if targets.current in targets.SIMULATED:
        for i in range(8):
            targets.capture_calls(i % 2 == 0)  # the last of them, and so what follows, not
            runs.append(run(op, case, mutated))
    else:
        for n in (1, 2, 2):
            torch.set_num_threads(n)
            runs.append(run(op, case, mutated))
    assert_same_runs(runs)


def check_compiled(op: kit.Op, cases: Iterable[Case], mutated: Iterable[str] = ()) -> None:
    """One graph with dynamic shapes gives the bits of eager mode on every case."""
    torch._dynamo.reset()
    compiled = torch.compile(op, fullgraph=True, dynamic=True, backend="aot_eager")
    for case in cases:
        assert_same_runs([run(op, case, mutated), run(compiled, case, mutated)])


def far_apart(t: Tensor, dim: int = 0, multiple: int = 1) -> Tensor:
    """The values of `t` with neighbours along `dim` so far apart, and by a multiple of `multiple`,
    that offsets pass 2^31 elements.

    The memory between them is reserved, never touched: a few pages are used."""
    stride = -(-(2**31 + 64) // (max(t.shape[dim] - 1, 1) * multiple)) * multiple
    strides = list(t.contiguous().stride())
    if t.dim() > 1 and max(t.numel(), 1) > stride:
        raise ValueError(f"far_apart: {tuple(t.shape)} does not fit between its own neighbours")
    strides[dim] = stride
    size = 1 + sum((n - 1) * s for n, s in zip(t.shape, strides, strict=True))
    return torch.empty(size, dtype=t.dtype).as_strided(t.shape, strides).copy_(t)


def check_refused(
    op: kit.Op, case: Case, mutated: Iterable[str], message: str,
    error: type[Exception] = ValueError,
) -> None:  # fmt: skip
    """`op` raises `error` with `message` (a regex) and leaves the mutated arguments alone."""
    case = case | {name: fresh(case[name]) for name in mutated if case.get(name) is not None}
    before = {name: fresh(case[name]) for name in mutated if case.get(name) is not None}
    with pytest.raises(error, match=message):
        op(**case)
    for name, value in before.items():
        kit.assert_same_bits(case[name], value, name=name)
