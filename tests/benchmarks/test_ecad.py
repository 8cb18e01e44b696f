"""The operators of ECAD's search: what pymoo's do, and what the runtime needs."""

from __future__ import annotations

import ecad
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from optuna.study._multi_objective import _fast_non_domination_rank

from autotune.scoring.case import Case
from autotune.scoring.doubles import FormulaEvaluator

STEPS, BLOCKS = 12, 4
seeds = st.integers(0, 2**32 - 1)
genomes = arrays(bool, (STEPS, BLOCKS))
# a few levels, so that ties and equal points are common
clouds = st.integers(1, 20).flatmap(
    lambda n: arrays(np.float64, (n, 2), elements=st.integers(0, 5).map(float))
)


@given(genomes, genomes, seeds)
def test_crossover_exchanges_bits_in_place(a: np.ndarray, b: np.ndarray, seed: int) -> None:
    c, d = ecad.crossover(a, b, np.random.default_rng(seed))
    kept, swapped = (c == a) & (d == b), (c == b) & (d == a)
    assert (kept | swapped).all()
    assert kept.flat[0]


@given(seeds)
def test_crossover_has_four_cuts(seed: int) -> None:
    zeros = np.zeros((STEPS, BLOCKS), dtype=bool)
    child, other = ecad.crossover(zeros, ~zeros, np.random.default_rng(seed))
    assert np.count_nonzero(np.diff(child.ravel().astype(int))) == 4
    assert (other == ~child).all()


@given(genomes, seeds)
def test_a_child_is_mutated_as_a_whole_or_not(genome: np.ndarray, seed: int) -> None:
    before = genome.copy()
    assert (ecad.mutate(genome, np.random.default_rng(seed), chance=0.0) == before).all()
    ecad.mutate(genome, np.random.default_rng(seed), chance=1.0)
    assert (genome == before).all()


def test_mutation_flips_one_bit_of_one_child_in_twenty() -> None:
    rng = np.random.default_rng(0)
    genome = np.zeros((STEPS, BLOCKS), dtype=bool)
    flips = np.array([ecad.mutate(genome, rng).sum() for _ in range(20_000)])
    assert flips.mean() == pytest.approx(0.05, rel=0.1)
    assert (flips > 0).mean() == pytest.approx(0.05 * (1 - (1 - 1 / genome.size) ** genome.size), rel=0.1)


@given(clouds)
def test_fronts_are_those_of_another_implementation(points: np.ndarray) -> None:
    ranks = np.empty(len(points), dtype=int)
    for rank, front in enumerate(ecad.fronts(points)):
        ranks[front] = rank
    assert ranks.tolist() == _fast_non_domination_rank(points).tolist()


def test_crowding_by_hand() -> None:
    points = np.array([[0.0, 10.0], [1.0, 5.0], [4.0, 0.0]])
    assert ecad.crowding(points).tolist() == [np.inf, 1.0 + 1.0, np.inf]
    wide = np.array([[0.0, 10.0], [1.0, 9.0], [2.0, 2.0], [4.0, 0.0]])
    assert ecad.crowding(wide)[1:3].tolist() == pytest.approx([0.5 + 0.8, 0.75 + 0.9])


@given(clouds, st.integers(1, 20))
def test_nobody_of_a_worse_front_survives_a_better_one(points: np.ndarray, count: int) -> None:
    individuals = [ecad.Individual(np.full((1, 1), True), tuple(p)) for p in points]
    kept = ecad.survive(individuals, count)
    assert len(kept) == min(count, len(points))
    ranks = _fast_non_domination_rank(points)
    rank_of = {tuple(p): rank for p, rank in zip(points.tolist(), ranks, strict=True)}
    assert sorted(rank_of[one.point] for one in kept) == sorted(ranks)[: len(kept)]


def test_first_population() -> None:
    population = ecad.first_population(50, 8, ecad.POPULATION, np.random.default_rng(0))
    assert len(population) == ecad.POPULATION == len({genome.tobytes() for genome in population})
    assert all(genome[0].all() for genome in population)
    every_third = population[1]
    assert every_third.all(axis=1).nonzero()[0].tolist() == list(range(0, 50, 3))
    gated = population[len(ecad.INTERVALS)]
    assert gated.all(axis=1).nonzero()[0].tolist() == [*range(10), *range(10, 50, 2)]


def test_population_of_few_steps_has_no_twins() -> None:
    population = ecad.first_population(3, 2, 30, np.random.default_rng(0))
    assert len(population) == len({genome.tobytes() for genome in population})


def onemax(genome: np.ndarray) -> tuple[float, float]:
    """Few bits in the first half of the blocks against many in the second: has a whole front."""
    return float(genome[:, :2].mean()), float(1 - genome[:, 2:].mean() * genome[:, :2].mean())


@settings(max_examples=15)
@given(seeds)
def test_generations(seed: int) -> None:
    search, again = ecad.Nsga2(STEPS, BLOCKS, seed), ecad.Nsga2(STEPS, BLOCKS, seed)
    for _ in range(3):
        before = {one.genome.tobytes() for one in search.population}
        asked = search.ask()
        keys = {genome.tobytes() for genome in asked}
        assert len(keys) == len(asked) <= ecad.POPULATION
        assert not keys & before
        assert all(genome[0].all() for genome in asked)
        assert [g.tobytes() for g in again.ask()] == [g.tobytes() for g in asked]
        for one in (search, again):
            one.tell([onemax(genome) for genome in asked])
        assert len(search.population) <= ecad.POPULATION


def test_it_searches() -> None:
    search = ecad.Nsga2(STEPS, BLOCKS, 0)
    best = []
    for _ in range(30):
        search.tell([onemax(genome) for genome in search.ask()])
        best.append(min(sum(one.point) for one in search.population))
    assert best == sorted(best, reverse=True)
    assert best[-1] < best[0]


def test_a_converged_population_asks_for_nothing() -> None:
    search = ecad.Nsga2(1, 1, 0)  # a single valid genome
    search.tell([(0.0, 0.0) for _ in search.ask()])
    assert search.ask() == []


def test_policy_holds_what_is_not_computed() -> None:
    policy = ecad.policy(ecad.fora(50, 8, 5))
    assert policy.num_steps == 50
    assert policy.predictor.kind == "hold"
    assert FormulaEvaluator().evaluate(policy, [Case(0, 0)], 0).quality.actions == "F...." * 10
