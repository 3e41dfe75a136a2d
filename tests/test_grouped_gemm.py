# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from native import Case, check_case, check_compiled, check_refused, check_repeatable, far_apart, run
from warpweave import _native, ops
from warpweave import reference as ref
from warpweave import testing as kit

OP = "grouped_gemm"
BF16, F32 = torch.bfloat16, torch.float32
# M, N, K, E: around the token unit of 32, the weight block of 64, and the depths of a step of k
SHAPES: list[tuple[int, ...]] = [
    (200, 70, 96, 5),
    (131, 64, 33, 3),
    (66, 129, 31, 2),
    (33, 1, 130, 1),
    (9, 63, 1, 4),
    (300, 16, 64, 8),
    (5, 65, 48, 7),
    (0, 8, 8, 3),
    (4, 0, 8, 2),
    (7, 8, 0, 2),
    (6, 8, 8, 0),
    (200, 40, 24, 2),
    (150, 33, 37, 1),
    WIDE := (70, 5000, 8, 6),  # more tiles than blocks
    *(MANY := [(330, 200, 136, 4), (2570, 136, 64, 40)]),  # many aligned rows a group
]


# More of k than the stages of a tile of bf16 hold: 16, 64 and 128 rows, and what is not aligned
DEEP = [(20, 40, 392, 3), (66, 40, 328, 2), (200, 136, 520, 2), (20, 9, 393, 3), (66, 9, 331, 2)]


def make(M: int, N: int, K: int, E: int, dtype: torch.dtype = BF16, activation: Any = None) -> Case:
    g = kit.generator(f"{M}{N}{K}{E}{activation}")
    ends = kit.group_ends(M, E, g) if E else torch.zeros(0, dtype=torch.int32)
    return {
        "a": kit.with_outliers(kit.normal((M, K), g), g, 8.0).to(dtype),
        "b": kit.normal((E, N, K), g, dtype, scale=max(K, 1) ** -0.5),
        "offsets": ends if activation else ends.long(),
        "activation": activation,
    }


def tile_a_group() -> Case:
    """More tiles of the largest kind than an H100 has multiprocessors, each of a larger group."""
    ends = (30 + torch.arange(140) // 2).cumsum(0)
    return make(int(ends[-1]) + 1, 128, 64, len(ends)) | {"offsets": ends}


def check_product(op: kit.Op, case: Case) -> None:
    check_case(op, ref.grouped_gemm, case)


def check(op: kit.Op, dtype: torch.dtype = BF16) -> None:
    for i, shape in enumerate(SHAPES):
        check_product(op, make(*shape, dtype, (None, "relu2")[i % 2]))
    for shape in (SHAPES[0], MANY[0]):
        case = make(*shape, dtype, "relu2")
        case["a"][3, 5], case["a"][40, 0] = float("inf"), float("nan")
        check_product(op, case)


FAULTS: dict[str, kit.Fault] = {
    "truncated": kit.truncate,
    "one wrong element": kit.wrong_element,
    "last column dropped": kit.drop_tail,
    "NaN swallowed": kit.swallow_nan,
    "next expert": kit.on_argument("b", lambda b: b.roll(1, 0)),
    "group one row late": kit.on_argument("offsets", lambda o: (o - 1).clamp(min=0)),
    "activation forgotten": kit.on_argument("activation", lambda _: None),
    "last k forgotten": kit.on_argument("a", lambda a: torch.cat([a[:, :-1], 0 * a[:, -1:]], 1)),
    "rest not zeroed": lambda op: (
        lambda a, offsets, **k: op(a=a, offsets=_to_the_end(a, offsets), **k)
    ),
}


def _to_the_end(a: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    return offsets if len(offsets) == 0 else torch.cat([offsets[:-1], 0 * offsets[-1:] + len(a)])


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_accuracy(target: str, dtype: torch.dtype) -> None:
    check(ops.grouped_gemm, dtype)


def test_more_of_k_than_stages(target: str) -> None:
    for shape in DEEP:
        for dtype in (BF16, F32):
            check_product(ops.grouped_gemm, make(*shape, dtype, "relu2"))


def test_blocks_come_to_another_group(target: str) -> None:
    check_product(ops.grouped_gemm, tile_a_group())


def test_planted_faults() -> None:
    kit.assert_all_caught(ops.grouped_gemm, FAULTS, check)


@pytest.mark.parametrize(
    ("rows", "N", "K"), [*((rows, 90, 77) for rows in (1, 4, 5, 31, 32, 33, 64)), (129, 264, 80)]
)
def test_exact_on_integers(target: str, rows: int, N: int, K: int) -> None:
    """Every sum is a small integer, so each order of addition and each path has the same bits."""
    g = kit.generator(f"integers{rows}")
    a = torch.randint(-4, 5, (2 * rows, K), generator=g).to(BF16)
    b = torch.randint(-4, 5, (2, N, K), generator=g).to(BF16)
    out = ops.grouped_gemm(a.float(), b.float(), torch.tensor([rows, 2 * rows]))
    expected = torch.einsum("emk,enk->emn", a.float().view(2, rows, K), b.float()).flatten(0, 1)
    kit.assert_same_bits(out, expected)
    kit.assert_same_bits(ops.grouped_gemm(a, b, torch.tensor([rows, 2 * rows])), expected.to(BF16))


@pytest.mark.parametrize(
    ("shape", "pad", "dtype"),
    [((130, 70, 40, 4), 3, F32), ((130, 70, 40, 4), 3, BF16), (MANY[0], 8, BF16)],
    ids=str,
)
def test_strides_and_threads(
    target: str, threads: None, dtype: torch.dtype, shape: tuple[int, ...], pad: int
) -> None:
    case = make(*shape, dtype, "relu2")
    check_repeatable(ops.grouped_gemm, case)
    expected = run(ops.grouped_gemm, case)[0]
    for change in (
        lambda t: kit.strided(t, pad),
        lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2),
    ):
        moved = case | {"a": change(case["a"]), "b": change(case["b"])}
        kit.assert_same_bits(ops.grouped_gemm(**moved), expected)


def test_offsets_past_two_to_the_31(target: str) -> None:
    for shape, multiple in (((40, 64, 32, 3), 1), ((130, 136, 64, 2), 8)):
        case = make(*shape, BF16)
        expected = ops.grouped_gemm(**case)
        for name in ("a", "b"):
            moved = case | {name: far_apart(case[name], multiple=multiple)}
            kit.assert_same_bits(ops.grouped_gemm(**moved), expected)


AFTER_SM90A = [  # why a Hopper device takes another kernel than its own
    ({"b": lambda b: b[:, :100]}, "less than 128 columns"),
    ({"a": lambda a: a[:, :60], "b": lambda b: b[..., :60]}, "or 64 of k"),
    ({"a": lambda a: a[:250]}, "less than 64 rows a group"),
    ({"b": lambda b: b[:, :132]}, "rows are not on 16 bytes"),
    ({"a": lambda a: kit.strided(a)}, "rows are not on 16 bytes"),
    ({"a": lambda a: kit.strided(a, 8), "b": lambda b: kit.strided(b, 8)}, None),
    ({"a": lambda a: a.float(), "b": lambda b: b.float()}, "operands are not bfloat16"),
]


def test_choice_of_kernel(target: str) -> None:
    """The kernel of sm_90a runs where its rule says, and elsewhere the launch says why not."""
    if target.startswith("cpu"):
        pytest.skip("there is one kernel")

    def chosen(case: Case) -> dict[str, str]:
        _native.launches()
        run(ops.grouped_gemm, case)
        return dict(_native.launches()[-1])

    case = make(*MANY[0])
    case["offsets"] = torch.tensor([90, 90, 200, 250])
    has_own = _native.kernel_for(OP, "cuda") == "cuda:sm_90" and _native.cuda_info()["cutlass"]
    launch = chosen(case)
    assert launch["op"] == OP
    assert launch["variant"].startswith("sm_90a") == bool(has_own)
    if has_own:
        assert launch["because"] == ""
        for change, reason in AFTER_SM90A:
            launch = chosen(case | {name: f(case[name]) for name, f in change.items()})
            assert launch["variant"].startswith("sm_90a") == (reason is None)
            assert (reason or "") in launch["because"]


def test_refusals() -> None:
    case = make(20, 8, 16, 3)
    for change, message in [
        ({"a": case["a"].half()}, "'a' is float16; supported: float32, bfloat16"),
        ({"b": case["b"].float()}, "'b' is float32; supported: bfloat16"),
        ({"b": case["b"][:, :, :8]}, r"'b' has shape \(3, 8, 8\), expected \(E, N, K\)"),
        ({"a": case["a"][0]}, r"'a' has shape \(16\), expected \(M, K\)"),
        ({"offsets": case["offsets"].float()}, "'offsets' is float32; supported: int32, int64"),
        ({"offsets": case["offsets"][:2]}, r"'offsets' has shape \(2\)"),
        ({"offsets": torch.tensor([3, 2, 20])}, "'offsets' holds 2 at 1"),
        ({"offsets": torch.tensor([3, 4, 21])}, "'offsets' holds 21 at 2"),
        ({"activation": "relu"}, "'activation' is 'relu'; supported: None, 'relu2'"),
    ]:
        check_refused(ops.grouped_gemm, case | change, (), message)
    grad = case | {"a": case["a"].clone().requires_grad_()}
    check_refused(ops.grouped_gemm, grad, (), "no backward yet", NotImplementedError)


def test_opcheck_and_compile() -> None:
    for dtype in (F32, BF16):
        case = make(40, 24, 16, 3, dtype)
        args = (case["a"], case["b"], case["offsets"], True)
        torch.library.opcheck(torch.ops.warpweave.grouped_gemm.default, args)
    check_compiled(ops.grouped_gemm, [make(*shape, BF16, "relu2") for shape in SHAPES[:3]])


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 70), min_size=1, max_size=5), st.integers(1, 140), st.integers(1, 100)
)
def test_any_groups(rows: list[int], N: int, K: int) -> None:
    g = kit.generator(f"{rows}{N}{K}")
    case = {
        "a": kit.normal((sum(rows), K), g, BF16),
        "b": kit.normal((len(rows), N, K), g, BF16, K**-0.5),
        "offsets": torch.tensor(rows).cumsum(0),
    }
    check_case(ops.grouped_gemm, ref.grouped_gemm, case)
