# SPDX-License-Identifier: Apache-2.0
"""The kit that tests the kernels of this package, for those who write their own.

`compare` says what counts as right, `grid` makes the inputs that break kernels, and `faults` checks
that a test would notice. Nothing here depends on a test runner.
"""

from .compare import assert_accurate, assert_same_bits, assert_unbiased
from .faults import (
    Fault,
    Op,
    assert_all_caught,
    drop_tail,
    on_argument,
    on_result,
    swallow_nan,
    truncate,
    wrong_element,
)
from .grid import (
    cut_points,
    decays,
    generator,
    group_ends,
    lengths,
    normal,
    permuted,
    seed_of,
    seq_idx_of,
    skewed_routing,
    strided,
    time_steps,
    with_outliers,
)

__all__ = [
    "Fault",
    "Op",
    "assert_accurate",
    "assert_all_caught",
    "assert_same_bits",
    "assert_unbiased",
    "cut_points",
    "decays",
    "drop_tail",
    "generator",
    "group_ends",
    "lengths",
    "normal",
    "on_argument",
    "on_result",
    "permuted",
    "seed_of",
    "seq_idx_of",
    "skewed_routing",
    "strided",
    "swallow_nan",
    "time_steps",
    "truncate",
    "with_outliers",
    "wrong_element",
]
