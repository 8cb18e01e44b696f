"""Random residuals, their profile, and what a schedule leaves of them, worked out from the vectors."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from autotune.scoring.doubles import FormulaEvaluator
from autotune.scoring.profile import Profile
from xslim.policy.policy import Policy, Predictor
from xslim.policy.preset import ModelSignature

HOLD = Predictor(kind="hold")
NEWTON, NEWTON2 = (Predictor(kind="newton", order=order) for order in (1, 2))


def random_profile(seed: int, steps: int, rows: int = 2) -> tuple[Profile, np.ndarray]:
    """A profile of random residuals, and the residuals, [rows, steps, dim]."""
    rng = np.random.default_rng(seed)
    vectors = np.cumsum(rng.normal(size=(rows, steps, 5)), axis=1)
    profile = Profile(
        signature=ModelSignature(family="formula", transformer="Formula", num_steps=steps),
        gram=vectors @ vectors.transpose(0, 2, 1),
        change=np.ones(steps - 1),
        sensitivity=rng.uniform(0.1, 2, size=steps),
        calibration={},
        fit={},
        cost=FormulaEvaluator(steps).cost_model((), 0),
    )
    return profile, vectors


def residual_errors(vectors: np.ndarray, predictor: Predictor, computed: tuple[int, ...]) -> np.ndarray:
    """Prediction minus truth at every step, [rows, steps, dim]: the polynomial through computed residuals."""
    found = np.zeros_like(vectors)
    reads = 1 if predictor.kind == "hold" else predictor.order + 1
    for step in range(vectors.shape[1]):
        if step in computed:
            continue
        nodes = [c for c in computed if c < step][-reads:]
        powers = np.vander(nodes)  # of a polynomial through all nodes
        weights = np.linalg.solve(powers.T, np.vander([step], len(nodes))[0])
        found[:, step] = np.einsum("n,rnd->rd", weights, vectors[:, nodes]) - vectors[:, step]
    return found


def gap_sums(profile: Profile, vectors: np.ndarray, predictor: Predictor, computed: tuple[int, ...]) -> list:
    """Weighted squared error of every run between two computed steps, mean over rows."""
    squared = (residual_errors(vectors, predictor, computed) ** 2).sum(2).mean(0) * profile.sensitivity**2
    return [float(squared[a:b].sum()) for a, b in pairwise([*computed, profile.num_steps])]


def pattern(letters: str, **parts: object) -> Policy:
    """A static policy; blocks are chosen from the first on."""
    data = {"controller": {"kind": "pattern", "steps": letters}, "block": {"start_block": -1}}
    return Policy.parse({**data, **parts})


def of_steps(computed: tuple[int, ...], steps: int, predictor: Predictor) -> Policy:
    """A static policy that computes some steps and skips the others."""
    letters = "".join("F" if step in computed else "." for step in range(steps))
    return pattern(letters, predictor=predictor.to_data())
