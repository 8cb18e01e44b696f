"""ECAD's search, as the baseline that ours is measured against: NSGA-II over a binary step x block genome.

Published (arXiv:2506.15682, and its code at github.com/aniaggarwal/ecad as field notes describe it): a bit
per step, block and component, 1 = compute; pymoo's NSGA2 with its binary tournament (dominance, then
crowding) and elimination of duplicates; `PointCrossover(prob=0.9, n_points=4)`; `BitflipMutation(prob=0.05)`,
in pymoo the chance that a child mutates at all, each of its bits then with 1 / bits; a population of 24 for
FLUX (72 for PixArt); a first population of the schedules of FORA (arXiv:2407.01425) and T-GATE
(arXiv:2404.02747), or random; what is not computed keeps its last value.

Chosen here, because it is not published or does not carry over: bits for blocks, not their components; the
population of FLUX for every model, because 72 would hardly evolve within 80 evaluations; which intervals and
gates the first population has, a third of it random; T-GATE has no cross-attention to hold in these models:
after its gate one step in 2 or 4 computes (holding half of the blocks for good was tried and is far worse);
the first step computes every block, which the runtime needs (the published code leaves it open); the first
generation is evaluated with FORA's schedules first, which favours the baseline at 10 evaluations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xslim.policy.policy import Policy

Genome = NDArray[np.bool_]  # [steps, blocks], True = compute
Points = NDArray[np.float64]  # [individuals, objectives], smaller is better

POPULATION = 24
CROSSOVER = 0.9  # chance that two parents are crossed
CUTS = 4
MUTATION = 0.05  # chance that a child mutates
INTERVALS = range(2, 10)
GATES = (0.2, 0.4, 0.6, 0.8)
GATED_INTERVALS = (2, 4)
MATINGS = 100  # rounds of mating until a generation without duplicates is given up


def policy(genome: Genome) -> Policy:
    """Return the policy that a genome stands for: blocks that are not computed keep their last value."""
    rows = [[int(bit) for bit in row] for row in genome]
    return Policy.parse(
        {"controller": {"kind": "table", "blocks": rows}, "predictor": {"kind": "hold"}},
    )


def fora(steps: int, blocks: int, every: int) -> Genome:
    """Every n-th step computes all blocks, the others none."""
    due = np.arange(steps) % every == 0
    return np.repeat(due[:, None], blocks, axis=1)


def tgate(steps: int, blocks: int, gate: int, every: int) -> Genome:
    """All blocks up to the gate; after it every n-th step computes all blocks, the others none."""
    genome = np.ones((steps, blocks), dtype=bool)
    genome[gate:] = fora(steps - gate, blocks, every)
    return genome


def first_population(steps: int, blocks: int, count: int, rng: np.random.Generator) -> list[Genome]:
    """Return FORA's schedules, then T-GATE's, then random ones."""
    known = [fora(steps, blocks, every) for every in INTERVALS]
    known += [tgate(steps, blocks, round(gate * steps), every) for gate in GATES for every in GATED_INTERVALS]
    drawn = [repair(rng.random((steps, blocks)) < 0.5) for _ in range(max(0, count - len(known)))]
    return list({genome.tobytes(): genome for genome in [*known, *drawn]}.values())[:count]


def repair(genome: Genome) -> Genome:
    """Return the genome with a first step that computes every block."""
    repaired = genome.copy()
    repaired[0] = True
    return repaired


def crossover(a: Genome, b: Genome, rng: np.random.Generator, cuts: int = CUTS) -> tuple[Genome, Genome]:
    """Exchange what lies between the 1st and 2nd, 3rd and 4th … of some random cuts of the flat genomes."""
    places = np.sort(rng.choice(a.size - 1, size=min(cuts, a.size - 1), replace=False) + 1)
    segment = np.searchsorted(places, np.arange(a.size), side="right")
    swapped = (segment % 2 == 1).reshape(a.shape)
    return np.where(swapped, b, a), np.where(swapped, a, b)


def mutate(genome: Genome, rng: np.random.Generator, chance: float = MUTATION) -> Genome:
    """Return the genome; in a share of the cases each bit is flipped with a chance of 1 / bits."""
    if rng.random() >= chance:
        return genome
    flipped: Genome = genome ^ (rng.random(genome.shape) < 1.0 / genome.size)
    return flipped


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether a is nowhere worse than b and somewhere better."""
    return bool(np.all(np.asarray(a) <= np.asarray(b)) and np.any(np.asarray(a) < np.asarray(b)))


def fronts(points: Points) -> list[list[int]]:
    """Sort by non-domination: the first front is beaten by none, the next by members of the first only."""
    left = list(range(len(points)))
    found = []
    while left:
        front = [i for i in left if not any(dominates(points[j], points[i]) for j in left)]
        found.append(front)
        left = [i for i in left if i not in set(front)]
    return found


def crowding(points: Points) -> NDArray[np.float64]:
    """Crowding distance within one front, [individuals]; infinite at the ends of an objective."""
    distance = np.zeros(len(points))
    for values in points.T:
        order = np.argsort(values, kind="stable")
        extent = values[order[-1]] - values[order[0]]
        distance[order[[0, -1]]] = np.inf
        if extent > 0:
            distance[order[1:-1]] += (values[order[2:]] - values[order[:-2]]) / extent
    return distance


@dataclass
class Individual:
    """A genome with its objectives; crowding is that of its front."""

    genome: Genome
    point: tuple[float, ...]
    crowding: float = 0.0


def survive(individuals: Sequence[Individual], count: int) -> list[Individual]:
    """Keep the best by front, the last front by crowding distance."""
    points = np.array([one.point for one in individuals])
    kept: list[Individual] = []
    for front in fronts(points):
        distances = crowding(points[front])
        order = np.argsort(-distances, kind="stable")
        kept += [
            Individual(individuals[front[i]].genome, individuals[front[i]].point, float(distances[i]))
            for i in order
        ]
        if len(kept) >= count:
            break
    return kept[:count]


class Nsga2:
    """NSGA-II by ask and tell, generation after generation.

    Args:
        steps: denoising steps.
        blocks: transformer blocks.
        seed: of its random numbers.
        population: individuals of a generation.
    """

    def __init__(self, steps: int, blocks: int, seed: int, population: int = POPULATION) -> None:
        self._rng = np.random.default_rng([seed, 0xECAD])
        self._size = population
        self._asked = first_population(steps, blocks, population, self._rng)
        self.population: list[Individual] = []

    def ask(self) -> list[Genome]:
        """Return the generation to evaluate; empty when mating gives nothing new."""
        if self.population:
            self._asked = self._offspring()
        return self._asked

    def tell(self, points: Sequence[tuple[float, ...]]) -> None:
        """Take the objectives of what was asked, in its order; the best of parents and children live on."""
        children = [Individual(g, p) for g, p in zip(self._asked, points, strict=True)]
        self.population = survive([*self.population, *children], self._size)

    def _offspring(self) -> list[Genome]:
        known = {one.genome.tobytes() for one in self.population}
        children: list[Genome] = []
        for _ in range(MATINGS):
            for child in self._mated(self._size - len(children)):
                if child.tobytes() not in known:
                    known.add(child.tobytes())
                    children.append(child)
            if len(children) >= self._size:
                break
        return children[: self._size]

    def _mated(self, count: int) -> Iterator[Genome]:
        parents = self._parents(2 * ((count + 1) // 2))
        for a, b in zip(parents[::2], parents[1::2], strict=True):
            crossed = self._rng.random() < CROSSOVER
            pair = crossover(a, b, self._rng) if crossed else (a, b)
            yield from (repair(mutate(child, self._rng)) for child in pair)

    def _parents(self, count: int) -> list[Genome]:
        """Winners of binary tournaments; everybody enters as often as another, but for the last round."""
        rounds = -(-2 * count // len(self.population))
        entries = np.concatenate([self._rng.permutation(len(self.population)) for _ in range(rounds)])
        pairs = entries[: 2 * count].reshape(count, 2)
        return [self._winner(self.population[i], self.population[j]).genome for i, j in pairs]

    def _winner(self, a: Individual, b: Individual) -> Individual:
        if dominates(a.point, b.point):
            return a
        if dominates(b.point, a.point):
            return b
        if a.crowding != b.crowding:
            return a if a.crowding > b.crowding else b
        return a if self._rng.random() < 0.5 else b
