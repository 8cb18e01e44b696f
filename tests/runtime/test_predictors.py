"""Predictions and corrections of tensors: per sample, in every type, without waiting for the device."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import xslim
from tests.conformance.conftest import StackProbe
from tests.policy.strategies import predictor_keys
from tests.tiny import TINY, noise, sample
from xslim import Policy
from xslim.errors import ConfigError
from xslim.policy.decision import StepInfo
from xslim.runtime.feature_cache import ResidualHistory
from xslim.runtime.predictors import PREDICTORS, Kept, predict, weights
from xslim.runtime.rows import Rows

TOKENS, DIM, STEPS = 5, 4, 30
DIT = TINY["DiTTransformer2DModel"]
Computed = list[tuple[int, ...]]  # for every sample the steps it computed, ascending


def policy(kind: str, order: int = 1, **parts: object) -> Policy:
    return Policy.parse(
        {"controller": {"kind": "interval", "every": 2}, "predictor": predictor_keys(kind, order), **parts}
    )


def residual(sample: int, step: int) -> Tensor:
    """What a sample computes at a step, [tokens, dim]; it changes smoothly and noisily."""
    generator = torch.Generator().manual_seed(1000 * sample + step)
    base = torch.randn(TOKENS, DIM, generator=torch.Generator().manual_seed(sample))
    return base * (1 + step / 10) + 0.1 * torch.randn(TOKENS, DIM, generator=generator)


def history(samples: list[int], computed: Computed, capacity: int, dtype=torch.float32) -> ResidualHistory:
    kept = ResidualHistory(capacity)
    for step in range(STEPS):
        flags = [step in steps for steps in computed]
        rows = Rows.of(flags, torch.device("cpu"))
        if len(rows):
            new = [residual(samples[row], step) for row in rows.members]
            kept.push(torch.stack(new).to(dtype), float(step), rows)
    return kept


def predicted(chosen: Policy, samples: list[int], computed: Computed, step: int) -> Tensor:
    return predict(chosen, history(samples, computed, chosen.history), StepInfo(step, STEPS))


kinds = pytest.mark.parametrize("kind", sorted(PREDICTORS))


def test_two_skips_from_the_same_residual_add_it_exactly() -> None:
    chosen = policy("hold")
    kept = history([3], [(0, 4)], 1)
    entered = torch.randn(1, TOKENS, DIM)
    for step in (5, 6):
        out = entered + predict(chosen, kept, StepInfo(step, STEPS))
        assert torch.equal(out, entered + residual(3, 4))


@pytest.mark.parametrize(("kind", "expected"), [("newton", 25.0), ("taylor", 23.0)])
def test_a_parabola_as_tensors(kind: str, expected: float) -> None:
    kept = ResidualHistory(3)
    for step in (0, 2, 4):
        kept.push(
            torch.full((1, TOKENS, DIM), float(step**2)), float(step), Rows.of([True], torch.device("cpu"))
        )
    found = predict(policy(kind, order=2), kept, StepInfo(5, STEPS))
    assert torch.equal(found, torch.full((1, TOKENS, DIM), expected))


@kinds
@pytest.mark.parametrize("step", [8, 15, 26])  # every stage of pade
def test_the_weighted_sum_of_the_kept_residuals(kind: str, step: int) -> None:
    chosen, steps = policy(kind, order=3), (1, 2, 4, 7)
    kept = [residual(2, s).double() for s in steps[::-1]]
    plan = Kept(
        tuple(map(float, steps[::-1])), float(step), STEPS, lambda i, j: (kept[i] * kept[j]).sum()[None]
    )
    by_hand = sum(float(w) * r for w, r in zip(weights(chosen.predictor, plan), kept, strict=False))
    found = predicted(chosen, [2], [steps], step)
    torch.testing.assert_close(found[0], by_hand.float(), rtol=1e-4, atol=1e-4)


@kinds
@given(
    st.lists(st.sets(st.integers(1, 6), max_size=4).map(lambda s: (0, *sorted(s))), min_size=2, max_size=4),
    st.integers(1, 4),
    st.sampled_from([8, 15, 26]),
)
def test_a_prediction_does_not_depend_on_batch_mates(
    kind: str, computed: Computed, order: int, step: int
) -> None:
    chosen = policy(kind, order)
    together = predicted(chosen, list(range(len(computed))), computed, step)
    for row, steps in enumerate(computed):
        alone = predicted(chosen, [row], [steps], step)
        if kind == "pade":  # sums over a sample are ordered by the batch's shape
            torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-4)
        else:
            assert torch.equal(together[row], alone[0])


@kinds
def test_a_nonfinite_mate_changes_nothing(kind: str) -> None:
    chosen = policy(kind, order=2)
    kept = history([0, 1], [(0, 1, 3), (0, 1, 3)], chosen.history)
    spoilt = history([0, 1], [(0, 1, 3), (0, 1, 3)], chosen.history)
    for tensor in spoilt.tensors():
        tensor[1] = torch.nan
    for step in (4, 15, 26):
        clean, found = (predict(chosen, h, StepInfo(step, STEPS)) for h in (kept, spoilt))
        torch.testing.assert_close(found[0], clean[0], rtol=1e-6, atol=1e-6)
        assert not torch.isfinite(found[1]).any()


@kinds
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mixed", [False, True])
def test_large_residuals_in_narrow_types(kind: str, dtype: torch.dtype, mixed: bool) -> None:
    """Near the end of the range of fp16; products and sums of weights alone are far beyond it."""
    chosen = policy(kind, order=4)
    rows = Rows.of([True, True], torch.device("cpu"))
    kept = ResidualHistory(chosen.history)
    for step, sign in ((0, 1), (1, -1), (3, 1), (4, -1), (7, 1)):
        kept.push(torch.full((2, TOKENS, DIM), sign * 6e4).to(dtype), float(step), rows)
    if mixed:
        first = Rows.of([True, False], torch.device("cpu"))
        kept.push(torch.full((1, TOKENS, DIM), 6e4).to(dtype), 8.0, first)
    for step in (9, 15, 26):
        found = predict(chosen, kept, StepInfo(step, STEPS))
        assert found.dtype == dtype
        assert torch.isfinite(found).all()


@kinds
def test_narrow_types_are_summed_in_32_bits(kind: str) -> None:
    chosen, steps = policy(kind, order=2), ((0, 2, 5),)
    kept = history([1], steps, chosen.history, torch.bfloat16)
    exact = ResidualHistory(chosen.history)
    for tensor, time in zip(kept.tensors()[::-1], kept.times[0][::-1], strict=True):
        exact.push(tensor.float(), time, Rows.of([True], tensor.device))
    for step in (6, 15, 26):
        found, wanted = (predict(chosen, h, StepInfo(step, STEPS)) for h in (kept, exact))
        assert torch.equal(found, wanted.to(torch.bfloat16))


@kinds
def test_nothing_waits_for_the_device(kind: str) -> None:
    """Fake tensors have no values: reading one on the host raises."""
    corrector = {"kind": "affine", "slope": [0.5] * STEPS, "offset": [[0.5] * DIM] * STEPS}
    chosen = policy(kind, order=2, corrector=corrector)
    with FakeTensorMode():
        kept = ResidualHistory(chosen.history)
        for step in (0, 1, 3):
            kept.push(torch.ones(2, TOKENS, DIM), float(step), Rows.of([True, True], torch.device("cpu")))
        for step in (4, 15, 26):
            assert predict(chosen, kept, StepInfo(step, STEPS)).shape == (2, TOKENS, DIM)


@kinds
def test_the_kept_residuals_are_left_as_they_are(kind: str) -> None:
    chosen = policy(
        kind, order=2, corrector={"kind": "affine", "slope": [0.5] * STEPS, "offset": [1.0] * STEPS}
    )
    kept = history([0, 1], [(0, 1, 3), (0, 2)], chosen.history)
    before = [tensor.clone() for tensor in kept.tensors()]
    for step in (4, 15, 26):
        predict(chosen, kept, StepInfo(step, STEPS))
    assert all(torch.equal(a, b) for a, b in zip(before, kept.tensors(), strict=True))


# the corrector


def affine(slope: object, offset: object) -> dict[str, object]:
    return {"kind": "affine", "slope": [slope] * STEPS, "offset": [offset] * STEPS}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_correction_by_hand(dtype: torch.dtype, per_channel: bool) -> None:
    slope, offset = ([0.5, -0.25, 0.0, 1.0], 2.0) if per_channel else (0.5, 2.0)
    chosen = policy("hold", corrector=affine(slope, offset))
    kept = history([0, 1], [(0,), (0,)], 1, dtype)
    found = predict(chosen, kept, StepInfo(4, STEPS))
    x = torch.stack([residual(0, 0), residual(1, 0)]).to(dtype).float()
    torch.testing.assert_close(found, (x - (x * torch.tensor(slope) + offset)).to(dtype))


def test_a_corrector_for_another_width_is_refused() -> None:
    chosen = policy("hold", corrector=affine([0.0, 0.0], 0.0))
    with pytest.raises(ConfigError, match=r"corrector\.slope: lists of 2 numbers; the model has 4 channels"):
        predict(chosen, history([0], [(0,)], 1), StepInfo(4, STEPS))


def test_only_predicted_steps_are_corrected() -> None:
    model, start = DIT.build(), noise(DIT, 2)
    pattern = {"kind": "pattern", "steps": "FF.F.F"}
    tables = {"slope": [9.0, 9.0, 0.25, 9.0, 0.0, 9.0], "offset": [9.0, 9.0, 0.5, 9.0, 0.0, 9.0]}
    plain = run_stack(model, start, Policy.parse({"controller": pattern}))
    corrected = run_stack(
        model, start, Policy.parse({"controller": pattern, "corrector": {"kind": "affine", **tables}})
    )
    for step in (0, 1):
        assert torch.equal(plain[step][1], corrected[step][1])
    entered, left = corrected[2]
    held = corrected[1][1] - corrected[1][0]
    torch.testing.assert_close(left, entered + 0.75 * held - 0.5)
    entered, left = corrected[4]
    torch.testing.assert_close(left, entered + corrected[3][1] - corrected[3][0])


def test_a_corrector_is_remapped_with_the_request() -> None:
    model, start = DIT.build(), noise(DIT, 1)
    tables = {"slope": [0.0, 0.25, 0.0], "offset": [0.0, 0.5, 0.0]}
    chosen = Policy.parse(
        {"controller": {"kind": "pattern", "steps": "F.F"}, "corrector": {"kind": "affine", **tables}}
    )
    seen = run_stack(model, start, chosen, steps=5)  # F.FFF
    entered, left = seen[1]
    held = seen[0][1] - seen[0][0]
    torch.testing.assert_close(left, entered + 0.75 * held - 0.5)


def run_stack(
    model: torch.nn.Module, start: Tensor, chosen: Policy, steps: int = 6
) -> list[tuple[Tensor, Tensor]]:
    """What enters and what leaves the stack at every step."""
    with xslim.attach(model, chosen, num_steps=steps):
        probe = StackProbe(model)
        sample(DIT, model, steps, start)
    for handle in probe.handles:
        handle.remove()
    return list(zip(probe.inputs, probe.outputs, strict=True))
