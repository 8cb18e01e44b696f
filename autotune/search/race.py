"""Racing: a candidate that is clearly beaten on its first cases is not drawn on the others.

Candidates see the same cases with the same noise, so two of them are compared case by case, which takes the
cases' own differences out (irace, doi:10.1016/j.orp.2016.09.002, races configurations this way).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autotune.scoring.profile import Array
from autotune.search.trial_row import TrialRow

LEAST_CASES = 4  # pairs below which nothing is decided
CONFIDENCE = 0.99  # that none of the members it is compared with is better by chance


def beaten(
    compute_fraction: float, errors: Sequence[float], metric: str, members: Sequence[TrialRow]
) -> TrialRow | None:
    """Return a member of the front that needs no more compute and is better with confidence, or None.

    Args:
        compute_fraction: of the candidate.
        errors: the candidate's, case by case, smaller is better (`objective.log_metric`).
        metric: whose errors they are.
        members: of the front, with the same errors of at least these cases.
    """
    rivals = [member for member in members if member.scalars["compute_fraction"] <= compute_fraction]
    doubt = (1 - CONFIDENCE) / max(1, len(rivals))  # one of many is easily better by chance
    return next((rival for rival in rivals if _worse(errors, rival.errors.get(metric, ()), doubt)), None)


def _worse(mine: Sequence[float], theirs: Sequence[float], doubt: float) -> bool:
    """Whether my mean error is larger, by a paired t-test over the first common cases."""
    from scipy.stats import t

    count = min(len(mine), len(theirs))
    if count < LEAST_CASES:
        return False
    difference: Array = np.asarray(mine[:count]) - np.asarray(theirs[:count])
    error = float(difference.std(ddof=1)) / np.sqrt(count)
    return bool(difference.mean() > t.ppf(1 - doubt, count - 1) * error)
