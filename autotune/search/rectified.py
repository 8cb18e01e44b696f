"""Candidates with a corrector: for each step and channel a line that takes the expected error off.

Source: arXiv:2508.21091 and arXiv:2604.04018, see `xslim.policy.prediction.Affine`. It costs no block and is
fitted on the search cases, so held-out certification says whether it helps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from autotune.scoring.lesson import Learned
from autotune.scoring.sampling import sampling_of
from autotune.search.lessons import Lessons
from autotune.search.trial_row import TrialRow
from xslim.policy.decision import Action
from xslim.policy.policy import Pattern, Policy

log = logging.getLogger(__name__)


def with_correctors(
    rows: Sequence[TrialRow], lessons: Lessons, tell: Callable[[str], None]
) -> list[TrialRow]:
    """Return rows to certify: those given, and each pattern once more with a fitted corrector.

    Args:
        rows: candidates.
        lessons: where a corrector is fitted.
        tell: told how far it is, for people.
    """
    found = list(rows)
    patterns = [row for row in rows if _predicts(Policy.parse(row.policy))]
    for number, row in enumerate(patterns, 1):
        if lessons.stop():
            return found
        tell(f"fitting correctors: {number}/{len(patterns)}")
        given = Learned(Policy.parse(row.policy), sampling_of(row.sampling))
        learned = lessons.learn(given, "rectify", {"per_channel": True})
        if isinstance(learned, str):
            log.warning("trial %d gets no corrector: %s", row.trial, learned)
            continue
        if learned.policy == given.policy:
            continue
        # it was not measured on the search cases
        found.append(replace(row, policy=learned.policy.to_data(), scalars={}))
    return found


def _predicts(policy: Policy) -> bool:
    """Whether it is a pattern that skips, without a corrector."""
    controller = policy.controller
    return isinstance(controller, Pattern) and Action.SKIP in controller.steps and policy.corrector is None
