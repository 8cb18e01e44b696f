"""Candidates once more after a lesson: correctors for patterns, noise levels for requests of few steps.

Lessons are learned on the search cases; they cost no block at run time, and held-out certification says
whether they help. Source of correctors:
arXiv:2508.21091 and arXiv:2604.04018, see `xslim.policy.prediction.Affine`; of fitted noise levels
arXiv:2405.15506, see `autotune.scoring.levels`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from autotune.scoring.lesson import Learned
from autotune.scoring.sampling import sampling_of
from autotune.search.lessons import Lessons
from autotune.search.trial_row import TrialRow
from xslim.policy.decision import Action
from xslim.policy.policy import Pattern, Policy

log = logging.getLogger(__name__)
FEW = 3  # times as many steps has the reference at least: with more of them, levels hardly matter


def with_correctors(
    rows: Sequence[TrialRow], lessons: Lessons, tell: Callable[[str], None]
) -> list[TrialRow]:
    """Return rows to certify: those given, and each pattern once more with a fitted corrector.

    Args:
        rows: candidates.
        lessons: where a corrector is fitted.
        tell: told how far it is, for people.
    """
    patterns = [row for row in rows if _predicts(Policy.parse(row.policy))]
    return [*rows, *_learned(patterns, lessons, tell, "rectify", {"per_channel": True})]


def with_levels(
    rows: Sequence[TrialRow], few: Sequence[TrialRow], lessons: Lessons, tell: Callable[[str], None]
) -> list[TrialRow]:
    """Return rows to certify: those given, and requests of few steps once more with fitted noise levels.

    Args:
        rows: candidates.
        few: as of `few_steps`.
        lessons: where levels are fitted.
        tell: told how far it is, for people.
    """
    return [*rows, *_learned(few, lessons, tell, "fit-levels", {})]


def few_steps(rows: Iterable[TrialRow], reference: int, cost: Callable[[TrialRow], Any]) -> list[TrialRow]:
    """Of every small number of steps the best row that computes all of them.

    Args:
        rows: measured trials.
        reference: steps of the reference.
        cost: of a row; the least one is taken.
    """
    found: dict[int, TrialRow] = {}
    for row in rows:
        steps = sampling_of(row.sampling).steps(reference)
        if FEW * steps <= reference and _computes_all(row.policy) and row.duplicate_of is None:
            found[steps] = min(found.get(steps, row), row, key=cost)
    return [found[steps] for steps in sorted(found)]


def _learned(
    rows: Sequence[TrialRow],
    lessons: Lessons,
    tell: Callable[[str], None],
    name: str,
    settings: Mapping[str, Any],
) -> list[TrialRow]:
    """Rows after a lesson, as far as it changes them; they were not measured on the search cases."""
    if not rows:
        return []
    tell(f"{name}: {len(rows)} candidates")
    given = [Learned(Policy.parse(row.policy), sampling_of(row.sampling)) for row in rows]
    found = []
    learned_all = lessons.learn_all(given, name, [settings] * len(given))
    for row, before, learned in zip(rows, given, learned_all, strict=True):
        if isinstance(learned, str):
            log.warning("trial %d is not refined by %s: %s", row.trial, name, learned)
        elif learned != before:
            policy, sampling = learned.policy.to_data(), learned.sampling.to_data()
            found.append(replace(row, scalars={}, policy=policy, sampling=sampling))
    return found


def _computes_all(policy: Mapping[str, Any]) -> bool:
    """Whether it is the pattern that computes every step."""
    controller = Policy.parse(policy).controller
    return isinstance(controller, Pattern) and set(controller.steps) == {Action.FULL.value}


def _predicts(policy: Policy) -> bool:
    """Whether it is a pattern that skips, without a corrector."""
    controller = policy.controller
    return isinstance(controller, Pattern) and Action.SKIP in controller.steps and policy.corrector is None
