# SPDX-License-Identifier: Apache-2.0
from math import inf
from typing import Any
from unittest import mock

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
from warpweave.reference import _random
from warpweave.reference._random import draw_seed, stochastic_half

OP = "ssm_step"
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
MUTATED = ("state", "intermediate_states")
# B, T (None: no time axis), H, P, G, N: tails in P and N, rows around the block of 32
SHAPES: list[tuple[Any, ...]] = [
    (2, None, 4, 33, 2, 16),
    (1, None, 2, 64, 1, 128),
    (3, 1, 2, 31, 2, 17),
    (2, 5, 3, 40, 1, 67),
    (1, 18, 2, 7, 2, 5),
    (2, 3, 1, 1, 1, 1),
    (0, 2, 2, 4, 1, 8),
    (2, 0, 2, 4, 1, 8),
    (1, 2, 2, 4, 1, 0),
    (1, 2, 1, 6, 1, 512),
]


def make(B: int, T: int | None, H: int, P: int, G: int, N: int, dtype: torch.dtype = BF16,
         state_dtype: torch.dtype = F32, options: bool = True) -> Case:  # fmt: skip
    g = kit.generator(f"{B}{T}{H}{P}{G}{N}{options}")
    time = () if T is None else (T,)
    case: Case = {
        "state": kit.normal((B + 2 if options else B, H, P, N), g, state_dtype),
        "x": kit.with_outliers(kit.normal((B, *time, H, P), g), g, factor=4.0).to(dtype),
        "dt": kit.time_steps((B, *time, H), g, dtype),
        "A": kit.decays(H),
        "B": kit.normal((B, *time, G, N), g, dtype),
        "C": kit.normal((B, *time, G, N), g, dtype),
        "dt_softplus": True,
    }
    if not options:
        return case
    rows = torch.randperm(B + 2, generator=g)[:B].to(torch.int32)
    rows[1:2] = -3  # padding
    return case | {
        "D": kit.normal((H, P), g),
        "z": kit.normal((B, *time, H, P), g, dtype),
        "dt_bias": kit.normal((H,), g),
        "dt_limit": (0.01, 15.0),
        "state_indices": rows,
        "intermediate_states": torch.zeros(B, 1 if T is None else T, H, P, N, dtype=state_dtype),
    }


def check(op: kit.Op, dtype: torch.dtype = BF16) -> None:
    for i, shape in enumerate(SHAPES):
        for options in (False, True):
            case = make(*shape, dtype, (F32, dtype)[(i + options) % 2], options)
            check_case(op, ref.ssm_step, case, MUTATED)
    case = make(*SHAPES[0], dtype)
    check_case(op, ref.ssm_step, case | {"D": case["D"][:, 0]}, MUTATED)
    case = make(*SHAPES[0], dtype, options=False) | {"dt_softplus": False, "dt_limit": (-1.0, 2.0)}
    check_case(op, ref.ssm_step, case, MUTATED)
    case["dt"][0, 0] = case["state"][1, 1, 2, 3] = float("nan")
    case["x"][1, 2, 5] = inf
    check_case(op, ref.ssm_step, case, MUTATED)
    if dtype == F16:
        check_stochastic(op)


# --- Stochastic rounding: of the fp32 state that the op itself computes, bit by bit ---


def seeded(case: Case, seed: int = 5) -> Case:
    """A generator for each call, since drawing from it changes it."""
    generator = torch.Generator().manual_seed(seed)
    return case | {"rounding": "stochastic", "generator": generator}


def hard_to_round(*special: float) -> Case:
    """A step to a state that is B: zeros, fp16's subnormals and what lies between them, around its
    smallest normal and its largest value, what it has no value for, and what is given."""
    exact = torch.arange(1, 9) * 2.0**-24
    points = torch.cat([exact, exact / 3, torch.tensor([2.0**-14, 1.0, 1.5 - 2.0**-12, 65504.0])])
    near = (points.view(torch.int32)[:, None] + torch.arange(-4, 5, dtype=torch.int32)).view(F32)
    sizes = [0.0, 1e-45, 1e-39, 2.0**-38, 2.0**-37, 2.0**-25, 3e-6, 65519.0, 65520.0, 1e9,
             3.4028e38, torch.finfo(F32).max, *special]  # fmt: skip
    values = torch.cat([near.flatten(), torch.tensor(sizes)])
    B = torch.cat([values, -values])[None, None]
    P, N = 40, B.shape[-1]
    return {
        "state": torch.zeros(1, 1, P, N, dtype=F16), "x": torch.ones(1, 1, P),
        "dt": torch.ones(1, 1), "A": torch.zeros(1), "B": B, "C": torch.zeros(1, 1, N),
    }  # fmt: skip


def assert_same_halves(actual: Tensor, expected: Tensor) -> None:
    """The same bits, but NaN in any of its codes."""
    nan = expected.isnan()
    kit.assert_same_bits(actual.isnan(), nan)
    kit.assert_same_bits(actual.masked_fill(nan, 0), expected.masked_fill(nan, 0))


def check_stochastic(op: kit.Op) -> None:
    cases = [make(*SHAPES[i], BF16, F16, o) for i in (0, 1, 3, 4) for o in (False, True)]
    nan = float("nan")  # twice, so that N % 8 == 0
    for case in [*cases, hard_to_round(), hard_to_round(inf, nan, inf, nan)]:
        wide = {k: v.float() if k in MUTATED else v for k, v in case.items()}
        exact, rounded = run(op, wide, MUTATED), run(op, seeded(case), MUTATED)
        assert_same_runs([exact[:1], rounded[:1]])
        B, *time, H, P = case["x"].shape
        row = torch.arange(B * (T := time[0] if time else 1) * H * P).view(B, T, H, P)
        seed = draw_seed(seeded({})["generator"])
        for b, slot in enumerate(case.get("state_indices", torch.arange(B)).tolist()):
            if slot < 0:
                continue
            assert_same_halves(rounded[1][slot], stochastic_half(exact[1][slot], row[b, -1], seed))
            for stored, of_exact in zip(rounded[2:], exact[2:], strict=True):
                assert_same_halves(stored[b], stochastic_half(of_exact[b], row[b], seed))


def with_words(change: Any) -> kit.Fault:
    """The fault that computes with other random words."""

    def fault(op: kit.Op) -> kit.Op:
        def wrong(**k: Any) -> Any:
            with mock.patch.object(_random, "words_of", lambda c, key: change(c, key)):
                return op(**k)

        return wrong

    return fault


def rows_exchanged(op: kit.Op) -> kit.Op:
    def wrong(**k: Any) -> Any:
        slots = k.get("state_indices")
        slots = torch.arange(len(k["x"]), dtype=torch.int32) if slots is None else slots
        turned = {n: t.flip(0) for n, t in k.items() if n in ("x", "dt", "B", "C", "z")}
        stored = k.get("intermediate_states")
        if stored is not None:
            turned["intermediate_states"] = stored.flip(0)
        out = op(**(k | turned | {"state_indices": slots.flip(0)}))
        if stored is not None:
            stored.copy_(turned["intermediate_states"].flip(0))
        return out.flip(0)

    return wrong


words_of = _random.words_of
STOCHASTIC_FAULTS: dict[str, kit.Fault] = {
    "to nearest": kit.on_argument("rounding", lambda _: "nearest"),
    "another seed": kit.on_argument("generator", lambda _: torch.Generator().manual_seed(6)),
    "random bits of another row of the batch": rows_exchanged,
    "truncated": with_words(lambda c, key: 0 * words_of(c, key)),
    "rounded away from zero": with_words(lambda c, key: 0 * words_of(c, key) + 0x1FFF1FFF),
    "upper bits of the halves": with_words(lambda c, key: words_of(c, key) >> 3),
    "one random bit less": with_words(lambda c, key: words_of(c, key) & 0x1FFE1FFE),
    "halves exchanged": with_words(lambda c, key: words_of(c, key) >> 16 | words_of(c, key) << 16),
    "words exchanged": with_words(lambda c, key: words_of(c, key).flip(-1)),
    "one counter for all": with_words(lambda c, key: words_of(0 * c, key)),
    "the next counter": with_words(lambda c, key: words_of(c + 1, key)),
}  # fmt: skip


def test_planted_faults_of_stochastic_rounding() -> None:
    kit.assert_all_caught(ref.ssm_step, STOCHASTIC_FAULTS, check_stochastic)


def test_stochastic_rounding_is_unbiased() -> None:
    """The definition that every target is compared with: on one value, and over many steps."""
    for value in (1 + 2**-12, -(1 + 3 * 2**-12), 2.0**-25, 3e-6, -1000.3):
        x = torch.full((1000, 40), value)
        y = stochastic_half(x, torch.arange(1000), 11).double()
        low, high = y.min(), y.max()
        assert low <= value <= high
        assert abs(y.mean() - x[0, 0].double()) < 4 * y.std() / x.numel() ** 0.5
        assert (
            high - low
            == torch.tensor(value)
            .half()
            .double()
            .abs()
            .log2()
            .floor()
            .clamp(min=-14)
            .sub(10)
            .exp2()
        )
    edges = torch.tensor([[0.0, -0.0, -65504.0, 65519.0, 1e9, inf, -inf, 2.0**-24]])
    kit.assert_same_bits(
        stochastic_half(edges, torch.zeros(1, dtype=torch.int64), 3),
        torch.tensor([[0.0, -0.0, -65504.0, 65504.0, 65504.0, inf, -inf, 2.0**-24]]).half(),
    )
    case: Case = {
        "state": torch.ones(1, 1, 64, 64, dtype=F16), "x": torch.ones(1, 1, 64),
        "dt": torch.full((1, 1), 2.0**-14), "A": torch.zeros(1),
        "B": torch.ones(1, 1, 64), "C": torch.ones(1, 1, 64),
    }  # fmt: skip
    steps, generator = 800, torch.Generator().manual_seed(2)
    for _ in range(steps):  # to nearest the state would stay 1
        ops.ssm_step(**case, rounding="stochastic", generator=generator)
    state, p = case["state"].double(), 2.0**-4  # of a step up, of 2^-10
    sigma = (steps * p * (1 - p)) ** 0.5 * 2.0**-10
    assert abs(state.mean() - 1 - steps * 2.0**-14) < 4 * sigma / state.numel() ** 0.5
    assert 0.9 < state.std() / sigma < 1.1


def without(name: str) -> kit.Fault:
    return lambda op: lambda **k: op(**{key: v for key, v in k.items() if key != name})


def on_state(change: Any) -> kit.Fault:
    def fault(op: kit.Op) -> kit.Op:
        def wrong(**k: Any) -> Any:
            old = k["state"].clone()
            out = op(**k)
            k["state"].copy_(change(old, k["state"]))
            return out

        return wrong

    return fault


FAULTS: dict[str, kit.Fault] = {
    "truncated": kit.truncate,
    "one wrong element": kit.wrong_element,
    "last column dropped": kit.drop_tail,
    "NaN swallowed": kit.swallow_nan,
    "B and C swapped": lambda op: lambda B, C, **k: op(B=C, C=B, **k),
    "group of another head": kit.on_argument("B", lambda t: t.flip(-2)),
    "D ignored": without("D"),
    "z ignored": without("z"),
    "dt_bias ignored": without("dt_bias"),
    "softplus ignored": without("dt_softplus"),
    "dt_limit ignored": without("dt_limit"),
    "decay ignored": kit.on_argument("A", torch.zeros_like),
    "state not written": on_state(lambda old, new: old),
    "state truncated": on_state(
        lambda old, new: new if new.dtype == F32 else (new.view(torch.int16) - 1).view(new.dtype)
    ),
    "last state column lost": on_state(
        lambda old, new: torch.cat([new[..., :-1], old[..., -1:]], -1)
    ),
    "padding writes a slot": kit.on_argument(
        "state_indices", lambda i: torch.where(i < 0, _free(i), i)
    ),
    "intermediates not written": without("intermediate_states"),
}  # fmt: skip


def _free(indices: Tensor) -> Tensor:
    used = set(indices.tolist())
    return torch.tensor(
        next(i for i in range(len(indices) + 2) if i not in used), dtype=torch.int32
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_accuracy(target: str, dtype: torch.dtype) -> None:
    check(ops.ssm_step, dtype)


def test_planted_faults() -> None:
    kit.assert_all_caught(ops.ssm_step, FAULTS, check)


def test_many_tokens_are_many_steps(target: str) -> None:
    case = make(2, 6, 4, 40, 2, 32, BF16)
    out, state, stored = run(ops.ssm_step, case, MUTATED)
    steps = case | {"state": case["state"].clone()}
    del steps["intermediate_states"]
    for t in range(6):
        token = {name: steps[name][:, t] for name in ("x", "dt", "B", "C", "z")}
        kit.assert_same_bits(ops.ssm_step(**(steps | token)), out[:, t])
        live = case["state_indices"] >= 0
        slots = case["state_indices"][live].long()
        kit.assert_same_bits(stored[live][:, t], steps["state"][slots])
    kit.assert_same_bits(steps["state"], state)


def test_strides(target: str) -> None:
    for dtype in (F32, BF16, F16):
        case = make(2, 3, 4, 40, 2, 19, BF16, dtype)
        rounding = seeded if dtype == F16 else dict
        expected = run(ops.ssm_step, rounding(case), MUTATED)
        for layout in (kit.strided, lambda t: kit.permuted(t, *reversed(range(t.dim())))):
            moved = {k: layout(v) if isinstance(v, Tensor) else v for k, v in case.items()}
            assert_same_runs([expected, run(ops.ssm_step, rounding(moved), MUTATED)])
            around = moved["state"].untyped_storage().nbytes() > case["state"].nbytes
            ops.ssm_step(**moved)
            whole = torch.empty(0, dtype=dtype).set_(moved["state"].untyped_storage())
            assert int(whole.isnan().sum()) == (whole.numel() - case["state"].numel()) * around
    case = make(3, 2, 4, 8, 1, 16, BF16, options=False)
    shared = case | {k: case[k][:1, :1].expand(case[k].shape) for k in ("dt", "B", "C", "x")}
    copied = shared | {k: shared[k].contiguous() for k in ("dt", "B", "C", "x")}
    assert_same_runs([run(ops.ssm_step, c, MUTATED) for c in (shared, copied)])


def test_threads(target: str, threads: None) -> None:
    check_repeatable(ops.ssm_step, make(3, 2, 8, 64, 2, 128), MUTATED)
    case = make(3, 2, 8, 64, 2, 128, state_dtype=F16)
    check_repeatable(lambda **k: ops.ssm_step(**seeded(k)), case, MUTATED)


def test_offsets_past_32_bits(target: str) -> None:
    # Virtual memory: the pool has over 2^31 elements, two slots of it are ever touched.
    case = make(2, None, 8, 64, 1, 128, options=False)
    pool = torch.empty((1 << 31) // (8 * 64 * 128) + 8, 8, 64, 128, dtype=BF16)
    rows = torch.tensor([len(pool) - 1, 1], dtype=torch.int32)
    small = case | {"state": case["state"].to(BF16)}
    pool[rows.long()] = small["state"]
    y, state = run(ops.ssm_step, small, MUTATED)
    kit.assert_same_bits(ops.ssm_step(**(case | {"state": pool, "state_indices": rows})), y)
    kit.assert_same_bits(pool[rows.long()], state)


def test_refusals() -> None:
    case = make(3, 2, 4, 8, 2, 16)
    index = lambda *rows: {"state_indices": torch.tensor(rows, dtype=torch.int32)}  # noqa: E731
    for change, message in (
        (index(4, 1, 4), r"'state_indices' holds 4 twice"),
        (index(1, -1, 5), r"'state_indices' holds 5 at position 2; supported: below the 5 slots"),
        ({"state_indices": torch.tensor([0, 1, 2])}, r"'state_indices' is int64; supported: int32"),
        ({"state_indices": None}, r"'state' has 5 rows; supported without state_indices: .* 3"),
        ({"state": case["state"].double()}, r"'state' is float64; supported: float32, bf"),
        ({"state": case["state"][:1].expand(5, 4, 8, 16)}, r"'state' has stride 0 over axis 0"),
        ({"x": case["x"][0, 0]}, r"'x' has shape \(4, 8\), expected \(B, H, P\) or"),
        ({"B": case["B"].float()}, r"'B' is float32; supported: bfloat16"),
        ({"B": case["B"][:, :, :1].expand(3, 2, 3, 16)}, r"'C' has shape|'B' has 3 groups"),
        (
            {"dt": case["dt"][..., 0]},
            r"'dt' has shape \(3, 2\), expected \(B, T, H\) = \(3, 2, 4\)",
        ),
        ({"D": torch.ones(5)}, r"'D' has shape \(5\), expected \(H,\) or \(H, P\)"),
        ({"dt_limit": (2.0, 1.0)}, r"'dt_limit' is \(2, 1\)"),
        ({"intermediate_states": case["intermediate_states"].half()}, r"'intermediate_states' is"),
        ({"rounding": "up"}, r"'rounding' is 'up'; supported: 'nearest', 'stochastic'"),
        ({"rounding": "stochastic"}, r"'state' is float32; supported: float16"),
    ):
        check_refused(ops.ssm_step, case | change, MUTATED, "ssm_step: .*(" + message + ")")
    grad = case | {"A": torch.zeros(4, requires_grad=True)}
    check_refused(ops.ssm_step, grad, MUTATED, "no backward yet", NotImplementedError)


def test_torch_contracts() -> None:
    case = make(2, 3, 4, 8, 2, 16)
    order = ("state", "x", "dt", "A", "B", "C", "D", "z", "dt_bias")
    args = [case[name] for name in order]
    native = torch.ops.warpweave.ssm_step
    rest = (case["state_indices"], case["intermediate_states"])
    torch.library.opcheck(native, (*args, True, 0.0, inf, *rest, None))
    args[0] = args[0][:2].half()
    torch.library.opcheck(native, (*args, False, 0.0, inf, None, None, torch.tensor(7)))
    check_compiled(ops.ssm_step, [make(n, 3, 4, 8, 2, 16) for n in (2, 4, 7)], MUTATED)


@settings(max_examples=60)
@given(st.data())
def test_exact_values_of_any_shape(data: st.DataObject) -> None:
    # Small integers, no decay, gates where silu is the identity: nothing rounds before the store.
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    B, T, G, P, N = draw(0, 3), draw(0, 4), draw(1, 3), draw(1, 40), draw(1, 70)
    state_dtype, dtype = data.draw(st.sampled_from(DTYPES)), data.draw(st.sampled_from(DTYPES))
    case = make(B, T, G * draw(1, 3), P, G, N, dtype, state_dtype) | {"dt_softplus": False}
    for name in ("state", "x", "dt", "B", "C", "D", "dt_bias"):
        case[name] = case[name].clamp(-3, 3).round()
    case["A"], case["z"] = torch.zeros_like(case["A"]), 32.0 * (2 + case["x"].sign())
    case["dt_limit"] = (-2.0, 3.0)
    order = data.draw(st.permutations(range(4)))
    moved = {k: kit.permuted(v, *order) if isinstance(v, Tensor) and v.dim() == 4 else v
             for k, v in case.items()}  # fmt: skip
    assert_same_runs([run(ref.ssm_step, case, MUTATED), run(ops.ssm_step, moved, MUTATED)])
