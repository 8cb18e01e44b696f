"""Cases: what is drawn, with which seed. Split once into search and held-out cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from json import dumps

import numpy as np


@dataclass(frozen=True, slots=True)
class Case:
    """One picture: a class label (or a prompt) and the seed of its noise."""

    prompt: int | str
    seed: int


def make_cases(
    prompts: Sequence[int | str], search: int, holdout: int, seed: int
) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Draw search and held-out cases: prompts in turn, no noise seed twice.

    Args:
        prompts: class labels or prompts.
        search: number of search cases.
        holdout: number of held-out cases.
        seed: another seed draws other cases; the held-out ones do not depend on `search`.
    """
    rng = np.random.default_rng([seed, 0xCA5E])
    # two disjoint halves of the seed range, so that no held-out noise is ever searched on
    half = 2**31
    low = rng.choice(half, size=search, replace=False)
    high = half + np.random.default_rng([seed, 0x401D]).choice(half, size=holdout, replace=False)

    def pick(seeds: Sequence[int]) -> tuple[Case, ...]:
        return tuple(Case(prompts[i % len(prompts)], int(s)) for i, s in enumerate(seeds))

    return pick(list(low)), pick(list(high))


def cases_sha256(cases: Sequence[Case]) -> str:
    """Hash a list of cases; presets carry it as evidence of what they were measured on."""
    return sha256(dumps([asdict(case) for case in cases]).encode()).hexdigest()
