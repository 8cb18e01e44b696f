"""The arithmetic of the predictors, their keys and those of the corrector."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from tests.policy.strategies import patterns
from xslim import Policy
from xslim.errors import ConfigError
from xslim.policy.calibration import Calibration
from xslim.policy.document import dump_yaml, parse_yaml, read_yaml
from xslim.policy.prediction import Affine, Mlp, Pade, Predictor
from xslim.policy.preset import Preset, load_preset, save_preset
from xslim.policy.schedule import remap
from xslim.runtime.predictors import Kept, Weights, weights

SUM_TO_1 = ["hold", "newton", "taylor", "foca"]
STEPS = 50

times = st.lists(st.integers(0, 60), min_size=1, max_size=6, unique=True).map(lambda xs: sorted(xs)[::-1])
orders = st.integers(1, 4)
aheads = st.integers(1, 20)


def no_dot(i: int, j: int) -> Tensor:
    raise AssertionError("this predictor needs no tensors")


def at(predictor: Predictor, nodes: tuple[float, ...] | list[int], step: float) -> tuple[float, ...]:
    """Weights that depend on step numbers alone."""
    found = weights(predictor, Kept(tuple(map(float, nodes)), float(step), STEPS, no_dot))
    assert all(isinstance(w, float) for w in found)
    return tuple(float(w) for w in found)


def value(predictor: Predictor, nodes: tuple[float, ...] | list[int], step: float, power: int = 2) -> float:
    """Prediction of step**power."""
    return sum(w * t**power for w, t in zip(at(predictor, nodes, step), nodes, strict=False))


# golden values


def test_a_parabola_by_newton_and_by_taylor() -> None:
    """f = x**2 computed at 0, 2, 4: divided differences are exact, TaylorSeer's recurrence is not."""
    newton, taylor = Predictor(kind="newton", order=2), Predictor(kind="taylor", order=2)
    assert value(newton, (4, 2, 0), 5) == 25.0
    assert value(taylor, (4, 2, 0), 5) == 23.0
    assert value(newton, (4, 1, 0), 6) == pytest.approx(36.0)
    assert value(taylor, (4, 1, 0), 6) == pytest.approx(28.6667, abs=1e-4)
    assert value(newton, (4, 2), 5) == 22.0 == value(taylor, (4, 2), 5)  # a line while history is short


@pytest.mark.parametrize(("kind", "whole"), [("newton", 25.0), ("taylor", 23.0)])
def test_curvature_leads_from_the_line_to_the_polynomial(kind: str, whole: float) -> None:
    line = value(Predictor(kind=kind, order=1), (4, 2, 0), 5)
    assert line == 22.0
    for curvature in (0.0, 0.5, 1.0, 1.5):
        found = value(Predictor(kind=kind, order=2, curvature=curvature), (4, 2, 0), 5)
        assert found == pytest.approx(line + curvature * (whole - line))
    for times in ((4, 2), (4,)):  # short histories have no curvature yet
        damped, plain = Predictor(kind=kind, order=3, curvature=0.5), Predictor(kind=kind, order=3)
        assert value(damped, times, 5) == value(plain, times, 5)


def test_hold_is_the_newest() -> None:
    assert at(Predictor(), (7, 3), 9) == (1.0,)


def foca_recursion(nodes: list[int], residuals: list[Fraction], step: int) -> Fraction:
    """Forecast and correct step by step, in exact fractions; nodes and residuals newest first."""
    current, slope = residuals[0], (residuals[0] - residuals[1]) / (nodes[0] - nodes[1])
    before = current - slope
    if len(nodes) > 2:
        older_slope = (residuals[1] - residuals[2]) / (nodes[1] - nodes[2])
        before = residuals[1] + older_slope * (nodes[0] - 1 - nodes[1])
    for k in range(1, step - nodes[0] + 1):
        forecast = 2 * current - before
        before, current = current, residuals[0] + Fraction(k, 2) * (slope + (forecast - current))
    return current


def test_foca_by_hand() -> None:
    """Residuals 0, 2, 10 computed at 0, 2, 6: slopes 1 and 2, and what stood at step 5 was 5."""
    residuals = [Fraction(10), Fraction(2), Fraction(0)]
    first = 10 + Fraction(1, 2) * (2 + (10 - 5))
    assert foca_recursion([6, 2, 0], residuals, 7) == first
    assert foca_recursion([6, 2, 0], residuals, 8) == 10 + 2 * Fraction(1, 2) * (2 + (first - 10))


@given(times, aheads, st.lists(st.integers(-9, 9), min_size=3, max_size=3))
def test_foca_is_its_recursion(nodes: list[int], ahead: int, residuals: list[int]) -> None:
    predictor, step = Predictor(kind="foca"), nodes[0] + ahead
    known = nodes[:3]
    found = sum(w * r for w, r in zip(at(predictor, nodes, step), residuals, strict=False))
    exact = [Fraction(r) for r in residuals[: len(known)]]
    expected = exact[0] if len(known) < 2 else foca_recursion(known, exact, step)
    assert found == pytest.approx(float(expected), abs=1e-9 * (1 + max(map(abs, at(predictor, nodes, step)))))


def test_gamma_is_the_product_of_the_gammas_since_the_computed_step() -> None:
    gammas = [1.0, 1.2, 1.1, 0.9, 0.8, 1.0]
    sizes = list(itertools.accumulate(gammas, lambda a, b: a * b))
    table = {"x": [i / 5 for i in range(6)], "y": sizes}
    predictor = Predictor.parse({"kind": "gamma", "gamma": table})
    kept = Kept((1.0,), 4.0, 6, no_dot)
    assert weights(predictor, kept) == (pytest.approx(1.1 * 0.9 * 0.8),)
    # twice as many steps: the same share of the way, the same factor
    assert weights(predictor, Kept((2.0,), 8.0, 11, no_dot)) == (pytest.approx(1.1 * 0.9 * 0.8),)


# laws


@given(times, aheads, orders, st.tuples(*[st.integers(-9, 9)] * 5))
def test_newton_is_exact_on_polynomials_of_its_order(
    nodes: list[int], ahead: int, order: int, coefficients: tuple[int, ...]
) -> None:
    assume(len(nodes) > order)

    def f(t: float) -> float:
        return sum(c * t**power for power, c in enumerate(coefficients[: order + 1]))

    step = nodes[0] + ahead
    found = at(Predictor(kind="newton", order=order), nodes, step)
    scale = max(abs(w * f(t)) for w, t in zip(found, nodes, strict=False))
    total = sum(w * f(t) for w, t in zip(found, nodes, strict=False))
    assert total == pytest.approx(f(step), rel=1e-6, abs=1e-9 * scale + 1e-6)


@given(times, aheads, orders, st.lists(st.floats(-100, 100), min_size=6, max_size=6))
def test_taylor_is_the_recurrence(nodes: list[int], ahead: int, order: int, values: list[float]) -> None:
    """Against the recurrence run forward in time on the values, as TaylorSeer does."""
    factors: list[float] = []
    last: int | None = None
    for node, x in zip(nodes[::-1], values, strict=False):
        new = [x]
        for i in range(min(order, len(factors))):
            new.append((new[i] - factors[i]) / (node - (last or 0)))
        factors, last = new, node
    expected, factor = 0.0, 1.0
    for i, derivative in enumerate(factors):
        expected += factor * derivative
        factor *= ahead / (i + 1)
    newest_first = values[: len(nodes)][::-1]
    found = at(Predictor(kind="taylor", order=order), nodes, nodes[0] + ahead)
    total = sum(w * x for w, x in zip(found, newest_first, strict=False))
    assert total == pytest.approx(expected, rel=1e-6, abs=1e-6 * (1 + max(map(abs, found)) * 100))


@pytest.mark.parametrize("kind", SUM_TO_1)
@given(times, aheads, orders)
def test_weights_sum_to_1(kind: str, nodes: list[int], ahead: int, order: int) -> None:
    predictor = Predictor(kind=kind, order=order)
    found = at(predictor, nodes, nodes[0] + ahead)
    assert len(found) <= min(len(nodes), predictor.history)
    assert sum(found) == pytest.approx(1.0, abs=1e-9 * (1 + max(map(abs, found))))


@pytest.mark.parametrize("kind", ["newton", "taylor", "foca"])
@given(times, aheads, st.integers(1, 4), st.floats(-5, 5))
def test_lines_are_drawn_on(kind: str, nodes: list[int], ahead: int, order: int, slope: float) -> None:
    assume(len(nodes) > 1)
    found = at(Predictor(kind=kind, order=order), nodes, nodes[0] + ahead)
    total = sum(w * slope * t for w, t in zip(found, nodes, strict=False))
    scale = 1 + max(map(abs, found)) * 60
    assert total == pytest.approx(slope * (nodes[0] + ahead), abs=1e-8 * scale)


def pade(values: list[list[float]], step: int, nodes: tuple[float, ...] = (20.0, 18.0), **keys) -> Weights:
    def dot(i: int, j: int) -> Tensor:
        return (torch.tensor(values[i]) * torch.tensor(values[j])).sum()[None]

    return weights(Predictor(kind="pade", pade=Pade(**keys)), Kept(nodes, float(step), STEPS, dot))


def test_the_stages_of_pade() -> None:
    old, new = [1.0, 0.0], [1.1, 0.1]
    early = weights(Predictor(kind="pade", pade=Pade(alpha=0.75)), Kept((9.0, 7.0), 10.0, STEPS, no_dot))
    assert early == (0.75, 0.25)
    middle, late = pade([new, old], 22), pade([new, old], 22, (20.0, 18.0), beta=0.5)
    assert [w.tolist() for w in middle] == [w.tolist() for w in late]
    nodes = (44.0, 42.0)
    plain, pushed = pade([new, old], 45, nodes), pade([new, old], 45, nodes, beta=0.5)
    assert [float(b - a) for a, b in zip(plain, pushed, strict=True)] == pytest.approx(
        [0.25, -0.25], abs=1e-6
    )
    assert weights(Predictor(kind="pade"), Kept((9.0,), 30.0, STEPS, no_dot)) == (1.0,)


def test_pade_by_hand() -> None:
    """|R1 - R2| / |R1 + R2| = 1/3, |R1| / |R2| = 2, one gap ahead of the newest."""
    s = 2.718281828459045 ** (-3 / 3)
    denominator = 1 + s / 3 * (2 - 1)
    found = pade([[2.0, 0.0], [1.0, 0.0]], 22, decay=3.0)
    assert [float(w) for w in found] == pytest.approx([(1 + s) / denominator, -s / denominator])
    half = pade([[2.0, 0.0], [1.0, 0.0]], 21, decay=3.0)
    assert [float(w) for w in half] == pytest.approx(
        [(1 + s / 2) / (1 + s / 6), -s / 2 / (1 + s / 6)], rel=1e-6
    )


def test_the_denominator_of_pade_is_at_least_a_half() -> None:
    found = pade([[0.9], [1.0]], 40, (20.0, 19.0), decay=0.05)  # 20 gaps ahead
    s = 2.718281828459045 ** (-0.05 * 0.1 / 1.9)
    assert 1 + s * 20 / 0.05 * -0.1 < 0.5
    assert [float(w) for w in found] == pytest.approx([(1 + 20 * s) / 0.5, -20 * s / 0.5], rel=1e-5)


@pytest.mark.parametrize(
    "values", [[[0.0], [0.0]], [[1.0], [0.0]], [[0.0], [1.0]], [[1.0], [-1.0]], [[1e15]] * 2]
)
def test_pade_stays_finite(values: list[list[float]]) -> None:
    assert all(torch.isfinite(w).all() for w in pade(values, 30))


# keys


@given(
    st.one_of(
        st.builds(Predictor, kind=st.sampled_from(["hold", "newton", "taylor", "foca"]), order=orders),
        st.builds(Predictor, kind=st.just("pade"), pade=st.none() | st.builds(Pade, beta=st.floats(-1, 1))),
        st.builds(
            Predictor,
            kind=st.just("gamma"),
            gamma=st.lists(st.floats(0.1, 9), min_size=3, max_size=3).map(
                lambda y: Calibration(x=(0.0, 0.25, 1.0), y=tuple(y))
            ),
        ),
    )
)
def test_a_predictor_is_read_back_from_yaml(predictor: Predictor) -> None:
    assert Predictor.parse(parse_yaml(dump_yaml(predictor.to_data()))) == predictor


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"kind": "newton", "order": 5}, ["predictor.order", "5", "to 4"]),
        ({"kind": "newton", "curvature": -0.5}, ["predictor.curvature", "-0.5", "to 0"]),
        ({"kind": "newton", "order": 0}, ["predictor.order", "0", "to 1"]),
        ({"kind": "pade", "pade": {"decay": 0.0}}, ["predictor.pade.decay", "0.0"]),
        ({"kind": "pade", "pade": {"lambda": 3}}, ["predictor.pade.lambda", "unknown key", "decay"]),
        ({"kind": "gamma"}, ["predictor.gamma", "missing"]),
        ({"kind": "gamma", "gamma": {"x": [0, 0.5], "y": [1, 1]}}, ["predictor.gamma.x", "0.5", "0 to 1"]),
        ({"kind": "gamma", "gamma": {"x": [0, 1], "y": [1.0, 0.0]}}, ["predictor.gamma.y", "above 0"]),
    ],
)  # fmt: skip
def test_a_wrong_predictor_is_explained(keys: dict[str, object], told: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Policy.from_pattern("F.F", predictor=keys)
    assert all(part in str(caught.value) for part in told), str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_history_a_predictor_reads() -> None:
    table = Calibration(x=(0.0, 1.0), y=(1.0, 2.0))
    read = {
        "hold": 1, "newton": 4, "taylor": 4, "pade": 2, "foca": 3, "gamma": 1,
    }  # fmt: skip
    for kind, count in read.items():
        predictor = Predictor(kind=kind, order=3, gamma=table)
        assert predictor.history == count
        assert Policy.from_pattern("F.F", predictor=predictor).history >= count


# the corrector's keys


def corrected(steps: str, **corrector: object) -> Policy:
    return Policy.parse(
        {"controller": {"kind": "pattern", "steps": steps}, "corrector": {"kind": "affine", **corrector}}
    )


def test_a_corrector_is_read_back() -> None:
    policy = corrected("F.F", slope=[0, [0.5, 0.25], 0.0], offset=[0.0, 1.0, 0.0])
    assert policy.corrector == Affine(slope=(0.0, (0.5, 0.25), 0.0), offset=(0.0, 1.0, 0.0))
    assert policy.corrector.channels == 2
    assert Policy.parse(parse_yaml(dump_yaml(policy.to_data()))) == policy
    none = {"controller": {"kind": "interval", "every": 2}, "corrector": {"kind": "none"}}
    assert Policy.parse(none).to_data()["corrector"] == {"kind": "none"}
    assert "corrector" not in Policy.from_pattern("F").to_data()


@pytest.mark.parametrize(
    ("corrector", "told"),
    [
        ({"slope": [0.0] * 3}, ["corrector.offset", "missing"]),
        ({"slope": [0.0] * 3, "offset": [0.0] * 2}, ["corrector.offset", "2", "3"]),
        ({"slope": [0.0] * 2, "offset": [0.0] * 2}, ["corrector.slope", "2 entries", "3 steps"]),
        ({"slope": [0, [1.0], 0], "offset": [0, [1.0, 2.0], 0]}, ["corrector.slope", "1", "2", "channel"]),
        ({"slope": [0.0, float("nan"), 0.0], "offset": [0.0] * 3}, ["corrector.slope.1", "nan"]),
        ({"slope": [0.0, [0.0, float("inf")], 0.0], "offset": [0.0] * 3}, ["corrector.slope.1", "inf"]),
        ({"slope": [0.0, [], 0.0], "offset": [0.0] * 3}, ["corrector.slope.1", "[]"]),
        ({"slope": "none", "offset": [0.0] * 3}, ["corrector.slope", "list"]),
    ],
)  # fmt: skip
def test_a_wrong_corrector_is_explained(corrector: dict[str, object], told: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        corrected("F.F", **corrector)
    assert all(part in str(caught.value) for part in told), str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_corrector_is_explained() -> None:
    with pytest.raises(ConfigError, match=r"corrector\.kind: got 'afine'; allowed: affine, mlp, none"):
        Policy.parse({"controller": {"kind": "interval", "every": 2}, "corrector": {"kind": "afine"}})


@given(patterns.filter(lambda p: p[0] == "F"), st.integers(1, 90), st.booleans())
def test_a_corrector_is_remapped_with_its_pattern(steps: str, count: int, with_sigmas: bool) -> None:
    table = [float(i) for i in range(len(steps))]
    policy = corrected(steps, slope=table, offset=[-x for x in table])
    known = ([float(-i) for i in range(len(steps))], [float(-i) for i in range(count)]) if with_sigmas else ()
    found = remap(policy, count, *known)
    assert found.num_steps == count == found.corrector.num_steps
    assert found.corrector.slope == tuple(-b for b in found.corrector.offset)
    for i, origin in enumerate(found.corrector.slope):
        if found.controller.steps[i] == ".":
            assert steps[int(origin)] == "."  # the entry of the step whose action was taken
    assert list(found.corrector.slope) == sorted(found.corrector.slope)


def test_a_corrector_gives_an_online_policy_its_number_of_steps() -> None:
    policy = Policy.parse(
        {
            "controller": {"kind": "dual-threshold", "critical": 0.3},
            "corrector": {"kind": "affine", "slope": [0.0, 1.0, 2.0], "offset": [0.0] * 3},
        }
    )
    assert policy.num_steps == 3
    assert remap(policy, 5).corrector.slope == (0.0, 1.0, 1.0, 2.0, 2.0)
    assert remap(policy, 3) is policy


# the learned corrector


def learned(weights: str) -> Policy:
    corrector = {"kind": "mlp", "weights": weights, "sha256": "0" * 64}
    return Policy.parse({"controller": {"kind": "pattern", "steps": "F.F"}, "corrector": corrector})


def test_weights_lie_beside_the_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    signature = {"family": "dit", "transformer": "DiTTransformer2DModel", "num_steps": 3}
    path = tmp_path / "presets" / "mine.yaml"
    inside, outside = str(tmp_path / "presets/parts/a.safetensors"), str(tmp_path / "b.safetensors")
    for named, written, found in (
        (inside, "parts/a.safetensors", inside),
        (outside, outside, outside),
        ("b.safetensors", outside, outside),  # of a bare policy: from the current directory
    ):
        save_preset(Preset.parse({"name": "mine", "model": signature, "policy": learned(named)}), path)
        data = read_yaml(path)
        assert isinstance(data, dict)
        assert data["policy"]["corrector"]["weights"] == written
        corrector = load_preset(path).policy.corrector
        assert isinstance(corrector, Mlp)
        assert corrector.weights == found
    data["policy"]["corrector"]["weights"] = "c.safetensors"
    path.write_text(dump_yaml(data))
    monkeypatch.chdir(tmp_path / "presets")  # a bare file name has no folder
    for name in (path, "mine.yaml", "../presets/mine.yaml"):
        corrector = load_preset(name).policy.corrector
        assert corrector == Mlp(weights=str(tmp_path / "presets/c.safetensors"), sha256="0" * 64)
    assert remap(learned("a"), 5).corrector == learned("a").corrector


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"sha256": "12ab"}, "sha256"), ({"weights": ""}, "weights"), ({"hidden": 3}, "hidden")],
)
def test_a_wrong_learned_corrector_is_explained(changes: dict[str, object], key: str) -> None:
    data = {**learned("a").to_data()["corrector"], **changes}
    with pytest.raises(ConfigError, match=rf"^corrector\.{key}: "):
        Policy.parse({"controller": {"kind": "interval", "every": 2}, "corrector": data})
