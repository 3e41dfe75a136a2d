# SPDX-License-Identifier: Apache-2.0
from math import inf, nan
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from native import (
    Case,
    check_case,
    check_compiled,
    check_refused,
    check_repeatable,
    doubled,
    far_apart,
    run,
)
from plain_ssd import plain_ssd_scan
from warpweave import _native, ops
from warpweave import reference as ref
from warpweave import testing as kit

OP = "ssd_scan"
BF16, F32 = torch.bfloat16, torch.float32
# B, T, H, P, G, N, chunk: lengths around the recurrent limit of 2, the row block of 32, the chunk
SHAPES: list[tuple[int, ...]] = [
    (2, 130, 4, 64, 2, 128, 64),
    (1, 97, 6, 80, 3, 33, 32),
    (1, 65, 3, 33, 1, 16, 64),
    (2, 33, 8, 32, 1, 64, 16),
    (1, 40, 2, 5, 2, 7, 37),
    (3, 9, 2, 16, 1, 8, 128),
    (2, 2, 2, 16, 1, 8, 8),
    (2, 3, 2, 16, 1, 8, 8),
    (1, 1, 2, 16, 1, 8, 128),
    (2, 0, 2, 16, 1, 8, 128),
    (0, 4, 2, 16, 1, 8, 128),
    (1, 70, 2, 80, 1, 40, 64),
    (1, 70, 1, 80, 1, 72, 64),
    (1, 66, 2, 32, 1, 136, 64),
    (1, 9, 2, 6, 1, 130, 16),
    (1, 5, 1, 3, 1, 515, 16),
]
# Every tile that a GPU kernel has of P and N, and tiles that are not full
TILES: list[tuple[int, ...]] = [
    (1, 130, 2, 128, 1, 128, 64),
    (1, 130, 2, 64, 1, 96, 64),
    (1, 70, 2, 80, 1, 64, 64),
    (1, 130, 2, 80, 1, 128, 64),
    (1, 130, 2, 72, 1, 40, 64),
    (1, 130, 2, 40, 1, 256, 64),
    (1, 128, 2, 64, 1, 64, 64),  # and whole chunks to the end
]


def make(B: int, T: int, H: int, P: int, G: int, N: int, chunk: int, dtype: torch.dtype = BF16,
         options: str = "") -> Case:  # fmt: skip
    """Options: s for states, i for seq_idx, c for cu_seqlens, z for every fused input."""
    g = kit.generator(f"{B}{T}{H}{P}{G}{N}{options}")
    case: Case = {
        "x": kit.with_outliers(kit.normal((B, T, H, P), g), g, 4.0).to(dtype),
        "dt": kit.time_steps((B, T, H), g, dtype if "z" in options else F32),
        "A": kit.decays(H),
        "B": kit.normal((B, T, G, N), g, dtype),
        "C": kit.normal((B, T, G, N), g, dtype, max(N, 1) ** -0.5),
        "chunk_size": chunk,
        "dt_softplus": True,
        "return_final_states": True,
    }
    rows = B
    if "c" in options:
        case["cu_seqlens"] = kit.cut_points(T, 4, g)
        rows = 4
    if "i" in options:
        case["seq_idx"] = (torch.rand(B, T, generator=g) < 0.08).cumsum(1).to(torch.int32)
    if "s" in options:
        case["initial_states"] = kit.normal((rows, H, P, N), g)
    if "z" in options:
        case |= {
            "D": kit.normal((H, P), g),
            "z": kit.normal((B, T, H, P), g, dtype),
            "dt_bias": kit.normal((H,), g),
            "dt_limit": (0.01, 15.0),
        }
    return case


def magnitudes(**case: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What rounding errors of every element scale with: the sum over its terms of
    |term| (1 + |exponent of its decay|), for dt and dt A are rounded before exp takes them.

    The same recurrence over absolute values gives the sum of |term|, and its derivative along log A
    that of exponent |term|.
    """
    z = case.pop("z", None)
    positive = ("x", "B", "C", "D", "initial_states")
    case |= {k: case[k].abs() for k in positive if case.get(k) is not None}
    step = 1e-4
    scan = lambda factor: ref.ssd_scan(**case | {"A": case["A"].double() * factor})  # noqa: E731
    low, here, high = (scan(1 + i * step) for i in (-1, 0, 1))
    slopes = (((b - a) / (2 * step)).abs() for a, b in zip(low, high, strict=True))
    out, final = (m + slope for m, slope in zip(here, slopes, strict=True))
    return out if z is None else out * torch.nn.functional.silu(z).abs(), final


def check_one(op: kit.Op, case: Case) -> None:
    check_case(op, ref.ssd_scan, case, plain=plain_ssd_scan, terms=magnitudes, by_row=True)


def check(op: kit.Op, dtype: torch.dtype = BF16, shapes: Any = tuple(SHAPES)) -> None:
    for i, shape in enumerate(shapes):
        options = ["s", "sz", "i", "siz"][i % 4]
        check_one(op, make(*shape, dtype, options))
        if shape[0] == 1:
            check_one(op, make(*shape, dtype, "csz"))


def forget(name: str) -> kit.Fault:
    return lambda op: lambda **k: op(**{key: v for key, v in k.items() if key != name})


def lose_state(op: kit.Op) -> kit.Op:
    def wrong(**k: Any) -> Any:
        out, final = op(**k)
        return out, torch.cat([final[..., :-1], 0 * final[..., -1:]], -1)

    return wrong


FAULTS: dict[str, kit.Fault] = {
    "truncated": kit.truncate,
    "one wrong element": kit.wrong_element,
    "last column dropped": kit.drop_tail,
    "B and C swapped": lambda op: lambda B, C, **k: op(B=C, C=B, **k),
    "group of another head": kit.on_argument("B", lambda t: t.flip(2)),
    "decay ignored": kit.on_argument("A", torch.zeros_like),
    "A one percent off": kit.on_argument("A", lambda a: a * 1.01),
    "D ignored": forget("D"),
    "z ignored": forget("z"),
    "dt_bias ignored": forget("dt_bias"),
    "softplus ignored": forget("dt_softplus"),
    "dt_limit ignored": forget("dt_limit"),
    "initial states ignored": forget("initial_states"),
    "seq_idx ignored": forget("seq_idx"),
    "state column lost": lose_state,
    "states transposed": kit.on_argument("initial_states", lambda s: s.roll(1, -1)),
    "sequence cut one token late": kit.on_argument(
        "cu_seqlens", lambda c: torch.cat([c[:1], (c[1:-1] + 1).clamp(max=c[-1]), c[-1:]])
    ),
}


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_accuracy(target: str, dtype: torch.dtype) -> None:
    check(ops.ssd_scan, dtype)


def test_tiles(target: str) -> None:
    check(ops.ssd_scan, shapes=TILES)


def test_rows_cut_into_segments(target: str) -> None:
    """Rows so long, and so few, that blocks share one; the last part and its end are short."""
    for N, options in ((128, "s"), (64, "siz")):
        case = make(1, 800, 1, 64, 1, N, 64, BF16, options)
        check_one(ops.ssd_scan, case)
    check_repeatable(ops.ssd_scan, case)


CHOICES = [  # T, P, N, dtype: the kernel, and why not another
    (256, 64, 128, BF16, "stream P64 N128", ""),
    (256, 64, 40, BF16, "stream P64 N64", ""),
    (1024, 64, 64, BF16, "stream P64 N64", "cut into segments"),
    (64, 80, 128, BF16, "stream P80 N128", ""),
    (64, 64, 256, BF16, "stream P32 N256", ""),
    (20, 20, 16, BF16, "recurrent", "8 does not divide"),
    (20, 64, 264, BF16, "recurrent x4", "above 256"),
    (20, 64, 16, F32, "recurrent", "not bfloat16"),
]


def test_choice_of_kernel(target: str) -> None:
    """By the rule that `warpweave doctor` prints; the launch says why."""
    if target.startswith("cpu"):
        pytest.skip("there is one kernel")
    on_hopper = _native.kernel_for(OP, "cuda") == "cuda:sm_90"
    for T, P, N, dtype, variant, because in CHOICES:
        _native.launches()
        run(ops.ssd_scan, make(1, T, 1, P, 1, N, 64, dtype, ""))
        launch = _native.launches()[-1]
        if on_hopper and variant.startswith("stream P64"):
            variant = variant.replace("stream", "hopper")
        elif on_hopper and variant.startswith("stream"):
            because = "tiles are not of 64"
        assert (launch["op"], launch["variant"]) == (OP, variant)
        assert because in launch["because"]
        assert bool(because) == bool(launch["because"])


@pytest.mark.parametrize("where", ["x", "B", "C", "dt", "z"])
def test_nan_stays_in_its_sequence(target: str, where: str) -> None:
    case = make(1, 1100, 1, 64, 1, 64, 64, BF16, "sz")
    cuts = torch.tensor([0, 130, 700, 1100])
    case["seq_idx"] = (torch.arange(1100)[None, :, None] >= cuts[1:3]).sum(2, dtype=torch.int32)
    expected = run(ops.ssd_scan, case)
    poisoned = case[where].clone()
    poisoned[:, [130, 699]] = nan
    out, final = run(ops.ssd_scan, case | {where: poisoned})
    assert not torch.isfinite(out[:, 699]).any()
    for inside in (slice(0, 130), slice(700, 1100)):
        kit.assert_same_bits(out[:, inside], expected[0][:, inside])
    kit.assert_same_bits(final, expected[1])


def test_planted_faults() -> None:
    kit.assert_all_caught(ops.ssd_scan, FAULTS, lambda op: check(op, shapes=SHAPES[2:5]))


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("where", ["x", "B", "C", "dt", "z", "initial_states"])
def test_nan_and_inf_reach_what_the_recurrence_reaches(
    target: str, dtype: torch.dtype, where: str
) -> None:
    case = make(1, 70, 2, 16, 2, 8, 32, dtype, "sz")
    case["A"] = torch.tensor([-0.01, -0.5])  # no decay is zero in fp32 and a number in fp64
    tolerance = 1e-5 if dtype == F32 else 3 * 2**-8  # of the sum of an element's |terms|
    sizes = run(magnitudes, doubled(case))
    for value in (nan, inf):
        poisoned = case[where].clone()
        poisoned.view(-1)[poisoned.numel() // 2] = value
        actual = run(ops.ssd_scan, case | {where: poisoned})
        exact = run(ref.ssd_scan, doubled(case | {where: poisoned}))
        for a, e, size in zip(actual, exact, sizes, strict=True):
            off = ((a.double() - e).abs() / size).where(torch.isfinite(e), 0.0)
            assert torch.equal(torch.isfinite(a), torch.isfinite(e))
            torch.testing.assert_close(
                a.double().where(torch.isinf(e), 0.0), e.where(torch.isinf(e), 0.0)
            )
            assert float(off.max()) < tolerance


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_growing_states(target: str, dtype: torch.dtype) -> None:
    """Positive A: no factorisation of the decays that needs exponents below zero may be used."""
    case = make(1, 70, 4, 16, 1, 8, 32, dtype) | {"dt_limit": (0.0, 0.1)}
    case["A"] = torch.tensor([0.5, 1.0, -3.0, 2.0])
    check_one(ops.ssd_scan, case)


@pytest.mark.parametrize("chunk", [1, 3, 16, 64, 256])
def test_chunk_size_changes_rounding_only(target: str, chunk: int) -> None:
    case = make(1, 150, 2, 32, 1, 16, chunk, F32, "siz")
    check_one(ops.ssd_scan, case)


@pytest.mark.parametrize("cut", [1, 8, 9, 31, 64, 99])
def test_a_cut_sequence_continues(cut: int) -> None:
    case = make(2, 100, 4, 32, 2, 16, 32, F32, "sz")
    whole = run(ops.ssd_scan, case)
    parts, state = [], case["initial_states"]
    for part in (slice(0, cut), slice(cut, 100)):
        piece = {k: case[k][:, part] for k in ("x", "dt", "B", "C", "z")}
        out, state = ops.ssd_scan(**case | piece | {"initial_states": state})
        parts.append(out)
    torch.testing.assert_close(torch.cat(parts, 1), whole[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(state, whole[1], rtol=1e-4, atol=1e-4)


def test_steps_continue_a_scan(target: str) -> None:
    case = make(2, 40, 4, 32, 2, 16, 16, F32, "sz")
    out, final = ops.ssd_scan(**case)
    head = {k: case[k][:, :30] for k in ("x", "dt", "B", "C", "z")}
    _, state = ops.ssd_scan(**case | head)
    rest = {k: case[k][:, 30:] for k in ("x", "dt", "B", "C", "z")}
    shared = {k: case[k] for k in ("A", "D", "dt_bias", "dt_softplus", "dt_limit")}
    stepped = ops.ssm_step(state, **rest, **shared)
    torch.testing.assert_close(stepped, out[:, 30:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(state, final, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_strides_and_threads(target: str, threads: None, dtype: torch.dtype) -> None:
    case = make(2, 70, 4, 32, 2, 16, 32, dtype, "siz")
    check_repeatable(ops.ssd_scan, case)
    expected = run(ops.ssd_scan, case)
    tensors = {k: v for k, v in case.items() if isinstance(v, torch.Tensor)}
    for change in (kit.strided, lambda t: kit.permuted(t, *reversed(range(t.dim())))):
        for actual, e in zip(
            run(ops.ssd_scan, case | {k: change(t) for k, t in tensors.items()}),
            expected,
            strict=True,
        ):
            kit.assert_same_bits(actual, e)


def test_offsets_past_two_to_the_31(target: str) -> None:
    case = make(1, 20, 2, 8, 1, 8, 16, BF16, "z")
    expected = ops.ssd_scan(**case)[0]
    for name in ("x", "dt", "B", "C", "z"):
        kit.assert_same_bits(ops.ssd_scan(**case | {name: far_apart(case[name], 1)})[0], expected)


def test_refusals() -> None:
    case = make(1, 20, 4, 8, 2, 8, 16, BF16, "sz")
    for change, message in [
        ({"x": case["x"].half()}, "'x' is float16; supported: float32, bfloat16"),
        ({"x": case["x"][0]}, r"'x' has shape \(20, 4, 8\), expected \(B, T, H, P\)"),
        ({"B": case["B"].float()}, "'B' is float32; supported: bfloat16"),
        (
            {
                "B": case["B"][:, :, :1].expand(1, 20, 3, 8),
                "C": case["C"][:, :, :1].expand(1, 20, 3, 8),
            },
            "'B' has 3 groups",
        ),
        ({"dt": case["dt"][:, :19]}, r"'dt' has shape \(1, 19, 4\)"),
        ({"A": case["A"][:3]}, r"'A' has shape \(3\), expected \(H,\) = \(4\)"),
        ({"D": case["D"][:3]}, r"'D' has shape \(3, 8\)"),
        ({"chunk_size": 0}, "'chunk_size' is 0; supported: 1 to 1024"),
        ({"chunk_size": 1025}, "'chunk_size' is 1025"),
        ({"dt_limit": (2.0, 1.0)}, r"'dt_limit' is \(2, 1\)"),
        ({"initial_states": case["initial_states"][0]}, r"'initial_states' has shape \(4, 8, 8\)"),
        ({"cu_seqlens": torch.tensor([0, 10, 20])}, r"'initial_states' has shape \(1, 4, 8, 8\)"),
        (
            {"initial_states": None, "cu_seqlens": torch.tensor([1, 20])},
            "'cu_seqlens' must start at 0, got 1",
        ),
        (
            {"initial_states": None, "cu_seqlens": torch.tensor([0, 12, 8, 20])},
            "'cu_seqlens' must not decrease",
        ),
        (
            {"initial_states": None, "cu_seqlens": torch.tensor([0, 19])},
            "'cu_seqlens' must end at .* 20, got 19",
        ),
        ({"seq_idx": torch.zeros(1, 20)}, "'seq_idx' is float32; supported: int32"),
    ]:
        check_refused(ops.ssd_scan, case | change, (), message)
    grad = case | {"dt": case["dt"].clone().requires_grad_()}
    check_refused(ops.ssd_scan, grad, (), "no backward yet", NotImplementedError)


def test_opcheck_and_compile() -> None:
    op = torch.ops.warpweave.ssd_scan.default
    for options in ("", "siz", "csz"):
        case = make(1, 20, 4, 8, 2, 8, 16, BF16, options)
        low, high = case.get("dt_limit", (0.0, inf))
        names = ("initial_states", "seq_idx", "cu_seqlens")
        fused = tuple(case.get(k) for k in ("D", "z", "dt_bias"))
        required = tuple(case[k] for k in ("x", "dt", "A", "B", "C"))
        rest = (True, low, high, *(case.get(k) for k in names), options != "")
        torch.library.opcheck(op, (*required, 16, *fused, *rest))
    check_compiled(ops.ssd_scan, [make(2, T, 4, 8, 2, 8, 16, BF16, "siz") for T in (20, 50)])


@settings(max_examples=25)
@given(
    st.integers(0, 90),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 70),
    st.integers(1, 40),
    st.sampled_from([1, 5, 16, 32, 64]),
    st.sampled_from(["", "s", "si", "csz", "iz"]),
)
def test_any_shape(T: int, G: int, per: int, P: int, N: int, chunk: int, options: str) -> None:
    case = make(1, T, G * per, P, G, N, chunk, F32, options)
    check_one(ops.ssd_scan, case)
