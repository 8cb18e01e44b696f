"""Recipes against their sources: the policy of each decides as a plain loop over the published rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.compare.support import PROGRESS, STEPS, bench, decided, made

Values = list[float]
SEEDS = range(8)


def scripted(
    name: str, seed: int, low: float = 0.0, high: float = 0.3
) -> tuple[list[dict[str, float]], Values]:
    """Raw readings of one signal at every step, none at the first, and its values."""
    values = [0.0, *np.random.default_rng(seed).uniform(0, high, size=STEPS - 1).tolist()]
    return [{}, *({name: value} for value in values[1:])], values


def accumulated(values: Values, threshold: float, first: int, last: int, most: int | None = None) -> str:
    """Skip while the sum since the last computed step stays below the threshold."""
    total, skips, letters = 0.0, 0, ""
    for step, value in enumerate(values):
        total += value
        forced = step < first or step >= STEPS - last or (most is not None and skips >= most)
        if forced or total >= threshold:
            letters, total, skips = letters + "F", 0.0, 0
        else:
            letters, skips = letters + ".", skips + 1
    return letters


@pytest.mark.parametrize("seed", SEEDS)
def test_teacache(seed: int) -> None:
    """acc += poly(change); skip below the threshold; first and last step computed (arXiv:2411.19108)."""
    readings, raw = scripted("modulated_input", seed)
    flux = [498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861]
    values = [float(np.polyval(flux, value)) for value in raw]
    for threshold in (0.25, 0.6, 1.0):
        policy = made("teacache", threshold, "flux").policy
        assert decided(policy, readings) == accumulated(values, threshold, 1, 1)


def test_a_refitted_polynomial_is_the_least_squares_one() -> None:
    found = bench()
    policy = made("teacache-refitted", 0.25, on=found).policy
    x = found.profile.signals["modulated_input"].mean(axis=1)
    wanted = np.polyfit(x, found.profile.change, 4)
    fitted = policy.indicator.calibration["modulated_input"]
    assert [fitted(v) for v in x] == pytest.approx(np.polyval(wanted, x), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_easycache(seed: int) -> None:
    """acc += k |dx| / |v|; skip below the threshold; 5 first steps, last computed (arXiv:2507.02860)."""
    readings, values = scripted("latent_velocity", seed, high=0.05)
    assert decided(made("easycache", 0.1).policy, readings) == accumulated(values, 0.1, 5, 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_magcache(seed: int) -> None:
    """E += |1 - product of gammas since the last computed step|; at most K skips (arXiv:2506.09045)."""
    found = bench(seed)
    size = found.profile.calibration["gamma"].y
    policy = made("magcache", 5, on=found).policy
    error, kept, skips, letters = 0.0, 0, 0, ""
    for step in range(STEPS):
        error += abs(1 - size[step] / size[kept])
        if step < 5 or error >= 0.24 or skips >= 5:
            letters, error, kept, skips = letters + "F", 0.0, step, 0
        else:
            letters, skips = letters + ".", skips + 1
    assert decided(policy, [{}] * STEPS) == letters
    assert len(PROGRESS) == len(size)


@pytest.mark.parametrize("seed", SEEDS)
def test_first_block_cache(seed: int) -> None:
    """Reuse all blocks but the first while its change is below the threshold; nothing accumulates."""
    readings, values = scripted("first_block", seed)
    policy = made("first-block-cache", 0.12).policy
    assert decided(policy, readings) == "F" + "".join("B" if v < 0.12 else "F" for v in values[1:])
    assert (policy.block.first, policy.block.last) == (1, 0)
    assert policy.indicator.compare == "computed"


@pytest.mark.parametrize("seed", SEEDS)
def test_dbcache(seed: int) -> None:
    """As First-Block Cache, after a warm-up of 4 steps."""
    readings, values = scripted("first_block", seed, high=0.2)
    wanted = ["F" if step < 4 or value >= 0.16 else "B" for step, value in enumerate(values)]
    assert decided(made("dbcache", 0.16).policy, readings) == "".join(wanted)


@pytest.mark.parametrize("seed", SEEDS)
def test_tc_pade(seed: int) -> None:
    """Forecast where the path is stable, at most 3 steps in a row (arXiv:2603.02943)."""
    readings, values = scripted("direction_stability", seed, high=1.0)
    skips, letters = 0, ""
    for step, turn in enumerate(values):
        stability = 2 * (1 - turn)  # |u1 + u2|
        full = step < 3 or stability <= 1.0 or skips >= 3
        letters, skips = letters + ("F" if full else "."), 0 if full else skips + 1
    assert decided(made("tc-pade", 0.5).policy, readings) == letters


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ("fora", lambda s, n: "F" if s % n == 0 else "."),
        ("taylorseer", lambda s, n: "F" if s < 3 or (s - 2) % n == 0 else "."),
        ("toca", lambda s, n: "F" if s < 3 or (s - 2) % n == 0 else "T"),
        ("duca", lambda s, n: "F" if s < 3 or (s - 2) % n == 0 else ".T"[(s - 2) % n % 2]),
        ("recap", lambda s, n: "F" if s < 3 or (s - 2) % n == 0 else "T"),
    ],
)
@pytest.mark.parametrize("every", [2, 3, 5])
def test_fixed_intervals(method: str, wanted: Callable[[int, int], str], every: int) -> None:
    """One computed step, then what is published for those in between."""
    policy = made(method, every).policy
    assert decided(policy, [{}] * STEPS) == "".join(wanted(step, every) for step in range(STEPS))


@pytest.mark.parametrize(
    ("method", "value", "parts"),
    [
        ("taylorseer-order-0", 4, {"kind": "hold"}),
        ("taylorseer", 4, {"kind": "taylor", "order": 1}),
        ("taylorseer-order-2", 4, {"kind": "taylor", "order": 2}),
        ("dpcache", 0.26, {"kind": "taylor", "order": 1}),
        ("tc-pade", 0.5, {"kind": "pade"}),
        ("lemica", 0.3, {"kind": "hold"}),
    ],
)
def test_what_is_forecast(method: str, value: Any, parts: dict[str, Any]) -> None:
    told = made(method, value).policy.predictor.to_data()
    assert {name: told[name] for name in parts} == parts


def test_tokens_of_each_method() -> None:
    toca, duca, recap = (made(name, 3).policy.token for name in ("toca", "duca", "recap"))
    assert (toca.budget, toca.age_weight) == (0.1, 0.25)
    assert (duca.budget, duca.select) == (0.05, "random")
    assert (recap.age_weight, recap.kv_writeback) == (0.0, False)
    assert toca.kv_writeback is not False
