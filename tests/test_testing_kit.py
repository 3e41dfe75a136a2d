# SPDX-License-Identifier: Apache-2.0
"""The testing kit must fail on what it exists to find, and pass what is right."""

import pytest
import torch

from warpweave import testing as kit

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A matrix product with fp32 accumulation and one rounding: the op under test here."""
    acc = torch.float64 if a.dtype == torch.float64 else torch.float32
    return (a.to(acc) @ b.to(acc)).to(a.dtype)


def case(dtype: torch.dtype, name: str = "kit") -> tuple[torch.Tensor, torch.Tensor]:
    g = kit.generator(name)
    a = kit.with_outliers(kit.normal((48, 64), g, dtype), g)
    return a, kit.normal((64, 40), g, dtype)


def check_product(op: kit.Op, dtype: torch.dtype = torch.bfloat16) -> None:
    a, b = case(dtype)
    actual, reference = op(a, b), product(a.double(), b.double())
    kit.assert_accurate(actual, reference, product(a, b))
    if dtype != torch.float32:
        kit.assert_unbiased(actual, reference, product(a, b))
    a = torch.full_like(a[:2], float("nan"))
    kit.assert_accurate(op(a, b), product(a.double(), b.double()), product(a, b))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_right_result_passes(dtype: torch.dtype) -> None:
    check_product(product, dtype)
    a, b = case(dtype)
    other_order = product(a.flip(1), b.flip(0))  # the same sums in another order
    kit.assert_accurate(other_order, product(a.double(), b.double()), product(a, b))


FAULTS: dict[str, kit.Fault] = {
    "truncation instead of rounding": kit.truncate,
    "one wrong element": kit.wrong_element,
    "last column dropped": kit.drop_tail,
    "NaN swallowed": kit.swallow_nan,
    "NaN everywhere": kit.on_result(lambda t: t * float("nan")),
    "rounded up": kit.on_result(lambda t: torch.nextafter(t, torch.full_like(t, torch.inf))),
    "rounded outwards": kit.on_result(lambda t: t * 1.004),
    "operand transposed": kit.on_argument("b", lambda b: b.flip(0)),
    "operand rounded twice": kit.on_argument("a", lambda a: (a.float() * 1.01).to(a.dtype)),
}


def test_planted_faults_are_caught() -> None:
    kit.assert_all_caught(product, FAULTS, check_product)


def test_the_fault_runner_itself_can_fail() -> None:
    with pytest.raises(AssertionError, match="no check caught: harmless"):
        kit.assert_all_caught(
            product, {"harmless": lambda op: op, "real": kit.wrong_element}, check_product
        )
    with pytest.raises(AssertionError):  # a check that fails on the right op is no check
        kit.assert_all_caught(kit.wrong_element(product), {}, check_product)
    with pytest.raises(RuntimeError):  # a fault that crashes was not caught by numbers
        kit.assert_all_caught(
            product, {"shape": kit.on_argument("b", lambda b: b[1:])}, check_product
        )


def test_truncation_passes_accuracy_alone() -> None:
    """Why assert_unbiased exists: cutting bits off is at most twice the error of rounding."""
    a, b = case(torch.bfloat16)
    cut, reference = kit.truncate(product)(a, b), product(a.double(), b.double())
    kit.assert_accurate(cut, reference, product(a, b))
    with pytest.raises(AssertionError, match="rounded to nearest"):
        kit.assert_unbiased(cut, reference, product(a, b))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_biased_errors_fail_even_if_the_baseline_is_as_noisy(dtype: torch.dtype) -> None:
    reference = kit.normal((100, 100), kit.generator("bias"), torch.float64)
    exact = reference.to(dtype)
    up = torch.nextafter(exact, torch.full_like(exact, torch.inf))
    down = torch.nextafter(exact, torch.full_like(exact, -torch.inf))
    coin = torch.rand(exact.shape, generator=kit.generator("coin"))
    noisy = torch.where(coin < 0.1, up, torch.where(coin > 0.9, down, exact))
    biased = torch.where(coin < 0.2, up, exact)
    kit.assert_unbiased(noisy, reference, noisy)
    with pytest.raises(AssertionError, match="above"):
        kit.assert_unbiased(biased, reference, noisy)
    towards_zero = torch.where(coin < 0.2, torch.where(exact > 0, down, up), exact)
    with pytest.raises(AssertionError, match="outwards"):
        kit.assert_unbiased(towards_zero, reference, noisy)


def test_the_message_names_the_worst_element() -> None:
    reference = torch.ones(3, 4, dtype=torch.float64)
    actual = torch.ones(3, 4)
    actual[2, 1] = 1.5
    with pytest.raises(AssertionError, match=r"\(2, 1\): actual 1.5, reference 1, .* 1 of 12"):
        kit.assert_accurate(actual, reference, torch.ones(3, 4))


def test_small_errors_everywhere_fail_in_the_norm() -> None:
    g = kit.generator("norm")
    reference = kit.normal((64, 64), g, torch.float64)
    noise = kit.normal((64, 64), g, torch.float64, scale=1e-4)
    noise[0] *= 4
    baseline = torch.where(torch.arange(64)[:, None] == 0, reference + noise, reference).float()
    with pytest.raises(AssertionError, match="Frobenius"):
        kit.assert_accurate((reference + noise).float(), reference, baseline)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_anomalies_must_be_at_the_same_place(value: float) -> None:
    reference = torch.zeros(2, 5, dtype=torch.float64)
    reference[1, 3] = value
    right = reference.float()
    kit.assert_accurate(right, reference, right)
    for wrong in (torch.zeros(2, 5), right.roll(1, 1), right[:, :4]):
        with pytest.raises(AssertionError):
            kit.assert_accurate(wrong, reference, right)


def test_overflow_of_the_narrow_dtype_is_expected() -> None:
    reference = torch.tensor([1e6, -1e6, 1.0], dtype=torch.float64)
    right = torch.tensor([float("inf"), -float("inf"), 1.0], dtype=torch.float16)
    kit.assert_accurate(right, reference, right)
    with pytest.raises(AssertionError, match="inf"):
        kit.assert_accurate(right.nan_to_num(), reference, right)


def test_same_bits() -> None:
    a = torch.tensor([0.0, float("nan"), 1.0])
    kit.assert_same_bits(a, a.clone())
    for b in (torch.tensor([-0.0, float("nan"), 1.0]), a.double(), a[:2], a + 1e-7):
        with pytest.raises(AssertionError):
            kit.assert_same_bits(a, b)


def test_empty_results_pass_and_shapes_count() -> None:
    empty = torch.empty(0, 3)
    kit.assert_accurate(empty, empty.double(), empty)
    with pytest.raises(AssertionError, match="shape"):
        kit.assert_accurate(torch.empty(0, 4), empty.double(), empty)


def test_generators_keep_their_promises() -> None:
    g = kit.generator("grid")
    assert kit.seed_of("a") != kit.seed_of("b")
    assert kit.seed_of("a") == kit.seed_of("a")
    assert kit.lengths(64)[:3] == [0, 1, 7]
    assert {63, 64, 65, 127, 128, 129} <= set(kit.lengths(64))
    t = kit.normal((3, 4, 5), g)
    view = kit.strided(t)
    assert torch.equal(view, t)
    assert not view.is_contiguous()
    assert view.storage_offset() > 0
    view = kit.permuted(t, 2, 0, 1)
    assert torch.equal(view, t)
    assert view.stride() == (4, 1, 12)
    dt, decay = kit.time_steps((1000,), g, torch.float64), kit.decays(6)
    step = torch.nn.functional.softplus(dt)
    assert float(step.min()) < 1e-6
    assert float(step.max()) > 20
    assert float((step[:, None] * decay).exp().max()) > 0.999999
    assert float((step[:, None] * decay.float()).float().exp().min()) == 0
    _, indices = kit.skewed_routing(9, 8, 3, g, drop=False)
    assert (indices[:, 0] == 0).all()
    assert int(indices.max()) < 4
    assert all(len(set(row)) == 3 for row in indices.tolist())
    assert -1 in kit.skewed_routing(90, 8, 3, g, drop=True)[1]
    cuts = kit.cut_points(17, 4, g)
    assert cuts[0] == 0
    assert cuts[-1] == 17
    assert (cuts.diff() >= 0).all()
    assert (cuts.diff() == 0).any()
    assert kit.seq_idx_of(cuts).shape == (1, 17)
    ends = kit.group_ends(40, 8, g)
    assert (ends.diff() >= 0).all()
    assert int(ends[-1]) == 39
    assert (ends.diff() == 0).any()
    assert kit.group_ends(0, 4, g).tolist() == [0, 0, 0, 0]
