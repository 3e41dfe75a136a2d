# SPDX-License-Identifier: Apache-2.0
"""Planted faults: a test is worth what it catches.

A fault takes the right op and returns a wrong one with the same signature. An op's test file lists
its faults, and `assert_all_caught` runs the op's own check on each of them.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Op = Callable[..., Any]
Fault = Callable[[Op], Op]


def assert_all_caught(op: Op, faults: Mapping[str, Fault], check: Callable[[Op], None]) -> None:
    """Run `check` on `op`, which must pass, and on every faulty op, which must not.

    A fault is caught when the check raises AssertionError; any other exception goes through, since
    it shows a broken fault rather than a watchful check. Prints the names of the caught faults.
    Raises AssertionError naming every fault that passed.
    """
    check(op)
    caught, missed = [], []
    for name, fault in faults.items():
        try:
            check(fault(op))
        except AssertionError:
            caught.append(name)
        else:
            missed.append(name)
    print(f"caught {len(caught)} of {len(faults)} planted faults: {', '.join(caught)}")
    if missed:
        raise AssertionError(f"planted faults that no check caught: {', '.join(missed)}")


def _first(result: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return (change(result[0]), *result[1:]) if isinstance(result, tuple) else change(result)


def on_result(change: Callable[[Tensor], Tensor]) -> Fault:
    """The fault that changes the (first) result."""
    return lambda op: lambda *args, **options: _first(op(*args, **options), change)


def on_argument(name: str, change: Callable[[Any], Any]) -> Fault:
    """The fault that computes with another value of the argument `name` (if it is given)."""

    def fault(op: Op) -> Op:
        signature = inspect.signature(op)

        def wrong(*args: Any, **options: Any) -> Any:
            bound = signature.bind(*args, **options)
            if bound.arguments.get(name) is not None:
                bound.arguments[name] = change(bound.arguments[name])
            return op(*bound.args, **bound.kwargs)

        return wrong

    return fault


def truncate(op: Op) -> Op:
    """The fault that cuts the bits below the result's dtype off instead of rounding them.

    The op runs on fp32 copies of its 16-bit arguments, so it must accept fp32.
    """

    def cut(dtype: torch.dtype, t: Tensor) -> Tensor:
        rounded = t.to(dtype)
        outwards = rounded.abs().float() > t.abs()
        bits = rounded.view(torch.int16)
        return torch.where(outwards, bits - 1, bits).view(dtype)  # one step towards zero

    def wrong(*args: Any, **options: Any) -> Any:
        narrow = (torch.bfloat16, torch.float16)
        tensors = [t for t in (*args, *options.values()) if isinstance(t, Tensor)]
        dtype = next((t.dtype for t in tensors if t.dtype in narrow), None)
        if dtype is None:
            raise TypeError("truncate needs a bfloat16 or float16 argument")

        def widen(value: Any) -> Any:
            return value.float() if isinstance(value, Tensor) and value.dtype in narrow else value

        result = op(*map(widen, args), **{key: widen(v) for key, v in options.items()})
        return _first(result, lambda t: cut(dtype, t))

    return wrong


def _spoil(t: Tensor) -> Tensor:
    t = t.clone(memory_format=torch.contiguous_format)
    if t.numel():
        flat = t.view(-1)
        i = 2 * flat.numel() // 3
        flat[i] += 0.05 * flat.abs().max() + 16 * torch.finfo(t.dtype).eps
    return t


def _drop(t: Tensor) -> Tensor:
    t = t.clone()
    t[..., -1:] = 0
    return t


wrong_element: Fault = on_result(_spoil)
drop_tail: Fault = on_result(_drop)
swallow_nan: Fault = on_result(lambda t: torch.where(torch.isnan(t), 0, t))
