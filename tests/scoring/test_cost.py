"""The cost model: its compute fraction is a session's own, and its seconds are those of timed requests."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import nn

import xslim
from autotune.scoring import cost_check, cost_fit
from autotune.scoring.cost import CostModel
from autotune.scoring.cost_check import check_cost, random_policy
from autotune.scoring.cost_count import Subject, count_cost
from autotune.scoring.cost_fit import Timed, fit_cost, time_request
from autotune.scoring.cost_parts import CallSeconds, CostError
from autotune.scoring.cost_steps import dry_run
from autotune.scoring.pipeline import PipelineRunner
from tests.pipelines import draw, flux_pipeline, negative
from tests.scoring.conftest import CASES, STEPS
from tests.tiny import TINY, dit_pipeline, generate, noise, sample
from tests.tiny.flux import call_flux
from xslim.errors import ConfigError
from xslim.policy.decision import Decision
from xslim.policy.policy import SIGNALS, TABLE_SIGNALS, Policy
from xslim.policy.trace import StepRecord, Trace

LENGTH = 12
CPU = torch.device("cpu")
NAMES = ["DiTTransformer2DModel", "FluxTransformer2DModel", "HunyuanVideoTransformer3DModel"]


@cache
def model_of(name: str) -> nn.Module:
    """A tiny model, built once: sessions remember what its calls cost."""
    return TINY[name].build()


def subject(name: str, batch: int) -> Subject:
    """A tiny model in a plain loop, without a scheduler."""
    tiny, model = TINY[name], model_of(name)
    start = noise(tiny, batch)
    return Subject(model, lambda n: sample(tiny, model, n, start), LENGTH, batch, CPU)


@cache
def counted(name: str, batch: int) -> CostModel:
    """Its cost model, counted once."""
    return count_cost(subject(name, batch))


def ran(subject: Subject, policy: Policy) -> xslim.Session:
    with xslim.attach(subject.target, policy, num_steps=subject.num_steps) as session:
        subject.request(subject.num_steps)
    return session


def agree(model: CostModel, subject: Subject, policy: Policy) -> None:
    """Actions and compute fraction are those of a session, to rounding."""
    trace = ran(subject, policy).trace
    dry = dry_run(policy, subject.num_steps, model.sigmas)
    for branch in trace.branches:
        assert "".join(done.action for done in dry) == trace.actions_of(branch), policy.controller
    assert model.compute_fraction(policy) == pytest.approx(trace.compute_fraction, rel=1e-9)


def pattern(steps: str, **changes: object) -> Policy:
    return Policy.parse({"controller": {"kind": "pattern", "steps": steps}, **changes})


# counting


@pytest.mark.parametrize(("name", "batch"), [*((name, 3) for name in NAMES), (NAMES[1], 1)])
def test_the_compute_fraction_is_the_sessions(name: str, batch: int) -> None:
    live, model = subject(name, batch), counted(name, batch)
    rng = random.Random(0)
    for index in range(4):
        steps = "F" + "".join(rng.choice("FBT..") for _ in range(LENGTH - 1))
        policy = pattern(
            steps,
            token={"budget": rng.uniform(0.05, 1.0)},
            block=(
                {"budget": 0.3, "start_block": 0},
                {"threshold": 1e9, "start_block": 1},
                {"threshold": 0.0},
                {"budget": 1.0},
            )[index % 4],
            predictor={"kind": "newton", "order": rng.choice([1, 2])},
        )
        agree(model, live, policy)


@pytest.mark.parametrize("name", NAMES)
def test_tables_and_intervals_are_counted(name: str) -> None:
    live, model = subject(name, 3), counted(name, 3)
    rng = random.Random(1)
    rows = [[rng.randint(0, 1) for _ in model.kinds] for _ in range(LENGTH - 2)]
    rows = [[1] * len(model.kinds), *rows, [0] * len(model.kinds)]
    agree(model, live, Policy.parse({"controller": {"kind": "table", "blocks": rows}}))
    interval = {"kind": "interval", "every": 4, "warmup": 2}
    for between in (["skip"], ["token"], ["token", "skip"], ["block", "token", "skip"]):
        policy = Policy.parse(
            {
                "controller": {**interval, "between": between},
                "block": {"first": 1, "last": 1},
                "token": {"budget": 0.3},
            }
        )
        agree(model, live, policy)


@pytest.mark.parametrize(
    "steps",
    [
        "." * LENGTH,  # the first step is full whatever a pattern says
        "FT" * (LENGTH // 2),  # the first token refresh has one residual, and needs two
        "FFTT" + "F" * (LENGTH - 4),
        "FFB.T.B..T.F",
        "F" * LENGTH + "....",  # longer than the request: remapped
        "F..",
    ],
)
def test_what_cannot_run_is_full(steps: str) -> None:
    live = subject("FluxTransformer2DModel", 1)
    policy = pattern(steps, block={"budget": 0.3, "start_block": 0})
    model, trace = counted("FluxTransformer2DModel", 1), ran(live, policy).trace
    assert "".join(done.action for done in dry_run(policy, LENGTH)) == trace.actions
    assert model.compute_fraction(policy) == pytest.approx(trace.compute_fraction, rel=1e-9)


def test_branches_of_different_lengths_are_counted_each() -> None:
    """Two calls a step, whose prompts differ in length."""
    tiny, model = TINY["FluxTransformer2DModel"], model_of("FluxTransformer2DModel")
    start = noise(tiny, 2)

    @torch.no_grad()
    def request(steps: int) -> None:
        x = start
        for step in range(steps):
            time = 1 - step / steps
            x = x - (2 * call_flux(model, x, time) - call_flux(model, x, time, words=9)) / steps

    live = Subject(model, request, LENGTH, 2, CPU)
    counted = count_cost(live)
    assert [branch.rows for branch in counted.branches] == [2, 2]
    short, long = counted.branches
    assert short.total < long.total
    agree(counted, live, pattern("FF.T.BF.T..F", block={"budget": 0.3, "start_block": 0}))


def test_windows_of_sigma_are_full() -> None:
    pipe = flux_pipeline()
    live = Subject(pipe, lambda n: draw(pipe, n, **negative()), LENGTH, 1, CPU)
    model = count_cost(live)
    assert len(model.branches) == 2
    assert model.sigmas is not None
    window = {"sigma_windows": [[model.sigmas[5], model.sigmas[3]]]}
    policy = pattern("F" + "." * (LENGTH - 1), guards=window)
    agree(model, live, policy)
    assert "".join(done.action for done in dry_run(policy, LENGTH, model.sigmas)) == "F..FFF......"


def test_guidance_in_one_batch_is_one_branch() -> None:
    pipe = dit_pipeline()
    live = Subject(pipe, lambda n: generate(pipe, n, batch=2, guidance=3.0), LENGTH, 2, CPU)
    model = count_cost(live)
    assert [branch.rows for branch in model.branches] == [4]
    agree(model, live, pattern("FF.T..F.T..F"))


def test_the_trained_model_is_counted(runner: PipelineRunner) -> None:
    live = Subject.of(runner, CASES[:2])
    assert (live.num_steps, live.batch) == (STEPS, 2)
    model = count_cost(live)
    for steps in ("F.F.F.", "FF.T.F", "FFTTTB", "FB.B.F"):
        agree(model, live, pattern(steps, block={"budget": 0.5}, token={"budget": 0.3}))


@pytest.mark.parametrize("name", ["DiTTransformer2DModel", "HunyuanVideoTransformer3DModel"])
def test_an_online_run_is_counted_by_its_actions(name: str) -> None:
    """Signals cost MACs too, and so does the text that they are measured with at a skipped step."""
    live = subject(name, 1)
    tables = {name: {"x": [0.0, 1.0], "y": [1.0, 2.0]} for name in TABLE_SIGNALS}
    policy = Policy.parse(
        {
            "controller": {
                "kind": "dual-threshold",
                "critical": 2.0,
                "warning_fraction": 0.4,
                "polish": ["token"],
            },
            "indicator": {"signals": dict.fromkeys(SIGNALS, 1 / len(SIGNALS)), "calibration": tables},
        }
    )
    model, trace = counted(name, 1), ran(live, policy).trace
    assert {"F", "T", "."} <= set(trace.actions), trace.actions
    assert model.compute_fraction(policy, trace.actions) == pytest.approx(trace.compute_fraction, rel=1e-9)
    silent = policy.model_copy(update={"indicator": pattern("F").indicator})
    assert model.compute_fraction(silent, trace.actions) < trace.compute_fraction
    with pytest.raises(ConfigError, match=r"controller\.kind: got dual-threshold, which decides by signals"):
        model.compute_fraction(policy)
    with pytest.raises(
        ConfigError, match=r"actions: got 'FF'; give one letter of FBT\. for each of 12 steps"
    ):
        model.compute_fraction(policy, "FF")


@pytest.mark.parametrize("name", NAMES)
def test_random_and_frozen_refreshes_are_counted(name: str) -> None:
    """A random choice needs one computed residual only."""
    live, model = subject(name, 3), counted(name, 3)
    for token in ({"select": "random"}, {"select": "random", "kv_writeback": False}, {"kv_writeback": False}):
        policy = pattern("FT.TF..TF.T.", token={"budget": 0.3, **token})
        agree(model, live, policy)
        letters = "".join(done.action for done in dry_run(policy, LENGTH))
        assert letters == ("FT.TF..TF.T." if "select" in token else "FF.TF..TF.T.")


@pytest.mark.parametrize("block", [{"first": 1}, {"first": 2, "last": 1}, {"last": 2}], ids=str)
def test_refreshes_by_position_are_counted_exactly(block: dict[str, int]) -> None:
    """The probe is the first block's own run, and comes on top where that block is replayed."""
    live = subject("FluxTransformer2DModel", 1)
    policy = Policy.parse(
        {
            "controller": {"kind": "dual-threshold", "critical": 0.6, "warning_fraction": 0.0,
                           "warmup": 1, "cooldown": 0, "polish": ["block"]},
            "indicator": {"signals": {"first_block": 1.0}, "compare": "computed", "accumulate": "latest"},
            "block": block,
        }
    )  # fmt: skip
    model, trace = counted("FluxTransformer2DModel", 1), ran(live, policy).trace
    assert {"F", "B"} == set(trace.actions)
    assert model.compute_fraction(policy, trace.actions) == pytest.approx(trace.compute_fraction, rel=1e-9)
    table, (branch,) = model.branches[0].table, model.branches
    ends = policy.block.at_ends(len(table.blocks))
    computed = sum(b.full for b, end in zip(table.blocks, ends, strict=True) if end)
    probe = 0.0 if ends[0] else table.blocks[0].full
    for record in trace.records:
        expected = table.outside + computed + probe if record.actions == "B" else branch.total
        assert record.macs == pytest.approx(expected, rel=1e-9)
    agree(model, live, pattern("FFBB.BF.B..F", block=block))


def test_blocks_are_chosen_by_the_profiled_changes() -> None:
    """Right after a full step of the uncached trajectory the choice is exact, whatever the threshold."""
    live, model = subject("FluxTransformer2DModel", 3), counted("FluxTransformer2DModel", 3)
    fractions = set()
    for budget in (0.2, 0.4, 0.6, 0.8):
        policy = pattern("FFFFFB" + "F" * (LENGTH - 6), block={"budget": budget, "start_block": -1})
        agree(model, live, policy)
        fractions.add(model.compute_fraction(policy))
    assert len(fractions) > 2


def test_a_step_by_its_action() -> None:
    model = counted("FluxTransformer2DModel", 3)
    cost = {name: step.fraction for name, step in model.overview().items()}
    assert cost["full"] == pytest.approx(1.0)
    outside = model.branches[0].table.outside / model.branches[0].total
    assert cost["skip"] == pytest.approx(outside)
    assert cost["half the blocks"] == pytest.approx((1 + outside) / 2)
    assert cost["skip"] < cost["half the tokens"] < 1
    tokens = pattern("FFT" + "F" * (LENGTH - 3), token={"budget": 0.5})
    assert (model.compute_fraction(tokens) - 1) * LENGTH == pytest.approx(cost["half the tokens"] - 1)
    assert model.step("F").seconds is None
    with pytest.raises(ConfigError, match="got 'X' with the share 1"):
        model.step("X")


def test_a_cost_model_survives_json() -> None:
    model = counted("HunyuanVideoTransformer3DModel", 3)
    again = CostModel.parse(json.loads(json.dumps(model.to_data())))
    assert again == model
    with pytest.raises(ConfigError, match=r"branches\.0\.rows: got 0"):
        CostModel.parse({**model.to_data(), "branches": [{**model.to_data()["branches"][0], "rows": 0}]})
    with pytest.raises(
        ConfigError, match=r"cost\.fit: this cost model has no seconds; run `autotune profile`"
    ):
        model.latency_ratio("F" * LENGTH)


# seconds

TRUTH = CallSeconds(
    call=2e-4, full=1e-4, skip=3e-4, read=5e-5, gmac=8.0, block=1e-4, keep_blocks=0.5, token=2e-3,
    token_gmac=9.0, keep_tokens=2.0, uncached=2.5e-3,
)  # fmt: skip


def clockwork(model: CostModel, slower: float = 1.0) -> Callable[[Subject, Policy | None, int], Timed]:
    """Tells seconds by a law and runs nothing; every seventh request meets a busy machine."""
    turn = itertools.count()

    def timed(subject: Subject, policy: Policy | None, steps: int) -> Timed:
        if policy is None:
            return Timed(steps * TRUTH.uncached, (TRUTH.uncached,) * steps, None)
        busy = 1.5 if next(turn) % 7 == 6 else 1.0
        law = model.model_copy(update={"fit": TRUTH, "num_steps": steps})
        calls = list(law.calls(policy))
        rows = law.branches[0].rows
        seconds = [law.step_seconds(call) * slower * busy for call in calls]
        trace = Trace(
            [
                StepRecord(c.step, c.branch, (Decision(c.action, "law"),) * rows, (), c.macs, c.full_macs)
                for c in calls
            ]
        )
        return Timed(sum(seconds), tuple(seconds), trace)

    return timed


@pytest.mark.parametrize("name", ["DiTTransformer2DModel", "FluxTransformer2DModel"])
def test_the_fit_finds_the_law_behind_the_seconds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    live, model = subject(name, 3), counted(name, 3)
    long = model.branches[0]
    changes = (*long.changes, *long.changes, *long.changes)  # the fit's requests are longer
    longer = model.model_copy(update={"branches": (long.model_copy(update={"changes": changes}),)})
    monkeypatch.setattr(cost_fit, "time_request", clockwork(longer))
    fitted = fit_cost(live, model)
    law = model.model_copy(update={"fit": TRUTH})
    assert fitted.uncached_seconds == pytest.approx(LENGTH * TRUTH.uncached)
    rng = random.Random(5)
    for _ in range(10):
        policy = random_policy(rng, LENGTH, refreshes_tokens=True)
        assert fitted.seconds(policy) == pytest.approx(law.seconds(policy), rel=0.01)
        assert fitted.latency_ratio(policy) == pytest.approx(law.latency_ratio(policy), rel=0.01)


def test_the_error_is_that_of_unseen_schedules(monkeypatch: pytest.MonkeyPatch) -> None:
    live = subject("DiTTransformer2DModel", 1)
    model = counted("DiTTransformer2DModel", 1).model_copy(update={"fit": TRUTH})
    monkeypatch.setattr(cost_check, "time_request", clockwork(model))
    error = check_cost(live, model, 5, seed=3).error
    assert error is not None
    assert error.patterns == 5
    assert error.latency_median == pytest.approx(0.0, abs=1e-9)
    assert (error.compute_median, error.noise) == pytest.approx((0.0, 0.0), abs=1e-9)
    assert error.trusted
    monkeypatch.setattr(cost_check, "time_request", clockwork(model, slower=2.0))
    slower = check_cost(live, model, 4, seed=3).error
    assert slower is not None
    assert slower.latency_median == pytest.approx(0.5)
    assert not slower.trusted
    assert check_cost(live, model, 0).error is None


def test_random_schedules_are_varied_and_the_same_for_a_seed() -> None:
    drawn = [random_policy(random.Random(seed), 50, refreshes_tokens=True) for seed in range(20)]
    assert drawn[3] == random_policy(random.Random(3), 50, refreshes_tokens=True)
    assert len({policy.controller.steps for policy in drawn}) == 20  # type: ignore[union-attr]
    letters = set().union(*(policy.controller.steps for policy in drawn))  # type: ignore[union-attr]
    assert letters == set("FBT.")
    assert "T" not in random_policy(random.Random(0), 200, refreshes_tokens=False).controller.steps  # type: ignore[union-attr]


def test_a_timed_request_has_one_time_a_call(runner: PipelineRunner) -> None:
    live = Subject.of(runner, CASES[:1])
    bare = time_request(live, None, 4)
    assert (len(bare.calls), bare.trace) == (4, None)
    assert sum(bare.calls) == pytest.approx(bare.seconds)
    cached = time_request(live, pattern("FF.T"), 4)
    assert len(cached.calls) == len(cached.ran.records) == 4
    with pytest.raises(TypeError, match="no trace"):
        _ = bare.ran


def test_seconds_of_the_trained_model_fall_with_skips(
    runner: PipelineRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost_fit, "MIXED", "FFTTFBBF..")
    live = Subject.of(runner, CASES[:1])
    model = fit_cost(live, count_cost(live), rounds=1)
    ratios = [model.latency_ratio(steps) for steps in ("FFFFFF", "FFF..F", "F....F")]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[0] == pytest.approx(1.0, rel=0.5), "a busy machine"
    assert all(value >= 0 for value in model.fit.terms.values())  # type: ignore[union-attr]


def test_trust_ends_at_a_fifth() -> None:
    error = CostError(
        patterns=1, latency_median=0.2, latency_worst=1.0, compute_median=0.0, compute_worst=0.0, noise=0.0
    )
    assert error.trusted
    assert not error.model_copy(update={"latency_median": 0.21}).trusted
