"""Fitted noise levels: the arithmetic, the search, and a real tiny flow model that they bring nearer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.scoring.case import Case
from autotune.scoring.levels import coordinate_search, fit_levels, gaps_of, levels_of
from autotune.scoring.pipeline import PipelineRunner
from autotune.scoring.sampling import Sampling, SchedulerChoice
from xslim.errors import ConfigError

CASES = (Case("one", 1), Case("two", 2))
UNIPC = SchedulerChoice(name="UniPCMultistepScheduler")
Load = Callable[[str], PipelineRunner]


@given(st.lists(st.floats(-5.0, 5.0), min_size=2, max_size=12), st.floats(0.1, 20.0))
def test_levels_fall_from_the_top_and_gaps_are_their_inverse(gaps: list[float], top: float) -> None:
    levels = levels_of(np.array(gaps), top)
    assert levels[0] == top
    assert (np.diff(np.append(levels, 0.0)) < 0).all()
    np.testing.assert_allclose(levels_of(gaps_of(levels.tolist()), top), levels, rtol=1e-6)


def test_the_search_finds_a_minimum_within_its_tries() -> None:
    asked: list[float] = []

    def loss(x: np.ndarray) -> float:
        asked.append(float((x - [0.6, -0.4, 0.1]) @ np.diag([1.0, 3.0, 10.0]) @ (x - [0.6, -0.4, 0.1])))
        return asked[-1]

    found = coordinate_search(loss, np.zeros(3), 60)
    assert len(asked) == 61
    assert min(asked) < 1e-3 < asked[0]
    np.testing.assert_allclose(found, [0.6, -0.4, 0.1], atol=0.05)


def test_the_search_never_ends_worse_than_it_began() -> None:
    start = np.array([0.3, 0.1])
    assert (coordinate_search(lambda x: 0.0 if (x == start).all() else 1.0, start, 7) == start).all()


def off(runner: PipelineRunner, sampling: Sampling) -> float:
    reference = runner.draw(CASES).latents
    with runner.sampled(sampling):
        return float((runner.draw(CASES).latents - reference).square().mean())


def test_few_steps_come_nearer_to_the_reference(load: Load) -> None:
    runner, two = load("flux"), Sampling(num_steps=2)
    fitted = fit_levels(runner, CASES, two)
    assert fitted.num_steps == 2
    assert fitted.sigmas is not None
    assert fitted.sigmas[0] == 1.0
    assert off(runner, fitted) < off(runner, two)


def test_a_solver_for_flows_takes_levels_where_the_pipeline_passes_them_on(load: Load) -> None:
    runner = load("hunyuan")
    three = Sampling(num_steps=3, scheduler=UNIPC)
    own = Sampling(sigmas=(1.0, 2 / 3, 1 / 3), scheduler=UNIPC)
    assert off(runner, own) == pytest.approx(off(runner, three), rel=1e-4)
    assert off(runner, fit_levels(runner, CASES, three)) < off(runner, three)


def test_a_pipeline_that_does_not_pass_them_on_is_refused(load: Load) -> None:
    runner = load("flux")
    with (
        pytest.raises(ConfigError, match=r"FluxPipeline does not pass them on to UniPCMultistepScheduler"),
        runner.sampled(Sampling(sigmas=(1.0, 0.8, 0.1), scheduler=UNIPC)),
    ):
        runner.draw(CASES)


def test_a_pipeline_without_noise_levels_is_refused(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"request\.sigmas: got DiTPipeline, which sets its scheduler by a"):
        fit_levels(load("dit"), (Case(1, 1), Case(2, 2)), Sampling(num_steps=2))
