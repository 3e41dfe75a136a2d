# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from native import Case, check_case, check_compiled, check_refused, check_repeatable, far_apart, run
from quant import each_part, fp8, nvfp4, nvfp4_faults, on_bytes, opcheck, with_nan
from warpweave import _native, ops
from warpweave import reference as ref
from warpweave import testing as kit
from warpweave.quantized import NVFP4Tensor

OP = "moe_mlp"
BF16, F32 = torch.bfloat16, torch.float32
# T, K, E, I, top_k: few and many tokens an expert, widths around the block of 64 and odd ones
SHAPES: list[tuple[int, ...]] = [
    (100, 70, 4, 66, 2),
    (40, 64, 8, 33, 3),
    (7, 33, 5, 129, 4),
    (1, 96, 16, 64, 6),
    (65, 31, 2, 5, 1),
    (0, 16, 4, 8, 2),
    (3, 16, 4, 0, 2),
    (3, 0, 4, 8, 2),
    (100, 136, 3, 200, 2),  # many aligned rows an expert
]


def make(T: int, K: int, E: int, I: int, top_k: int, dtype: torch.dtype = BF16) -> Case:  # noqa: E741
    g = kit.generator(f"{T}{K}{E}{I}{top_k}")
    weights, indices = kit.skewed_routing(T, E, top_k, g, drop=True)
    return {
        "x": kit.with_outliers(kit.normal((T, K), g), g, 4.0).to(dtype),
        "up": kit.normal((E, I, K), g, dtype, max(K, 1) ** -0.5),
        "down": kit.normal((E, K, I), g, dtype, max(I, 1) ** -0.5),
        "weights": weights,
        "indices": indices,
    }


def check_one(op: kit.Op, case: Case) -> None:
    # One rounding of a hidden activation moves a whole row of the result.
    check_case(op, ref.moe_mlp, case, by_row=True)


def check(op: kit.Op, dtype: torch.dtype = BF16) -> None:
    for shape in SHAPES:
        check_one(op, make(*shape, dtype))
    case = make(*SHAPES[1], dtype)
    case["x"][3, 5] = float("nan")
    check_one(op, case)


FAULTS: dict[str, kit.Fault] = {
    "truncated": kit.truncate,
    "one wrong element": kit.wrong_element,
    "last column dropped": kit.drop_tail,
    "NaN swallowed": kit.swallow_nan,
    "next expert up": kit.on_argument("up", lambda w: w.roll(1, 0)),
    "next expert down": kit.on_argument("down", lambda w: w.roll(1, 0)),
    "weights of another choice": kit.on_argument("weights", lambda w: w.flip(1)),
    "no expert read as expert 0": kit.on_argument("indices", lambda i: i.clamp(min=0)),
    "last choice dropped": kit.on_argument(
        "weights", lambda w: torch.cat([w[:, :-1], 0 * w[:, -1:]], 1)
    ),
    "relu instead of relu2": lambda op: lambda x, **k: op(x=x.sign() * x.abs() ** 0.5, **k),
}


# The same with experts as checkpoints store them: K and I in blocks of 16.
QUANTISED_SHAPES: list[tuple[int, ...]] = [
    (40, 64, 8, 48, 3),
    (7, 32, 5, 144, 4),
    (1, 96, 16, 64, 6),
    (100, 272, 3, 208, 2),
    (0, 16, 4, 16, 2),
]
FORMATS = {"nvfp4": nvfp4, "fp8": fp8, "bf16": lambda *args: kit.normal(*args[:2], BF16, 0.1)}


def make_quantised(shape: tuple[int, ...], up: str, down: str, per: str = "matrix") -> Case:
    _, K, E, I, _ = shape  # noqa: E741
    g = kit.generator(f"{shape}{up}{down}{per}")
    case = make(*shape)
    quantised = {"up": FORMATS[up]((E, I, K), g, per), "down": FORMATS[down]((E, K, I), g, per)}
    return case | quantised


def check_quantised(op: kit.Op, up: str = "nvfp4", down: str = "nvfp4") -> None:
    for i, shape in enumerate(QUANTISED_SHAPES):
        check_one(op, make_quantised(shape, up, down, ("matrix", "row", "all")[i % 3]))
    case = make_quantised(QUANTISED_SHAPES[0], up, down)
    for name in ("up", "down"):
        if not isinstance(case[name], torch.Tensor):
            check_one(op, case | {name: with_nan(case[name], 1, 5, 2)})
        if isinstance(case[name], NVFP4Tensor):
            scales = on_bytes(lambda s: s & 0x87)(case[name].block_scales)  # subnormal
            check_one(op, case | {name: replace(case[name], block_scales=scales)})


@pytest.mark.parametrize("down", FORMATS)
@pytest.mark.parametrize("up", FORMATS)
def test_accuracy_of_quantised_experts(cpu_isa: str, up: str, down: str) -> None:
    check_quantised(ops.moe_mlp, up, down)


def test_planted_faults_of_quantised_experts() -> None:
    faults = nvfp4_faults("up") | nvfp4_faults("down")
    kit.assert_all_caught(ops.moe_mlp, faults, check_quantised)


@pytest.mark.parametrize("kind", ["nvfp4", "fp8"])
def test_strides_and_threads_of_quantised_experts(cpu_isa: str, threads: None, kind: str) -> None:
    case = make_quantised((70, 48, 4, 80, 2), kind, kind, "row")
    check_repeatable(ops.moe_mlp, case)
    expected = run(ops.moe_mlp, case)[0]
    moved = {name: each_part(case[name], kit.strided) for name in ("up", "down")}
    kit.assert_same_bits(ops.moe_mlp(**case | moved), expected)


def test_refusals_of_quantised_experts() -> None:
    case = make_quantised((6, 32, 4, 16, 2), "nvfp4", "fp8")
    up, down = case["up"], case["down"]
    for change, message in [
        ({"x": case["x"].half()}, "'x' is float16; supported: float32, bfloat16"),
        ({"up": up[0]}, r"'up' has shape \(16, 16\), expected \(E, I, K\)"),
        ({"up": nvfp4((4, 16, 16), kit.generator(""))}, r"'up' has shape \(4, 16, 8\), expected"),
        ({"down": fp8((4, 32, 8), kit.generator(""))}, r"'down' has shape \(4, 32, 8\), expected"),
        ({"down": kit.normal((4, 32, 16), kit.generator(""))}, "'down' is float32; supported: bf"),
    ]:
        check_refused(ops.moe_mlp, case | change, (), message)
    tensors = (case["x"], up.codes, down.data, case["weights"], case["indices"])
    with pytest.raises(ValueError, match=r"'up' is uint8, which needs 'up\.block_scales'"):
        torch.ops.warpweave.moe_mlp(*tensors, None, up.global_scale, None, down.scale)
    with pytest.raises(ValueError, match=r"'down' is float8_e4m3fn, which takes no 'down\.block"):
        torch.ops.warpweave.moe_mlp(
            *tensors, up.block_scales, up.global_scale, up.block_scales, down.scale
        )


def test_opcheck_and_compile_of_quantised_experts() -> None:
    case = make_quantised((9, 32, 4, 16, 2), "nvfp4", "fp8")
    up, down = case["up"], case["down"]
    opcheck(
        torch.ops.warpweave.moe_mlp.default,
        (case["x"], up.codes, down.data, case["weights"], case["indices"],
         up.block_scales, up.global_scale, None, down.scale),
    )  # fmt: skip
    check_compiled(
        ops.moe_mlp, [make_quantised(shape, "nvfp4", "fp8") for shape in QUANTISED_SHAPES[:3]]
    )


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_accuracy(target: str, dtype: torch.dtype) -> None:
    check(ops.moe_mlp, dtype)


def test_planted_faults() -> None:
    kit.assert_all_caught(ops.moe_mlp, FAULTS, check)


@pytest.mark.parametrize(
    ("shape", "pad", "dtype"),
    [
        ((70, 40, 4, 72, 2), 3, F32),
        ((70, 40, 4, 72, 2), 3, BF16),
        ((70, 136, 2, 128, 2), 8, BF16),
    ],
    ids=str,
)
def test_strides_and_threads(
    target: str, threads: None, dtype: torch.dtype, shape: tuple[int, ...], pad: int
) -> None:
    case = make(*shape, dtype)
    check_repeatable(ops.moe_mlp, case)
    expected = run(ops.moe_mlp, case)[0]
    moved = {name: kit.strided(t, pad) for name, t in case.items()}
    kit.assert_same_bits(ops.moe_mlp(**moved), expected)
    turned = {name: kit.permuted(case[name], 0, 2, 1) for name in ("up", "down")}
    kit.assert_same_bits(ops.moe_mlp(**case | turned), expected)
    kit.assert_same_bits(ops.moe_mlp(**case | {"indices": case["indices"].long()}), expected)


def test_many_rows_take_the_kernel_of_sm90a(target: str) -> None:
    if target.startswith("cpu"):
        pytest.skip("there is one kernel")
    _native.launches()
    run(ops.moe_mlp, make(*SHAPES[-1]))
    products = [launch for launch in _native.launches() if launch["op"] == "grouped_gemm"]
    has_own = _native.kernel_for(OP, "cuda") == "cuda:sm_90" and _native.cuda_info()["cutlass"]
    assert len(products) == (4 if has_own else 2), products
    assert all(p["variant"].startswith("sm_90a") == bool(has_own) for p in products)


def test_all_tokens_to_one_expert(target: str) -> None:
    case = make(90, 48, 3, 40, 1)
    case["indices"] = torch.full_like(case["indices"], 2)
    check_one(ops.moe_mlp, case)
    case["indices"] = torch.full_like(case["indices"], -1)
    kit.assert_same_bits(ops.moe_mlp(**case), torch.zeros(90, 48, dtype=BF16))


def test_offsets_past_two_to_the_31(target: str) -> None:
    case = make(40, 64, 3, 33, 2)
    expected = ops.moe_mlp(**case)
    for name in ("x", "up", "down"):
        kit.assert_same_bits(ops.moe_mlp(**case | {name: far_apart(case[name])}), expected)


def test_refusals() -> None:
    case = make(6, 16, 4, 8, 2)
    for change, message in [
        ({"x": case["x"].float()}, "'x' is float32; supported: bfloat16"),
        ({"up": case["up"].half()}, "'up' is float16; supported: float32, bfloat16"),
        ({"down": case["down"][:, :8]}, r"'down' has shape \(4, 8, 8\), expected \(E, K, I\)"),
        ({"weights": case["weights"].to(BF16)}, "'weights' is bfloat16; supported: float32"),
        ({"indices": case["indices"][:5]}, r"'indices' has shape \(5, 2\)"),
        ({"indices": case["indices"].float()}, "'indices' is float32; supported: int32, int64"),
        ({"indices": case["indices"] * 0 + 4}, "'indices' holds 4 for token 0; supported: 0 to 3"),
        ({"indices": case["indices"] * 0 - 2}, "'indices' holds -2 for token 0"),
    ]:
        check_refused(ops.moe_mlp, case | change, (), message)
    grad = case | {"up": case["up"].clone().requires_grad_()}
    check_refused(ops.moe_mlp, grad, (), "no backward yet", NotImplementedError)


def test_opcheck_and_compile() -> None:
    for dtype in (F32, BF16):
        torch.library.opcheck(
            torch.ops.warpweave.moe_mlp.default, tuple(make(9, 24, 4, 16, 2, dtype).values())
        )
    check_compiled(ops.moe_mlp, [make(*shape) for shape in SHAPES[:3]])


@settings(max_examples=25)
@given(st.integers(0, 80), st.integers(1, 80), st.integers(1, 6), st.integers(1, 80), st.data())
def test_any_shape(T: int, K: int, E: int, I: int, data: st.DataObject) -> None:  # noqa: E741
    top_k = data.draw(st.integers(1, E))
    check_one(ops.moe_mlp, make(T, K, E, I, top_k))
