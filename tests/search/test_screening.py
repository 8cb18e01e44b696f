"""Screening: which points it begins with, when it is trusted, and what it proposes then."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from autotune.scoring.case import Case
from autotune.scoring.doubles import FormulaEvaluator
from autotune.search.error_model import MIN_TRIALS, Weighting, log_error
from autotune.search.objective import Bound, log_metric
from autotune.search.pareto import front
from autotune.search.points import Point, budgets, seeds
from autotune.search.schedules import Scheduler
from autotune.search.scorer import Scorer
from autotune.search.screening import MOST_COMPUTE, TRUSTED, Candidate, Screen
from autotune.search.space import SearchSpace
from tests.search.support import SPACE, merged
from xslim.policy.policy import Policy

STEPS = 20
EVALUATOR = FormulaEvaluator(STEPS)
CASES = tuple(Case(i, i) for i in range(4))
# the formula knows no predictors, so it is asked about held residuals alone
HELD = SearchSpace.parse(merged(SPACE, {"families.pattern.params.predictor.choices": [{"kind": "hold"}]}))
TWO = ("compute_fraction", "psnr")
Scalars = dict[str, float]


@pytest.fixture(scope="module")
def scheduler() -> Scheduler:
    return Scheduler(EVALUATOR.profile(()))


def points() -> list[Point]:
    return [*budgets(HELD), *seeds(HELD, STEPS)]


def measure(policy: Policy) -> Scalars:
    return Scorer({}).scalars(EVALUATOR.evaluate(policy, CASES, 1))


def screened(
    scheduler: Scheduler,
    objectives: tuple[str, ...] = TWO,
    bounds: Mapping[str, Bound] | None = None,
    trials: int = 10,
    scalars: Callable[[Policy], Scalars] = measure,
) -> tuple[Screen, set[str], list[Scalars]]:
    """A screen that has seen some trials, their keys, and the scalars of the front."""
    screen = Screen(HELD, scheduler, objectives, bounds or {})
    rows, known = [], set()
    for candidate in screen.first(points(), trials):
        rows.append(scalars(candidate.policy))
        screen.note(candidate.policy, candidate.sampling, rows[-1])
        known.add(candidate.key)
    best = [rows[i] for i in front([axes(objectives, row) for row in rows])]
    return screen, known, best


def axes(objectives: tuple[str, ...], row: Mapping[str, float]) -> list[float]:
    costs = ("latency", "compute_fraction", "memory")
    return [row[name] if name in costs else log_metric(name, row[name]) for name in objectives]


@pytest.mark.parametrize(
    ("objectives", "bounds", "leading"),
    [
        (("latency", "lpips"), {}, "lpips"),
        (("latency", "kid"), {}, "psnr"),
        (("latency", "kid", "fid"), {}, "fid"),
        (("latency", "memory"), {"image_reward": Bound(min=0.5), "ssim_p5": Bound(min=0.9)}, "ssim_p5"),
    ],
)
def test_only_what_follows_the_error_is_predicted(
    scheduler: Scheduler, objectives: tuple[str, ...], bounds: dict[str, Bound], leading: str
) -> None:
    assert Screen(HELD, scheduler, objectives, bounds).leading == leading


def test_metrics_are_logarithms_of_errors() -> None:
    assert log_metric("psnr", 20.0) == pytest.approx(math.log(0.01)), "of the squared error"
    assert log_metric("psnr_p5", 30.0) == pytest.approx(math.log(0.001))
    assert log_metric("psnr_temporal", 30.0) == pytest.approx(math.log(0.001))
    assert log_metric("ssim", 0.9) == pytest.approx(math.log(0.1))
    assert log_metric("ms_ssim_p5", 0.75) == pytest.approx(math.log(0.25))
    for name in ("lpips", "lpips_p95", "fid", "kid", "cmmd", "latent_rel_l1"):
        assert log_metric(name, 0.05) == pytest.approx(math.log(0.05))
    for name, perfect, bad in (("psnr", 60.0, 20.0), ("ssim", 1.0, 0.3), ("lpips", 0.0, 0.4)):
        assert math.isfinite(log_metric(name, perfect))
        assert log_metric(name, perfect) < log_metric(name, bad)


# the first points


def place(scheduler: Scheduler, candidate: Candidate) -> tuple[float, float]:
    matrix = Weighting().matrix(scheduler.profile.sensitivity)
    return candidate.compute_fraction, float(log_error(candidate.products, matrix))


def test_the_first_points_are_the_front_spread_over_the_compute(scheduler: Scheduler) -> None:
    screen = Screen(HELD, scheduler, TWO, {})
    pool = [screen.candidate(*point) for point in points()]
    places = [place(scheduler, c) for c in pool if c.compute_fraction <= MOST_COMPUTE]
    best = sorted(places[i] for i in front(places))
    assert len(best) >= 6
    chosen = screen.first(points(), 6)
    assert len(chosen) == 6
    for candidate in chosen:
        assert place(scheduler, candidate) in best, "no other point beats it"
        assert candidate.compute_fraction <= MOST_COMPUTE
        assert scheduler.replay.run(candidate.policy).compute_fraction == candidate.compute_fraction
    assert {place(scheduler, c) for c in chosen[:2]} == {best[0], best[-1]}, "both ends come first"
    fractions = sorted(math.log(c.compute_fraction) for c in chosen)
    assert max(np.diff(fractions)) < 2 * (fractions[-1] - fractions[0]) / 5


def test_beyond_the_front_come_those_closest_to_it(scheduler: Scheduler) -> None:
    screen = Screen(HELD, scheduler, TWO, {})
    chosen = [place(scheduler, c) for c in screen.first(points(), 1000)]
    best = front(chosen)
    assert best == list(range(len(best))), "the front first"
    behind = [
        error - min(chosen[i][1] for i in best if chosen[i][0] <= fraction + 1e-9)
        for fraction, error in chosen[len(best) :]
    ]
    assert len(behind) > 4
    assert behind == sorted(behind)
    assert all(fraction <= MOST_COMPUTE for fraction, _ in chosen)


def test_no_policy_comes_twice(scheduler: Scheduler) -> None:
    """A space that does not search how steps weigh has the same schedule by several ways."""
    chosen = Screen(HELD, scheduler, TWO, {}).first([*points(), *points()], 1000)
    assert len(chosen) > 15
    assert len({candidate.key for candidate in chosen}) == len(chosen)


def test_none_wanted_or_none_given_is_none(scheduler: Scheduler) -> None:
    screen = Screen(HELD, scheduler, TWO, {})
    assert screen.first(points(), 0) == []
    assert screen.first([], 5) == []


# trust


def test_few_trials_propose_nothing(scheduler: Scheduler) -> None:
    screen, known, best = screened(scheduler, trials=MIN_TRIALS - 1)
    assert math.isnan(screen.rank_correlation)
    assert not screen.trusted
    assert screen.propose(known, best) is None


def test_noise_is_not_trusted(scheduler: Scheduler) -> None:
    rng = np.random.default_rng(0)

    def noise(policy: Policy) -> Scalars:
        return {**measure(policy), "psnr": float(rng.uniform(10, 40))}

    screen, known, best = screened(scheduler, scalars=noise)
    assert screen.rank_correlation < TRUSTED
    assert screen.propose(known, best) is None


def test_the_leading_quality_is_the_first_objective_that_is_one(scheduler: Scheduler) -> None:
    def leading(objectives: tuple[str, ...], **bounds: Bound) -> str:
        return Screen(HELD, scheduler, objectives, bounds).leading

    assert leading(("latency", "psnr")) == "psnr"
    assert leading(("ssim", "latency", "lpips")) == "ssim"
    assert leading(("latency", "memory"), lpips_p95=Bound(max=0.1)) == "lpips_p95"
    assert leading(("latency", "memory"), speedup=Bound(min=2.0), ssim=Bound(min=0.9)) == "ssim"


# proposals

THREE = ("compute_fraction", "psnr", "memory")


def uneven(policy: Policy) -> Scalars:
    """Scalars with a memory that tells candidates apart."""
    found = measure(policy)
    return {**found, "memory": 1e6 * (1 + found["compute_fraction"])}


@pytest.mark.parametrize(
    "objectives",
    [TWO, ("latency", "psnr"), ("latency", "ssim"), ("psnr", "latency"), THREE, ("latency", "lpips", "psnr")],
    ids="-".join,
)
def test_a_proposal_beats_the_front_by_its_prediction(
    scheduler: Scheduler, objectives: tuple[str, ...]
) -> None:
    screen, known, best = screened(scheduler, objectives, scalars=uneven)
    assert screen.rank_correlation > TRUSTED
    found = screen.propose(known, best)
    assert found is not None
    family, params = found
    candidate = screen.candidate(family, params)
    assert candidate.key not in known
    assert candidate.compute_fraction <= MOST_COMPUTE
    assert HELD.policy(family, params, scheduler.profile.calibration, scheduler) == candidate.policy
    encoded = HELD.encode(family, params)
    for key, value in params.items():
        given = encoded[f"{family}/{key}"]
        assert given == value or given.startswith(("[", "{", '"')), "inside its range"
    predicted = screen._predicted(candidate)
    assert predicted is not None
    assert len(predicted) == len(objectives)
    for row in best:
        assert any(mine < theirs for mine, theirs in zip(predicted, axes(objectives, row), strict=True))


def test_a_prediction_is_close_to_the_measurement(scheduler: Scheduler) -> None:
    screen, known, best = screened(scheduler, ("latency", "psnr"))
    found = screen.propose(known, best)
    assert found is not None
    candidate = screen.candidate(*found)
    real = measure(candidate.policy)
    latency, error = screen._predicted(candidate) or [0.0, 0.0]
    assert candidate.compute_fraction == pytest.approx(real["compute_fraction"], abs=0.01)
    assert latency == pytest.approx(real["latency"], abs=0.01)
    assert error == pytest.approx(log_metric("psnr", real["psnr"]), abs=1.0)


def test_proposals_are_deterministic_and_do_not_come_again(scheduler: Scheduler) -> None:
    proposals = []
    for _ in range(2):
        screen, known, best = screened(scheduler)
        series = []
        for _ in range(4):
            found = screen.propose(known, best)
            if found is None:
                break
            series.append(found)
            known.add(screen.candidate(*found).key)
        proposals.append(series)
    assert proposals[0] == proposals[1]
    keys = [screen.candidate(*point).key for point in proposals[0]]
    assert len(set(keys)) == len(keys) > 1


def test_nothing_new_is_nothing(scheduler: Scheduler) -> None:
    screen, known, best = screened(scheduler)
    while (found := screen.propose(known, best)) is not None:
        key = screen.candidate(*found).key
        assert key not in known
        known.add(key)
    assert screen.trusted
    assert screen.propose(known, []) is None, "no front to add to"


@pytest.fixture(scope="module")
def bounded(scheduler: Scheduler) -> Callable[..., Candidate | None]:
    """What a search with some bounds would try next."""
    every = {"psnr_p5": Bound(min=0.0), "lpips": Bound(max=1.0)}
    screen, known, best = screened(scheduler, ("latency", "psnr"), every)

    def propose(**bounds: Bound) -> Candidate | None:
        screen.bounds = bounds
        found = screen.propose(known, best)
        return None if found is None else screen.candidate(*found)

    return propose


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("psnr", Bound(min=90.0)),
        ("psnr_p5", Bound(min=90.0)),
        ("lpips", Bound(max=1e-6)),
        ("latency", Bound(max=0.001)),
        ("speedup", Bound(min=1000.0)),
        ("compute_fraction", Bound(max=0.001)),
    ],
)
def test_a_bound_out_of_reach_leaves_nothing(
    bounded: Callable[..., Candidate | None], name: str, bound: Bound
) -> None:
    assert bounded() is not None
    assert bounded(**{name: bound}) is None


def test_a_bound_keeps_proposals_on_its_side(bounded: Callable[..., Candidate | None]) -> None:
    free = bounded()
    assert free is not None
    loose = {"psnr": Bound(min=0.0), "latency": Bound(max=1.0), "speedup": Bound(min=1.0)}
    assert bounded(**loose) == free
    limit = free.compute_fraction - 0.01
    cheaper = bounded(compute_fraction=Bound(max=limit))
    assert cheaper is None or cheaper.compute_fraction <= limit
    quality = measure(free.policy)["psnr"]
    better = bounded(psnr=Bound(min=quality + 6.0))
    assert better is None or measure(better.policy)["psnr"] > quality
