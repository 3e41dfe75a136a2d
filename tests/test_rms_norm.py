# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from native import (
    DTYPES,
    Case,
    assert_same_runs,
    check_case,
    check_compiled,
    check_refused,
    check_repeatable,
    run,
)
from warpweave import ops
from warpweave import reference as ref
from warpweave import testing as kit

OP = "rms_norm"
BF16 = torch.bfloat16
FORMS = ("plain", "residual", "gate")
# (leading shape, D, group): tails around every vector width and around four of them
SHAPES = [
    *(((3,), D, None) for D in (1, 7, 15, 16, 17, 63, 64, 65, 127)),
    *(((2, 3), 96, g) for g in (1, 8, 24, 48)),
    ((), 33, 11),
    ((5,), 4096, 512),
    ((4,), 2688, None),
    ((2,), 301, None),
    ((0,), 16, None),
    ((2, 0), 16, 8),
    ((3,), 0, None),
]  # fmt: skip


def make(lead: tuple[int, ...], D: int, group: int | None, form: str, dtype: torch.dtype,
         weight_dtype: torch.dtype = torch.float32) -> Case:  # fmt: skip
    g = kit.generator(f"{lead}{D}{group}{form}")
    x = kit.with_outliers(kit.normal((*lead, D), g), g, factor=50.0).to(dtype)
    weight = (1 + kit.normal((D,), g, scale=0.3)).to(weight_dtype)
    case = {"x": x, "weight": weight, "group_size": group}
    return case if form == "plain" else case | {form: kit.normal((*lead, D), g, dtype, 2.0)}


def check_form(op: kit.Op, case: Case) -> None:
    if "residual" not in case:
        return check_case(op, ref.rms_norm, case)
    # The sum is rounded before the norm, so the reference norm starts from the rounded sum.
    out, total = run(op, case)
    kit.assert_same_bits(total, ref.rms_norm(**case)[1], name="sum")
    rest = {"x": total, "weight": case["weight"], "group_size": case["group_size"]}
    check_case(lambda **_: out, ref.rms_norm, rest)


def special(dtype: torch.dtype) -> Tensor:
    """Rows of zeros, tiny and huge values, infinity, NaN."""
    x = torch.ones(7, 40)
    x[:, ::3] = -0.5
    scale = [0.0, 1e-6, 1e-3, 1e2, 2e4, 1.0, 1.0]
    x *= torch.tensor(scale)[:, None]
    x[5, 7], x[6, 33] = float("inf"), float("nan")
    return x.to(dtype)


def check(op: kit.Op, dtype: torch.dtype = BF16) -> None:
    for lead, D, group in SHAPES:
        for form in FORMS:
            for weight_dtype in {dtype, torch.float32}:
                check_form(op, make(lead, D, group, form, dtype, weight_dtype))
    for eps in (1e-5, 1e-2):
        check_case(op, ref.rms_norm, {"x": special(dtype), "weight": torch.ones(40), "eps": eps})


FAULTS: dict[str, kit.Fault] = {
    "truncated": kit.truncate,
    "one wrong element": kit.wrong_element,
    "last column dropped": kit.drop_tail,
    "NaN swallowed": kit.swallow_nan,
    "weight ignored": kit.on_argument("weight", torch.ones_like),
    "weight shifted": kit.on_argument("weight", lambda w: w.roll(1)),
    "weight is 1 + w": kit.on_argument("weight", lambda w: w + 1),
    "eps ignored": kit.on_argument("eps", lambda _: 0.0),
    "groups ignored": kit.on_argument("group_size", lambda _: None),
    "residual ignored": kit.on_argument("residual", torch.zeros_like),
    "gate without silu": lambda op: (
        lambda x, weight, **k: (
            op(x * k.pop("gate"), weight, **k) if "gate" in k else op(x, weight, **k)
        )
    ),
    "gate after the norm": lambda op: (
        lambda x, weight, gate=None, **k: (
            op(x, weight, **k)
            if gate is None
            else op(x, weight, **k) * torch.nn.functional.silu(gate)
        )
    ),
    "gate of another row": kit.on_argument("gate", lambda z: z.roll(1, 0)),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_accuracy(target: str, dtype: torch.dtype) -> None:
    check(ops.rms_norm, dtype)


def test_planted_faults() -> None:
    kit.assert_all_caught(ops.rms_norm, FAULTS, check)


def test_strides(target: str) -> None:
    for form in FORMS:
        case = make((4, 6), 80, 20, form, BF16, BF16)
        expected = run(ops.rms_norm, case)
        layouts = {
            "padded": kit.strided,
            "last axis strided": lambda t: kit.permuted(t, *reversed(range(t.dim()))),
            "rows swapped": lambda t: kit.permuted(t, 1, 0, 2) if t.dim() == 3 else t,
            "slice of a projection": lambda t: torch.cat([t, t, t], -1)[..., 80:160],
        }
        for layout in layouts.values():
            moved = {k: layout(v) if isinstance(v, Tensor) and v.dim() > 1 else v
                     for k, v in case.items()}  # fmt: skip
            moved["weight"] = torch.stack([case["weight"]] * 2, 1)[:, 0]
            for a, b in zip(run(ops.rms_norm, moved), expected, strict=True):
                assert a.is_contiguous()
                kit.assert_same_bits(a, b)
    row = make((1,), 24, None, "plain", BF16)
    wide = row | {"x": row["x"].expand(5, 24)}
    kit.assert_same_bits(ops.rms_norm(**wide), ops.rms_norm(**row).expand(5, 24))


def test_threads(target: str, threads: None) -> None:
    for form in FORMS:
        check_repeatable(ops.rms_norm, make((70,), 1280, 640, form, BF16))


def test_offsets_past_32_bits(target: str) -> None:
    # Virtual memory: of 4 GiB only two rows are ever touched.
    x = torch.empty(2, 1 << 31, dtype=BF16)[:, :64]
    x.copy_(torch.arange(128).view(2, 64))
    weight = torch.ones(64)
    kit.assert_same_bits(ops.rms_norm(x, weight), ops.rms_norm(x.contiguous(), weight))


def test_refusals() -> None:
    case = make((3,), 12, None, "plain", BF16)
    x = case["x"]
    for change, message in (
        ({"x": x.double()}, r"'x' is float64; supported: float32, bfloat16, float16"),
        ({"x": torch.tensor(1.0)}, r"'x' has shape \(\), expected \(\.\.\., D\)"),
        ({"weight": torch.ones(11)}, r"'weight' has shape \(11\), expected \(D,\) = \(12\)"),
        ({"weight": torch.ones(12).half()}, r"'weight' is float16; supported: float32 or"),
        ({"group_size": 5}, r"'group_size' is 5; supported: divisors of D = 12"),
        ({"group_size": 0}, r"'group_size' is 0"),
        ({"gate": x[:2]}, r"'gate' has shape \(2, 12\), expected that of 'x' = \(3, 12\)"),
        ({"residual": x.float()}, r"'residual' is float32; supported: bfloat16"),
        ({"residual": x, "gate": x}, r"'residual' and 'gate'"),
    ):
        check_refused(ops.rms_norm, case | change, (), "rms_norm: .*" + message)
    grad = case | {"weight": torch.ones(12, requires_grad=True)}
    check_refused(ops.rms_norm, grad, (), "no backward yet", NotImplementedError)


def test_torch_contracts() -> None:
    native = torch.ops.warpweave
    x, weight = torch.randn(3, 4, 16), torch.randn(16)
    torch.library.opcheck(native.rms_norm, (x, weight, x, 8, 1e-5))
    torch.library.opcheck(native.rms_norm, (x.mT.contiguous().mT, weight, None, None, 1e-5))
    torch.library.opcheck(native.rms_norm_residual, (x, weight, x, None, 1e-5))
    for form in FORMS:
        cases = [make((n, 3), 32, 16, form, BF16) for n in (2, 5, 9)]
        check_compiled(ops.rms_norm, cases)


def even(lead: tuple[int, ...], group: int, groups: int, form: str, dtype: torch.dtype) -> Case:
    """Every group is +-2^k: the mean is a power of 4, its root exact, and silu(64) = 64."""
    case = make(lead, group * groups, group, form, dtype) | {"eps": 0.0}
    size = kit.normal((*lead, groups, 1), kit.generator(f"{lead}{group}")).round().exp2()
    x = (size * case["x"].float().unflatten(-1, (groups, group)).sign()).flatten(-2).to(dtype)
    case |= {"x": x, "weight": case["weight"].mul(8).round()}
    return case | ({} if form == "plain" else {form: 3 * x if form == "residual" else 0 * x + 64})


# Twice what the registers of the largest block hold, an element or a vector at a time
LONG = (8193, 65536)


def check_long(op: kit.Op, D: int, form: str, dtype: torch.dtype) -> None:
    case = even((1,), D, 1, form, dtype)
    for a, e in zip(run(op, case), run(ref.rms_norm, case), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_long_rows(target: str, dtype: torch.dtype) -> None:
    for D in LONG:
        for form in FORMS:
            check_long(ops.rms_norm, D, form, dtype)


@settings(max_examples=80)
@given(st.data())
def test_exact_values_of_any_shape(data: st.DataObject) -> None:
    lead = tuple(data.draw(st.lists(st.integers(0, 4), max_size=3)))
    group, groups = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 3))
    form, dtype = data.draw(st.sampled_from(FORMS)), data.draw(st.sampled_from(DTYPES))
    case = even(lead, group, groups, form, dtype)
    order = data.draw(st.permutations(range(len(lead) + 1)))
    moved = case | {"x": kit.strided(kit.permuted(case["x"], *order))}
    assert_same_runs([run(ref.rms_norm, case), run(ops.rms_norm, moved)])
