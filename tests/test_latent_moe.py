# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
import torch

from native import Case, check_case, check_compiled, check_refused, check_repeatable, far_apart, run
from quant import each_part, fp8, nvfp4, nvfp4_faults, on_bytes, opcheck
from warpweave import _native, ops
from warpweave import reference as ref
from warpweave import testing as kit
from warpweave.quantized import NVFP4Tensor

OP = "latent_moe"
BF16, F32 = torch.bfloat16, torch.float32
# T, d, l (0: no latent), E, I, top_k, S (0: no shared expert)
SHAPES: list[tuple[int, ...]] = [
    (100, 96, 33, 4, 40, 2, 70),
    (40, 64, 32, 8, 33, 3, 0),
    (70, 65, 0, 4, 48, 2, 31),
    (3, 130, 16, 5, 24, 2, 64),
    (2, 64, 0, 6, 24, 3, 0),
    (1, 33, 8, 4, 16, 1, 16),
    (0, 16, 8, 4, 8, 2, 8),
    (100, 136, 128, 3, 200, 2, 144),  # many aligned rows in every product
    (70, 128, 136, 2, 128, 2, 0),
    (70, 136, 0, 2, 128, 2, 136),
]


def make(
    T: int, d: int, latent: int, E: int, width: int, top_k: int, S: int, dtype: torch.dtype = BF16
) -> Case:
    g = kit.generator(f"{T}{d}{latent}{E}{width}{top_k}{S}")
    weights, indices = kit.skewed_routing(T, E, top_k, g)
    inner = latent or d
    return {
        "x": kit.with_outliers(kit.normal((T, d), g), g, 4.0).to(dtype),
        "weights": weights,
        "indices": indices,
        "fc1": kit.normal((latent, d), g, dtype, d**-0.5) if latent else None,
        "up": kit.normal((E, width, inner), g, dtype, inner**-0.5),
        "down": kit.normal((E, inner, width), g, dtype, width**-0.5),
        "fc2": kit.normal((d, latent), g, dtype, latent**-0.5) if latent else None,
        "shared_up": kit.normal((S, d), g, dtype, d**-0.5) if S else None,
        "shared_down": kit.normal((d, S), g, dtype, S**-0.5) if S else None,
    }


def check_one(op: kit.Op, case: Case) -> None:
    # One rounding of a hidden activation moves a whole row of the result.
    check_case(op, ref.latent_moe, case, by_row=True)


def check(op: kit.Op, dtype: torch.dtype = BF16) -> None:
    for shape in SHAPES:
        check_one(op, make(*shape, dtype))


FAULTS: dict[str, kit.Fault] = {
    "truncated": kit.truncate,
    "one wrong element": kit.wrong_element,
    "last column dropped": kit.drop_tail,
    "shared expert forgotten": kit.on_argument("shared_down", torch.zeros_like),
    "shared expert scaled": kit.on_argument("shared_down", lambda w: 2.5 * w),
    "fc2 of other rows": kit.on_argument("fc2", lambda w: w.roll(1, 0)),
    "fc1 of other rows": kit.on_argument("fc1", lambda w: w.roll(1, 0)),
    "routed result forgotten": kit.on_argument("weights", torch.zeros_like),
    "weights applied twice": kit.on_argument("weights", torch.square),
}


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_accuracy(target: str, dtype: torch.dtype) -> None:
    check(ops.latent_moe, dtype)


def test_planted_faults() -> None:
    kit.assert_all_caught(ops.latent_moe, FAULTS, check)


@pytest.mark.parametrize(
    ("shape", "pad", "dtype"),
    [
        ((70, 96, 40, 4, 72, 2, 33), 3, F32),
        ((70, 96, 40, 4, 72, 2, 33), 3, BF16),
        ((70, 128, 136, 2, 128, 2, 144), 8, BF16),
    ],
    ids=str,
)
def test_strides_and_threads(
    target: str, threads: None, dtype: torch.dtype, shape: tuple[int, ...], pad: int
) -> None:
    case = make(*shape, dtype)
    check_repeatable(ops.latent_moe, case)
    moved = {name: kit.strided(t, pad) for name, t in case.items()}
    kit.assert_same_bits(ops.latent_moe(**moved), run(ops.latent_moe, case)[0])


MATRICES = ("fc1", "up", "down", "fc2", "shared_up", "shared_down")
KINDS = {"nvfp4": (nvfp4,) * 6, "fp8": (fp8,) * 6, "mixed": (fp8, nvfp4, nvfp4, None, None, fp8)}
QUANTISED_SHAPES: list[tuple[int, ...]] = [
    (70, 64, 32, 4, 48, 2, 96),
    (3, 96, 32, 5, 16, 2, 64),
    (2, 64, 0, 6, 48, 3, 32),
    (40, 80, 48, 4, 32, 2, 0),
    (1, 272, 144, 4, 16, 1, 272),
]


def make_quantised(
    shape: tuple[int, ...], kind: str = "nvfp4", per: str = "matrix", subnormal: bool = False
) -> Case:
    """Every matrix keeps the size of what it is multiplied with, so that both branches count."""
    case, g = make(*shape), kit.generator(f"{shape}{kind}{per}")
    for name, quantise in zip(MATRICES, KINDS[kind], strict=True):
        if quantise is None or case[name] is None:
            continue
        t = quantise(tuple(case[name].shape), g, per)
        if subnormal:
            t = replace(t, block_scales=on_bytes(lambda s: s & 0x87)(t.block_scales))
        gain = (t.dequantize(F32).std() * t.shape[-1] ** 0.5).reciprocal()
        scale = "global_scale" if isinstance(t, NVFP4Tensor) else "scale"
        case[name] = replace(t, **{scale: getattr(t, scale) * gain})
    return case


def check_quantised(op: kit.Op, kind: str = "nvfp4") -> None:
    for i, shape in enumerate(QUANTISED_SHAPES):
        check_one(op, make_quantised(shape, kind, ("matrix", "row", "all")[i % 3]))
    if kind == "nvfp4":
        check_one(op, make_quantised(QUANTISED_SHAPES[0], kind, subnormal=True))


@pytest.mark.parametrize("kind", KINDS)
def test_accuracy_of_quantised_matrices(target: str, kind: str) -> None:
    check_quantised(ops.latent_moe, kind)


def test_planted_faults_of_quantised_matrices() -> None:
    faults: dict[str, kit.Fault] = {}
    for name in ("fc1", "fc2", "shared_up", "shared_down"):
        faults |= nvfp4_faults(name)
    kit.assert_all_caught(ops.latent_moe, faults, check_quantised)


def test_strides_and_threads_of_quantised_matrices(target: str, threads: None) -> None:
    case = make_quantised((70, 64, 32, 4, 48, 2, 96), "mixed", "row")
    check_repeatable(ops.latent_moe, case)
    moved = {name: each_part(case[name], kit.strided) for name in MATRICES}
    kit.assert_same_bits(ops.latent_moe(**case | moved), run(ops.latent_moe, case)[0])


# Launches of group products, and what ends the layer; each of sm_90a's own has one before it.
MANY = [
    (SHAPES[-3], 5, "plus float32"),  # of two products, whose sum is rounded once
    (SHAPES[-2], 4, ""),
    (SHAPES[-1], 4, "plus bfloat16"),
]


@pytest.mark.parametrize(("shape", "products", "end"), MANY, ids=str)
def test_many_rows_take_the_kernel_of_sm90a(
    target: str, shape: tuple[int, ...], products: int, end: str
) -> None:
    if target.startswith("cpu"):
        pytest.skip("there is one kernel")
    _native.launches()
    run(ops.latent_moe, make(*shape))
    found = [p for p in _native.launches() if p["op"] == "grouped_gemm"]
    if _native.kernel_for(OP, "cuda") == "cuda:sm_90" and _native.cuda_info()["cutlass"]:
        sums = 1 if end == "plus float32" else 0
        assert len(found) == 2 * (products + sums), found
        assert all(p["variant"].startswith("sm_90a") and not p["because"] for p in found)
        assert found[-1]["variant"].endswith(end)
    else:
        assert len(found) == products, found
        assert not any(p["variant"].startswith("sm_90a") for p in found)


def test_sums_are_rounded_once(target: str) -> None:
    """The last two products are 1 + 2^-12, which bfloat16 does not have, and -1."""
    T, d, width = 70, 128, 64
    eye, fc2 = torch.eye(width, d, dtype=BF16), torch.zeros(d, width, dtype=BF16)
    fc2[:, 0], fc2[:, 1] = 1, 2**-12
    experts = eye[:, :width].expand(2, width, width)
    case: Case = {
        "x": torch.ones(T, d, dtype=BF16),
        "weights": torch.ones(T, 1),
        "indices": torch.zeros(T, 1, dtype=torch.int32),
        "fc1": eye,
        "up": experts,
        "down": experts,
        "fc2": fc2,
        "shared_up": eye,
        "shared_down": torch.nn.functional.pad(-torch.ones(d, 1), (0, width - 1)).to(BF16),
    }
    kit.assert_same_bits(ops.latent_moe(**case), torch.full((T, d), 2**-12, dtype=BF16))


def test_offsets_past_two_to_the_31(target: str) -> None:
    case = make(40, 64, 32, 3, 33, 2, 40)
    expected = ops.latent_moe(**case)
    for name in ("x", "up", "down"):
        kit.assert_same_bits(ops.latent_moe(**case | {name: far_apart(case[name])}), expected)


def test_refusals() -> None:
    case = make(6, 32, 16, 4, 8, 2, 24)
    for change, message in [
        ({"fc2": None}, "'fc1' and 'fc2' must be given together"),
        ({"shared_up": None}, "'shared_up' and 'shared_down' must be given together"),
        ({"fc1": case["fc1"].float()}, "'fc1' is float32; supported: bfloat16"),
        ({"fc2": case["fc2"][:, :8]}, r"'fc2' has shape \(32, 8\), expected \(d, l\) = \(32, 16\)"),
        ({"fc1": case["fc1"][:8], "fc2": case["fc2"][:, :8]}, r"'up' has shape \(4, 8, 16\)"),
        ({"shared_down": case["shared_down"].t()}, r"'shared_down' has shape \(24, 32\)"),
        ({"x": case["x"][0]}, r"'x' has shape \(32\), expected \(T, d\)"),
        ({"indices": case["indices"] + 4}, "'indices' holds"),
    ]:
        check_refused(ops.latent_moe, case | change, (), message)
    quantised = make_quantised((6, 32, 16, 4, 16, 2, 32))
    for change, message in [
        ({"fc2": quantised["fc1"]}, r"'fc2' has shape \(16, 16\), expected"),
        ({"x": case["x"].half()}, "'x' is float16; supported: float32, bfloat16"),
        ({"shared_down": case["shared_down"]}, r"'shared_down' has shape \(32, 24\), expected"),
    ]:
        check_refused(ops.latent_moe, quantised | change, (), message)
    grad = case | {"fc1": case["fc1"].clone().requires_grad_()}
    check_refused(ops.latent_moe, grad, (), "no backward yet", NotImplementedError)


def test_opcheck_and_compile() -> None:
    for shape in SHAPES[:3]:
        args = tuple(make(*shape).values())
        torch.library.opcheck(torch.ops.warpweave.latent_moe.default, args)
    check_compiled(ops.latent_moe, [make(T, 64, 16, 4, 24, 2, 40) for T in (5, 40)])
    case = make_quantised(QUANTISED_SHAPES[1])
    matrices = [case[name] for name in MATRICES]
    data = [case["x"], case["weights"], case["indices"], *(m.codes for m in matrices)]
    scales = [s for m in matrices for s in (m.block_scales, m.global_scale)]
    opcheck(torch.ops.warpweave.latent_moe.default, (*data, *scales))
    check_compiled(ops.latent_moe, [make_quantised(shape) for shape in QUANTISED_SHAPES[:2]])
