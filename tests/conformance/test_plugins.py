"""What every indicator and every predictor has to hold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from xslim.policy.policy import SIGNALS, Predictor
from xslim.runtime.indicators import INDICATORS, Features, Indicator, Measured
from xslim.runtime.predictors import PREDICTORS, weights

BATCH, TOKENS, DIM = 3, 5, 4
STEPS = 4


def features(seed: int, rows: slice = slice(None)) -> Features:
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(BATCH, 1, 4, 4, generator=generator)[rows]
    modulated = torch.randn(BATCH, TOKENS, DIM, generator=generator)[rows]
    probe = torch.randn(BATCH, TOKENS, DIM, generator=generator)[rows]
    return Features(latent, lambda: modulated, lambda: probe)


def run(indicator: Indicator, steps: list[Features], scale: float = 1.0) -> list[Measured | None]:
    """Measure some steps, all computed; the output follows the latent."""
    measured = []
    for step in steps:
        measured.append(indicator.measure(step))
        indicator.observe(step.latent * scale, (True,) * len(step.latent))
    return measured


@pytest.fixture(params=sorted(INDICATORS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_the_table_holds_what_policies_may_name() -> None:
    assert set(INDICATORS) == set(SIGNALS) - {"step_table"}  # that one reads no tensors


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


def test_indicator_of_a_skipped_row_ignores_what_the_others_computed(name: str) -> None:
    """Row 1 skips from step 2 on; its signal equals that of a batch of its own."""

    def readings(rows: slice, position: int) -> list[Tensor]:
        indicator, values = INDICATORS[name](), []
        for step in range(5):
            seen = features(step, rows)
            measured = indicator.measure(seen)
            computed = [True] * len(seen.latent)
            computed[position] = step < 2
            indicator.observe(seen.latent * 2, tuple(computed))
            if measured is not None and measured.defined[position]:
                values.append(measured.values[position])
        return values

    batched, alone = readings(slice(None), 1), readings(slice(1, 2), 0)
    assert len(batched) == len(alone) >= 3
    torch.testing.assert_close(batched, alone)


def test_indicator_leaves_its_inputs_untouched(name: str) -> None:
    steps = [features(seed) for seed in range(STEPS)]
    before = [(f.latent.clone(), f.modulated().clone(), f.probe().clone()) for f in steps]
    run(INDICATORS[name](), steps)
    for f, (latent, modulated, probe) in zip(steps, before, strict=True):
        assert torch.equal(f.latent, latent)
        assert torch.equal(f.modulated(), modulated)
        assert torch.equal(f.probe(), probe)


def test_equal_features_give_0(name: str) -> None:
    measured = run(INDICATORS[name](), [features(7)] * STEPS)[-1]
    assert measured is not None
    assert measured.values.tolist() == [0.0] * BATCH


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_nonfinite_row_reads_nonfinite_and_the_others_do_not(name: str, bad: float) -> None:
    indicator = INDICATORS[name]()
    run(indicator, [features(0), features(1)])
    spoilt = features(2)
    for tensor in (spoilt.latent, spoilt.modulated(), spoilt.probe()):
        tensor[1].view(-1)[3] = bad
    measured = indicator.measure(spoilt)
    assert measured is not None
    assert torch.isfinite(measured.values).tolist() == [True, False, True]


def test_indicator_tells_what_it_holds(name: str) -> None:
    indicator = INDICATORS[name]()
    assert indicator.tensors() == []
    run(indicator, [features(0), features(1)])
    assert indicator.tensors()
    held = {id(t) for t in indicator.tensors()}
    pending = list(vars(indicator).values())
    while pending:
        value = pending.pop()
        if isinstance(value, Tensor):
            assert id(value) in held
        elif isinstance(value, tuple | list):
            pending += value


HISTORIES = [(3.0,), (3.0, 2.0), (7.0, 4.0), (9.0, 4.0, 3.0), (20.0, 13.0, 2.0)]


@pytest.mark.parametrize("kind", sorted(PREDICTORS))
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("times", HISTORIES)
def test_predictor_weights_sum_to_1_and_reproduce_constants(
    kind: str, order: int, times: tuple[float, ...]
) -> None:
    predictor = Predictor(kind=kind, order=order)
    for ahead in (1.0, 2.0, 5.0):
        found = weights(predictor, times, times[0] + ahead)
        assert len(found) <= min(len(times), predictor.history)
        assert sum(found) == pytest.approx(1.0)
        constant = sum(w * 2.5 for w in found)
        assert constant == pytest.approx(2.5)


@pytest.mark.parametrize("kind", sorted(PREDICTORS))
def test_predictor_at_the_newest_time_gives_the_newest_value(kind: str) -> None:
    found = weights(Predictor(kind=kind, order=2), (9.0, 4.0, 3.0), 9.0)
    assert found == (1.0,) + (0.0,) * (len(found) - 1)
