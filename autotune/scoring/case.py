"""Cases: what is drawn, with which seed. Split once into search and held-out cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from json import dumps

import numpy as np

from xslim.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Case:
    """One picture: a class label (or a prompt) and the seed of its noise."""

    prompt: int | str
    seed: int


def make_cases(
    prompts: Sequence[int | str], search: int, holdout: int, seed: int, repeat: bool = True
) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Draw search and held-out cases: prompts in turn, no noise seed twice.

    Args:
        prompts: class labels or prompts.
        search: number of search cases.
        holdout: number of held-out cases.
        seed: another seed draws other cases; the held-out ones do not depend on `search`.
        repeat: whether a prompt may come again, with another noise. If not, search cases take prompts from
            the front and held-out ones from the back, so that no held-out prompt was searched on.

    Raises:
        ConfigError: there is no prompt, or there are fewer than asked for and none may come again.
    """
    check_counts(len(prompts), search, holdout, repeat)
    rng = np.random.default_rng([seed, 0xCA5E])
    # two disjoint halves of the seed range, so that no held-out noise is ever searched on
    half = 2**31
    low = rng.choice(half, size=search, replace=False)
    high = half + np.random.default_rng([seed, 0x401D]).choice(half, size=holdout, replace=False)

    def pick(seeds: Sequence[int], taken: Sequence[int | str]) -> tuple[Case, ...]:
        return tuple(Case(taken[i % len(taken)], int(s)) for i, s in enumerate(seeds))

    return pick(list(low), prompts), pick(list(high), prompts if repeat else prompts[::-1])


def check_counts(prompts: int, search: int, holdout: int, repeat: bool) -> None:
    """Refuse more cases than there are prompts, if none may come again.

    Raises:
        ConfigError: as said, or there is no prompt.
    """
    if prompts == 0:
        raise ConfigError("got no prompt; give one at least", key="model.prompts")
    if not repeat and search + holdout > prompts:
        raise ConfigError(
            f"got {search} search and {holdout} held-out cases, {search + holdout} together, of {prompts} "
            "prompts that may not repeat; ask for fewer, give more prompts, or set cases.repeat to true",
            key="cases",
        )


def cases_sha256(cases: Sequence[Case]) -> str:
    """Hash a list of cases; presets carry it as evidence of what they were measured on."""
    return sha256(dumps([asdict(case) for case in cases]).encode()).hexdigest()
