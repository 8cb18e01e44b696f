"""Static tables against their formulas, on vectors worked out by hand or by trying everything."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from autotune.compare.block_tables import (
    bac_table,
    best_updates,
    delta_table,
    due_steps,
    held_steps,
    profiled_table,
    relative_errors,
    reuse_error,
    similarity,
    smooth_steps,
    smooth_table,
)


def gram(values: list[float]) -> np.ndarray:
    """Of residuals along one direction."""
    return np.outer(values, values)


def test_relative_errors_by_hand() -> None:
    found = relative_errors(gram([1.0, 2.0, 4.0]), 2)
    np.testing.assert_allclose(found, [[0, 0.5, 0.75], [0, 0.5, np.inf], [0, np.inf, np.inf]])


def test_smoothcache_takes_the_farthest_step_within_alpha() -> None:
    # from 0 the error three ahead is small although one ahead is not: only the farthest is tested
    errors = np.array(
        [
            [0, 0.5, 0.5, 0.1],
            [0, 0.1, 0.1, 0.1],
            [0, 0.1, 0.1, 0.1],
            [0, 0.1, 0.1, 0.1],
            [0, 0.1, 0.4, np.inf],
            [0, 0.4, np.inf, np.inf],
            [0, 0.1, np.inf, np.inf],
            [0, np.inf, np.inf, np.inf],
        ]
    )
    assert smooth_steps(errors, 0.2) == (0, 4, 6, 7)
    assert smooth_steps(errors, 0.0) == tuple(range(8))


def test_smoothcache_has_one_list_for_each_kind() -> None:
    slow, fast = gram([1.0, 1.01, 1.02, 1.03, 1.04]), gram([1.0, 2.0, 4.0, 8.0, 16.0])
    table = smooth_table(np.stack([slow, slow, fast]), ["double", "double", "single"], 0.1)
    assert table[:, 0].tolist() == table[:, 1].tolist() == [1, 0, 0, 0, 1]
    assert table[:, 2].tolist() == [1, 1, 1, 1, 1]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_bac_finds_the_best_updates_of_all(count: int) -> None:
    vectors = np.cumsum(np.random.default_rng(count).normal(size=(7, 4)), axis=0)
    sim = similarity(vectors @ vectors.T)

    def held(updates: tuple[int, ...]) -> float:
        ends = [*updates[1:], 7]
        return sum(sim[a, step] for a, b in zip(updates, ends, strict=True) for step in range(a + 1, b))

    every = [(0, *rest) for rest in combinations(range(1, 7), count - 1)]
    found = best_updates(sim, count)
    assert found[0] == 0
    assert len(found) == count
    assert held(found) == pytest.approx(max(map(held, every)))


def test_bac_bubbles_the_updates_of_later_blocks_up() -> None:
    rng = np.random.default_rng(0)
    walks = [np.cumsum(rng.normal(size=(10, 5)), axis=0) for _ in range(4)]
    grams = np.stack([w @ w.T for w in walks])
    alone, joined = bac_table(grams, 3, bubbling=0), bac_table(grams, 3, bubbling=2)
    assert alone.sum(0).tolist() == [3, 3, 3, 3]
    upper = sorted(sorted(range(4), key=lambda b: -reuse_error(grams[b]))[:2])
    expected = alone.copy()
    expected[:, upper[0]] |= alone[:, upper[1]]
    assert joined.tolist() == expected.tolist()
    assert bac_table(grams, 3, bubbling=1).tolist() == alone.tolist(), "the published code needs two"


def test_intervals_fall_from_the_slowest() -> None:
    assert due_steps(12, 2, 3) == (0, 1, 4, 7, 10)
    assert due_steps(20, 2, 2, slowest=6) == (0, 1, 7, 12, 15, 18)


def test_profilingdit_keeps_the_blocks_that_change_most() -> None:
    grams = np.stack([gram([1.0, 1.1, 1.2, 1.3]), gram([1.0, 2.0, 4.0, 8.0]), gram([1.0, 1.2, 1.4, 1.6])])
    table = profiled_table(grams, 1 / 3, (0, 2))
    assert table.tolist() == [[1, 1, 1], [0, 1, 0], [1, 1, 1], [0, 1, 0]]


def test_delta_dit_replays_the_back_early_and_the_front_late() -> None:
    table = delta_table(4, 6, 0.5, (0, 3))
    assert table.tolist() == [
        [1, 1, 1, 1],
        [1, 1, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 1, 1],
        [0, 0, 1, 1],
        [0, 0, 1, 1],
    ]


def test_ertacache_renews_what_errs_too_much() -> None:
    # kept from 0: errors 0, 1/11, 2/12, 3/13; at 0.2 step 3 is renewed: then 7/20
    values = gram([10.0, 11.0, 12.0, 13.0, 20.0, 20.5])
    assert held_steps(values, 0.2, 1, 1) == (0, 3, 4, 5)
    assert held_steps(values, 0.2, 2, 0) == (0, 1, 4)
    assert held_steps(values, 0.0, 1, 0) == (0, 1, 2, 3, 4, 5)
