"""What every indicator and every predictor has to hold."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

import xslim
from tests.policy.strategies import predictor_keys
from tests.tiny import Tiny, noise, sample
from xslim.policy.controller import TABLES
from xslim.policy.decision import Action
from xslim.policy.policy import CHANGES, RESIDUALS_READ, SIGNALS, TABLE_SIGNALS, Policy, Predictor
from xslim.runtime.feature_cache import ResidualHistory
from xslim.runtime.indicators import INDICATORS, Features, Indicator, Measured
from xslim.runtime.predictors import PREDICTORS, Kept, weights
from xslim.runtime.rows import Rows

BATCH, TOKENS, DIM = 3, 5, 4
STEPS = 5
HISTORY = max(RESIDUALS_READ.values())


def features(seed: int, rows: slice = slice(None)) -> Features:
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(BATCH, 1, 4, 4, generator=generator)[rows]
    modulated = torch.randn(BATCH, TOKENS, DIM, generator=generator)[rows]
    probe = torch.randn(BATCH, TOKENS, DIM, generator=generator)[rows]
    embedding = torch.randn(BATCH, DIM, generator=generator)[rows]
    return Features(latent, lambda: modulated, lambda: probe, lambda: embedding, (), (0,) * len(latent))


def reads(indicator: Indicator, step: Features, history: ResidualHistory) -> Measured | None:
    """Measure a step with the residuals computed so far."""
    known = [len(times) for times in history.times] or [0] * len(step.latent)
    return indicator.measure(replace(step, residuals=history.tensors(), known=known))


def run(indicator: Indicator, steps: list[Features], scale: float = 1.0) -> list[Measured | None]:
    """Measure some steps, all computed; output and residual follow the features."""
    measured, history = [], ResidualHistory(HISTORY)
    for time, step in enumerate(steps):
        measured.append(reads(indicator, step, history))
        indicator.observe(step.latent * scale, (Action.FULL,) * len(step.latent))
        history.push(
            step.probe() * scale, float(time), Rows(tuple(range(len(step.latent))), len(step.latent))
        )
    return measured


@pytest.fixture(params=sorted(INDICATORS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_the_table_holds_what_policies_may_name() -> None:
    assert set(INDICATORS) == set(SIGNALS) - set(TABLE_SIGNALS)  # those read no tensors
    assert set(TABLES) == set(TABLE_SIGNALS)


def test_a_policy_keeps_the_residuals_that_its_signals_read(name: str) -> None:
    policy = Policy(
        controller={"kind": "dual-threshold", "critical": 1.0}, indicator={"signals": {name: 1.0}}
    )
    indicator, steps = INDICATORS[name](), [features(seed) for seed in range(STEPS)]
    history = ResidualHistory(policy.history)
    for time, step in enumerate(steps):
        measured = reads(indicator, step, history)
        indicator.observe(step.latent, (Action.FULL,) * BATCH)
        history.push(step.probe(), float(time), Rows(tuple(range(BATCH)), BATCH))
    assert measured is not None
    assert all(measured.defined)


def test_indicator_is_finite_nonnegative_and_one_value_a_sample(name: str) -> None:
    measured = run(INDICATORS[name](), [features(seed) for seed in range(STEPS)])
    assert measured[0] is None or not any(measured[0].defined)  # nothing to compare with yet
    last = measured[-1]
    assert last is not None
    assert last.values.shape == (BATCH,)
    assert last.defined == (True,) * BATCH
    assert torch.isfinite(last.values).all()
    assert (last.values > 0).all()


def test_indicator_rows_are_independent(name: str) -> None:
    together = run(INDICATORS[name](), [features(seed) for seed in range(STEPS)])
    for row in range(BATCH):
        alone = run(INDICATORS[name](), [features(seed, slice(row, row + 1)) for seed in range(STEPS)])
        for whole, single in zip(together, alone, strict=True):
            assert (whole is None) == (single is None)
            if whole is not None and single is not None:
                torch.testing.assert_close(whole.values[row], single.values[0])


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_may_be_against_the_last_full_step_of_each_sample(name: str) -> None:
    """Against a batch of its own: a sample's reference moves at its full steps, not at its refreshes."""
    rows = {0: "F.BTF.", 1: "FF....", 2: "FFFFFF"}
    seen = [features(step) for step in range(6)]
    indicator, feature = INDICATORS[name](), {
        "modulated_input": lambda step: step.modulated(),
        "first_block": lambda step: step.probe(),
        "timestep_embedding": lambda step: step.time_embedding(),
    }[name]  # fmt: skip
    for step, now in enumerate(seen):
        measured = indicator.measure(replace(now, compare="computed"))
        for row, letters in rows.items():
            if measured is None:
                assert step == 0
                continue
            old = feature(seen[letters.rfind("F", 0, step)])[row]
            expected = (feature(now)[row] - old).abs().mean() / old.abs().mean()
            torch.testing.assert_close(measured.values[row], expected)
        indicator.observe(now.latent, tuple(Action(letters[step]) for letters in rows.values()))
        assert len(indicator.tensors()) == 1


def test_indicator_of_a_skipped_row_ignores_what_the_others_computed(name: str) -> None:
    """Row 1 skips from step 3 on; its signal equals that of a batch of its own."""

    def readings(rows: slice, position: int) -> list[Tensor]:
        indicator, values = INDICATORS[name](), []
        history = ResidualHistory(HISTORY)
        for step in range(6):
            seen = features(step, rows)
            measured = reads(indicator, seen, history)
            computed = [True] * len(seen.latent)
            computed[position] = step < 3
            actions = tuple(Action.FULL if flag else Action.SKIP for flag in computed)
            indicator.observe(seen.latent * 2, actions)
            chosen = Rows.of(computed, seen.latent.device)
            if len(chosen):
                history.push(chosen.take(seen.probe()), float(step), chosen)
            if measured is not None and measured.defined[position]:
                values.append(measured.values[position])
        return values

    batched, alone = readings(slice(None), 1), readings(slice(1, 2), 0)
    assert len(batched) == len(alone) >= 3
    torch.testing.assert_close(batched, alone)


def tensors(step: Features) -> list[Tensor]:
    return [step.latent, step.modulated(), step.probe(), step.time_embedding()]


def test_indicator_leaves_its_inputs_untouched(name: str) -> None:
    steps = [features(seed) for seed in range(STEPS)]
    before = [[tensor.clone() for tensor in tensors(f)] for f in steps]
    run(INDICATORS[name](), steps)
    for f, kept in zip(steps, before, strict=True):
        assert all(torch.equal(now, then) for now, then in zip(tensors(f), kept, strict=True))


def test_equal_features_give_0(name: str) -> None:
    measured = run(INDICATORS[name](), [features(7)] * STEPS)[-1]
    assert measured is not None
    assert measured.values.tolist() == [0.0] * BATCH


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_nonfinite_row_reads_nonfinite_and_the_others_do_not(name: str, bad: float) -> None:
    indicator = INDICATORS[name]()
    run(indicator, [features(0), features(1)])
    spoilt = features(2)
    for tensor in tensors(spoilt):
        tensor[1].view(-1)[3] = bad
    residuals = [spoilt.probe(), features(1).probe(), features(0).probe()]
    measured = indicator.measure(replace(spoilt, residuals=residuals, known=(3,) * BATCH))
    assert measured is not None
    assert torch.isfinite(measured.values).tolist() == [True, False, True]


def test_indicator_tells_what_it_holds(name: str) -> None:
    indicator = INDICATORS[name]()
    assert indicator.tensors() == []
    run(indicator, [features(0), features(1)])
    held = {id(t) for t in indicator.tensors()}
    pending = list(vars(indicator).values())
    while pending:
        value = pending.pop()
        if isinstance(value, Tensor):
            assert id(value) in held
        elif isinstance(value, tuple | list):
            pending += value


HISTORIES = [(3.0,), (3.0, 2.0), (7.0, 4.0), (9.0, 4.0, 3.0), (20.0, 13.0, 2.0), (20.0, 15.0, 13.0, 4.0, 0.0)]
TOTAL = 30  # steps of the request
predictor_kinds = pytest.mark.parametrize("kind", sorted(PREDICTORS))


def predictor_weights(kind: str, order: int, times: tuple[float, ...], at: float) -> tuple[float, ...]:
    """Weights with residuals that are all the same; the predictor alone decides whether it reads them."""
    predictor = Predictor.parse(predictor_keys(kind, order))
    found = weights(predictor, Kept(times, at, TOTAL, lambda i, j: torch.ones(BATCH)))
    assert 1 <= len(found) <= min(len(times), predictor.history)
    for weight in found:
        assert isinstance(weight, float) or weight.shape == (BATCH,)
    return tuple(float(torch.as_tensor(weight).flatten()[0]) for weight in found)


def test_the_table_holds_the_predictors_that_policies_may_name() -> None:
    assert list(PREDICTORS) == list(get_args(Predictor.model_fields["kind"].annotation))


@predictor_kinds
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("times", HISTORIES)
def test_predictor_reproduces_constants(kind: str, order: int, times: tuple[float, ...]) -> None:
    for ahead in (1.0, 2.0, 5.0, 9.0):
        found = predictor_weights(kind, order, times, times[0] + ahead)
        assert sum(found) == pytest.approx(1.0, abs=1e-6 * (1 + max(map(abs, found))))


@predictor_kinds
@pytest.mark.parametrize("times", HISTORIES)
def test_predictor_at_the_newest_time_gives_the_newest_value(kind: str, times: tuple[float, ...]) -> None:
    found = predictor_weights(kind, 2, times, times[0])
    assert found == pytest.approx((1.0,) + (0.0,) * (len(found) - 1), abs=1e-9)


@predictor_kinds
def test_predictor_from_one_residual_reuses_it(kind: str) -> None:
    assert predictor_weights(kind, 4, (3.0,), 9.0) == (1.0,)


def test_every_predictor_runs_on_every_model_and_leaves_full_steps_alone(tiny: Tiny) -> None:
    pattern, model, start = "FF.F.F..", tiny.build(), noise(tiny, 2)
    for kind in PREDICTORS:
        entered: list[Tensor] = []
        left: list[Tensor] = []

        def enter(step: int, latent: Tensor, entered: list[Tensor] = entered) -> Tensor:
            entered.append(latent.clone())
            return latent

        def call(live: nn.Module, latent: Tensor, time: float, left: list[Tensor] = left) -> Tensor:
            left.append(tiny.call(live, latent, time))
            return left[-1]

        policy = Policy.from_pattern(pattern, predictor=predictor_keys(kind, order=2))
        with xslim.attach(model, policy, num_steps=len(pattern)) as session:
            sample(replace(tiny, call=call), model, len(pattern), start, before=enter)
        assert session.trace.actions == pattern
        for step, action in enumerate(pattern):
            assert torch.isfinite(left[step]).all()
            with torch.no_grad():
                plain = tiny.call(model, entered[step], 1 - step / len(pattern))
            assert torch.equal(left[step], plain) == (action == "F"), (kind, step)


def test_direction_stability_sees_a_straight_path_of_large_steps_in_fp16() -> None:
    """Products of changes above 256 are beyond fp16."""
    path = torch.linspace(1.0, 3.0, 3)[:, None, None, None] * torch.full((1, 2, TOKENS, DIM), 2000.0)
    back = path[[0, 1, 0]]
    for residuals, expected in ((path, 0.0), (back, 1.0)):
        step = replace(features(0, slice(2)), residuals=tuple(residuals.half().flip(0)), known=(3, 3))
        measured = INDICATORS["direction_stability"]().measure(step)
        assert measured is not None
        torch.testing.assert_close(measured.values, torch.full((2,), expected), rtol=0, atol=1e-3)
