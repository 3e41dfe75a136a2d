# SPDX-License-Identifier: Apache-2.0
"""What counts as a right result: error against float64, rounding without bias, equal bits."""

from math import sqrt

import torch
from torch import Tensor

# A fair coin leaves 5 standard deviations once in 1.7 million tests.
DEVIATIONS = 5.0
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _same_kind(name: str, actual: Tensor, expected: Tensor, other: str) -> None:
    if actual.shape != expected.shape:
        raise AssertionError(
            f"{name} has shape {tuple(actual.shape)}, {other} {tuple(expected.shape)}"
        )


def _index(t: Tensor, flat: int) -> tuple[int, ...]:
    return tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), t.shape))


def _assert_anomalies(name: str, actual: Tensor, rounded: Tensor) -> None:
    """NaN, +inf and -inf must lie where the reference, rounded to the dtype, has them."""
    for kind, where in (
        ("NaN", torch.isnan),
        ("+inf", lambda t: t == float("inf")),
        ("-inf", lambda t: t == float("-inf")),
    ):
        wrong = where(actual) != where(rounded)
        if wrong.any():
            at = _index(wrong, int(wrong.flatten().nonzero()[0]))
            raise AssertionError(
                f"{name}: {int(wrong.sum())} of {wrong.numel()} positions of {kind} differ, first "
                f"{at}: actual {actual[at].item()}, reference {rounded[at].item()}"
            )


def assert_accurate(
    actual: Tensor, reference: Tensor, baseline: Tensor, *, name: str = "out", factor: float = 2.0,
    terms: Tensor | None = None,
) -> None:  # fmt: skip
    """Assert that `actual` is at most `factor` times as wrong as `baseline`.

    reference: the result in float64. baseline: the same computation in plain torch in the dtype of
    `actual`. NaN and infinities must be where the reference has them. Everywhere else

    - |actual - reference|_F <= factor * max(|baseline - reference|_F, |half ulp|_F), and
    - each |actual - reference| <= factor * max(m * s, half ulp), where s is the larger of the
      element's own size and the root mean square of its row (last axis), and m the largest
      |baseline - reference| / s: an element may be as wrong, for its size, as the baseline's worst.
      Where `terms` is given it takes the place of s: the sum of the magnitudes of the terms that
      make up each element. That is what rounding errors of a long sum scale with, so an element
      that came out small by cancellation is not held to its own size.

    The half ulp (of the dtype, at the reference) is there because a baseline can be exact by luck;
    with `terms` it is at least one fp32 ulp of them, what exp and softplus inside the terms owe.
    Raises AssertionError naming the worst element.
    """
    _same_kind(name, actual, reference, "the reference")
    _same_kind(name, baseline, reference, "the baseline")
    if actual.dtype != baseline.dtype:
        raise AssertionError(f"{name} has dtype {actual.dtype}, the baseline {baseline.dtype}")
    if reference.dtype != torch.float64:
        raise TypeError(f"reference has dtype {reference.dtype}, supported is torch.float64")
    rounded = reference.to(actual.dtype)
    _assert_anomalies(name, actual, rounded)
    if actual.numel() == 0:
        return
    finite = torch.isfinite(rounded)
    ref = torch.where(finite, reference, 0.0)
    err = torch.where(finite, actual.double() - ref, 0.0).abs()
    base = torch.where(finite & torch.isfinite(baseline), baseline.double() - ref, 0.0).abs()
    info = torch.finfo(actual.dtype)
    half_ulp = (ref.abs().clamp(min=info.tiny)) * (info.eps / 2)
    if terms is not None:
        size = torch.where(finite, terms.double(), 0.0).clamp(min=info.tiny)
        half_ulp = torch.maximum(half_ulp, size * torch.finfo(torch.float32).eps)
    else:
        size = ref.abs() if ref.dim() == 0 else ref.square().mean(-1, keepdim=True).sqrt()
        size = torch.maximum(ref.abs(), size).clamp(min=info.tiny)
    bound_norm = factor * max(float(base.norm()), float(half_ulp.norm()))
    bound = factor * torch.maximum((base / size).max() * size, half_ulp)
    worst = int((err / bound).argmax())
    at = _index(err, worst)
    where = (
        f"worst element {at}: actual {actual[at].item():.9g}, reference {ref[at].item():.9g}, "
        f"baseline {baseline[at].item():.9g}, error {err[at].item():.3g}, "
        f"allowed {bound[at].item():.3g}; {int((err > bound).sum())} of {err.numel()} outside"
    )
    if (err > bound).any():
        raise AssertionError(f"{name}: {where}")
    if float(err.norm()) > bound_norm:
        raise AssertionError(
            f"{name}: error {float(err.norm()):.3g} in the Frobenius norm, allowed "
            f"{bound_norm:.3g} ({factor:g} x the baseline's); {where}"
        )


def assert_unbiased(
    actual: Tensor, reference: Tensor, baseline: Tensor, *, name: str = "out", by_row: bool = False
) -> None:
    """Assert that a bf16 or fp16 result is rounded to nearest, not truncated or pushed one way.

    Elements that differ from the float64 reference rounded to nearest may be twice as many as the
    baseline's, and among them as many must lie above as below, and outwards as towards zero, each
    within DEVIATIONS standard deviations. With `by_row` the rows (last axis) count as the
    independent draws rather than the elements: right where one rounded factor moves a whole row.
    Raises AssertionError.
    """
    if actual.dtype not in (torch.bfloat16, torch.float16):
        raise TypeError(f"{name} has dtype {actual.dtype}, supported is bfloat16 or float16")
    _same_kind(name, actual, reference, "the reference")
    rounded = reference.to(actual.dtype)
    live = torch.isfinite(rounded) & torch.isfinite(actual)
    a = torch.where(live, actual, 0).double()
    r = torch.where(live, rounded, 0).double()
    n = int(live.sum())
    differ = int((a != r).sum())
    expected = 2 * int((baseline[live].double() != r[live]).sum())
    allowed = expected + DEVIATIONS * sqrt(max(expected * (1 - min(1.0, expected / max(n, 1))), 1))
    if differ > allowed:
        raise AssertionError(
            f"{name}: {differ} of {n} elements are not the reference rounded to nearest, "
            f"allowed {allowed:.0f} (twice the baseline's)"
        )
    for way, signs in (("above", (a - r).sign()), ("outwards", (a.abs() - r.abs()).sign())):
        draws = signs.sum(-1) if by_row and signs.dim() else signs
        spread = DEVIATIONS * max(float(draws.square().sum().sqrt()), 1.0)
        if abs(float(signs.sum())) > spread:
            raise AssertionError(
                f"{name}: of the {differ} elements that differ from the rounded reference "
                f"{float(signs.sum()):+.0f} more lie {way} than not, allowed +-{spread:.0f}"
            )


def assert_same_bits(actual: Tensor, expected: Tensor, *, name: str = "out") -> None:
    """Assert equal dtype, shape and bits (so -0 is not 0, and NaN is itself)."""
    _same_kind(name, actual, expected, "expected")
    if actual.dtype != expected.dtype:
        raise AssertionError(f"{name} has dtype {actual.dtype}, expected {expected.dtype}")
    if actual.dtype == torch.bool:
        bits = (actual, expected)
    else:
        kind = _BITS[actual.element_size()]
        bits = (actual.contiguous().view(kind), expected.contiguous().view(kind))
    wrong = bits[0] != bits[1]
    if wrong.any():
        at = _index(wrong, int(wrong.flatten().nonzero()[0]))
        raise AssertionError(
            f"{name}: {int(wrong.sum())} of {wrong.numel()} elements differ, first {at}: "
            f"actual {actual[at].item()}, expected {expected[at].item()}"
        )
