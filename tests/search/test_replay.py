"""Replay against explicit residuals, and against the runtime on the trained model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import xslim
from autotune.scoring.doubles import FormulaEvaluator
from autotune.scoring.pipeline import PipelineRunner
from autotune.scoring.profile import TOKEN_BUDGETS, Profile
from autotune.scoring.profiling import take_profile
from autotune.search.replay import Replay
from tests.scoring.conftest import CASES, SPEC
from tests.scoring.conftest import STEPS as DRAWN_STEPS
from tests.search.residuals import HOLD, NEWTON, NEWTON2, of_steps, pattern, random_profile, residual_errors
from xslim.policy.policy import Policy, Predictor

STEPS = 12
BLOCKS = 10  # of the formula's cost model


@pytest.mark.parametrize("predictor", [HOLD, NEWTON, NEWTON2], ids=["hold", "newton", "newton2"])
@pytest.mark.parametrize("computed", [(0,), (0, 1), (0, 3, 4, 9), tuple(range(STEPS))], ids=str)
def test_products_are_those_of_the_residual_errors(predictor: Predictor, computed: tuple[int, ...]) -> None:
    profile, vectors = random_profile(1, STEPS, rows=3)
    replayed = Replay(profile).run(of_steps(computed, STEPS, predictor))
    errors = residual_errors(vectors, predictor, computed)
    assert replayed.products == pytest.approx(np.einsum("rtd,rud->tu", errors, errors) / 3, abs=1e-7)
    assert np.diagonal(replayed.products) == pytest.approx((errors**2).sum(2).mean(0), abs=1e-7)
    letters = "".join("F" if step in computed else "." for step in range(STEPS))
    assert replayed.actions == (letters,) * 3


def test_predictors_have_their_own_weights() -> None:
    """The replay remembers weights; those of one predictor or schedule are not another's."""
    profile, _ = random_profile(1, STEPS)
    replay, policies = Replay(profile), [of_steps((0, 3, 6), STEPS, p) for p in (HOLD, NEWTON, NEWTON2)]
    together = [replay.run(policy).products for policy in policies]
    for found, policy in zip(together, policies, strict=True):
        assert (found == Replay(profile).run(policy).products).all()
    assert not np.allclose(together[0], together[1])


def with_blocks(seed: int) -> Profile:
    """A profile of random residuals of every block, which add up to the stack's."""
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.1, 2, size=(BLOCKS, 1, 1, 1))
    blocks = np.cumsum(rng.normal(size=(BLOCKS, 2, STEPS, 40)) * scale, axis=2)
    whole = blocks.sum(0)
    profile, _ = random_profile(seed, STEPS)
    return replace(
        profile,
        gram=whole @ whole.transpose(0, 2, 1),
        blocks=(blocks @ blocks.transpose(0, 1, 3, 2)).mean(1),
    )


def left_by_blocks(profile: Profile, budget: float, letters: str = "F....B......") -> np.ndarray:
    policy = pattern(letters, block={"budget": budget, "start_block": -1})
    replay = Replay(profile)
    return replay.errors(policy, replay._done(policy, None))


@pytest.mark.parametrize("profile", [with_blocks(1), random_profile(1, STEPS)[0]], ids=["blocks", "none"])
def test_a_block_refresh_keeps_a_share_of_the_old_residual(profile: Profile) -> None:
    """Between all of the skip's error and none of it, and less with every block that is recomputed."""
    budgets = np.linspace(0.1, 1.0, 10)
    shares = []
    for budget in budgets:
        row = left_by_blocks(profile, float(budget))[5]
        share = row[0]
        assert 0.0 <= share <= 1.0
        assert row[5] == pytest.approx(-share), "what is not old is the step's own"
        assert np.count_nonzero(row) in (0, 2)
        shares.append(share)
    assert (np.diff(shares) <= 0).all()
    assert len(set(shares)) > 4
    assert shares[-1] == pytest.approx(0, abs=1e-9)
    skipped = left_by_blocks(profile, 0.5, "F...........")[5]
    assert skipped[0] == 1.0


def test_blocks_that_change_more_leave_more_when_replayed() -> None:
    """Half of the blocks hold all the change: what is left depends on which half is replayed."""
    profile = with_blocks(2)
    still = profile.blocks.copy()
    still[5:] = still[5:, :1, :1]  # these never change
    table = {"kind": "table", "blocks": [[1] * BLOCKS, *[[0] * 5 + [1] * 5] * (STEPS - 1)]}
    other = {"kind": "table", "blocks": [[1] * BLOCKS, *[[1] * 5 + [0] * 5] * (STEPS - 1)]}
    replay = Replay(replace(profile, blocks=still))
    assert replay.run(Policy.parse({"controller": other})).products == pytest.approx(0, abs=1e-9)
    held = replay.run(pattern("F" + "." * (STEPS - 1))).products
    assert replay.run(Policy.parse({"controller": table})).products == pytest.approx(held)


def test_a_refresh_by_position_is_that_of_a_table_with_the_same_blocks() -> None:
    row = [1] * 3 + [0] * 5 + [1] * 2
    table = {"kind": "table", "blocks": [[1] * BLOCKS, row, [0] * BLOCKS, *[[1] * BLOCKS] * (STEPS - 3)]}
    replay = Replay(with_blocks(2))
    by_table = replay.run(Policy.parse({"controller": table}))
    found = replay.run(pattern("FB." + "F" * (STEPS - 3), block={"first": 3, "last": 2}))
    assert found.products == pytest.approx(by_table.products)
    assert found.compute_fraction == pytest.approx(by_table.compute_fraction)
    assert found.products.any()


def test_blocks_of_a_table_are_replayed_from_where_they_last_ran() -> None:
    rows = [[1] * BLOCKS, [1] * 5 + [0] * 5, [0] * BLOCKS, [0] * 5 + [1] * 5, *[[1] * BLOCKS] * (STEPS - 4)]
    policy = Policy.parse({"controller": {"kind": "table", "blocks": rows}})
    replay = Replay(with_blocks(3))
    used = replay.errors(policy, replay._done(policy, None)) + np.eye(STEPS)
    assert used[1] @ np.ones(STEPS) == pytest.approx(1)
    assert np.flatnonzero(used[1]).tolist() == [0, 1]
    assert used[2] == pytest.approx(used[1]), "a skip holds what the refresh left"
    assert np.flatnonzero(used[3]).tolist() == [1, 3], "the first five ran at step 1, the others now"
    assert used[4:] == pytest.approx(np.eye(STEPS)[4:])


def test_a_table_of_ones_has_no_error() -> None:
    policy = Policy.parse({"controller": {"kind": "table", "blocks": [[1] * BLOCKS] * STEPS}})
    replayed = Replay(with_blocks(4)).run(policy)
    assert (replayed.products == 0).all()
    assert replayed.actions == ("F" * STEPS,) * 2
    assert replayed.compute_fraction == pytest.approx(1)


@pytest.mark.parametrize("measured", [True, False])
def test_a_token_refresh_leaves_less_with_every_token(measured: bool) -> None:
    profile, vectors = random_profile(5, STEPS)
    if measured:
        captured = np.sort(np.random.default_rng(0).uniform(0.1, 0.99, (STEPS - 1, len(TOKEN_BUDGETS))))
        profile = replace(profile, tokens=captured)
    replay = Replay(profile)
    skipped = (residual_errors(vectors, HOLD, (0, 1)) ** 2).sum(2).mean(0)[4]
    left = []
    for budget in np.linspace(0.05, 1.0, 20):
        policy = pattern("FF..T.......", token={"budget": float(budget)})
        left.append(float(replay.run(policy).products[4, 4]))
        assert 0.0 <= left[-1] <= skipped + 1e-9
    assert (np.diff(left) < 0).all()
    assert left[-1] == pytest.approx(0, abs=1e-9)
    if measured:
        policy = pattern("FF..T.......", token={"budget": 0.3})
        share = 1.0 - profile.tokens[3, 2]
        assert replay.run(policy).products[4, 4] == pytest.approx(share * skipped)


def test_random_tokens_leave_as_much_of_the_square_as_of_the_tokens() -> None:
    profile, vectors = random_profile(5, STEPS)
    skipped = (residual_errors(vectors, HOLD, (0,)) ** 2).sum(2).mean(0)[4]
    policy = pattern("F...T.......", token={"budget": 0.3, "select": "random"})
    replayed = Replay(profile).run(policy)
    assert replayed.actions[0] == "F...T.......", "one residual is enough"
    assert replayed.products[4, 4] == pytest.approx(0.7 * skipped)


def test_a_refresh_feeds_later_predictions() -> None:
    """Newton reads the refreshed residual as the newest one, at the step of the refresh."""
    profile, _ = random_profile(6, STEPS)
    policy = pattern("FF..T.......", token={"budget": 0.4}, predictor=NEWTON.to_data())
    replay = Replay(profile)
    used = replay.errors(policy, replay._done(policy, None)) + np.eye(STEPS)
    assert used[5] == pytest.approx(used[4] + (used[4] - used[1]) / 3)


# online policies


def online(indicator: dict[str, object], **controller: object) -> Policy:
    rule = {"kind": "dual-threshold", "critical": 0.1, "warmup": 1, "cooldown": 0, **controller}
    return Policy.parse({"controller": rule, "indicator": indicator, "block": {"start_block": 0}})


def test_rows_are_averaged_as_they_decide() -> None:
    profile, vectors = random_profile(7, STEPS, rows=3)
    grown = np.full((STEPS - 1, 3), 0.04)
    grown[:, 1] = 1.0  # the second row computes every step
    replay = Replay(replace(profile, signals={"modulated_input": grown}))
    policy = online({"signals": {"modulated_input": 1.0}}, polish=[])
    replayed = replay.run(policy)
    letters = "".join("F" if step % 3 == 0 else "." for step in range(STEPS))
    assert replayed.actions == (letters, "F" * STEPS, letters), "in the order of the rows"
    errors = residual_errors(vectors, HOLD, tuple(range(0, STEPS, 3)))
    expected = np.einsum("rtd,rud->tu", errors, errors) / 3 * (2 / 3)  # mean row by share of the rows
    assert replayed.products == pytest.approx(expected, abs=1e-7)
    skipping = replay.cost.compute_fraction(pattern(letters))
    measuring = replay.cost.compute_fraction(policy, "F" * STEPS)
    assert replayed.compute_fraction == pytest.approx(skipping * 2 / 3 + measuring / 3, rel=0.02)


def test_undefined_readings_are_no_signal() -> None:
    profile, _ = random_profile(7, STEPS)
    grown = np.full((STEPS - 1, 2), 0.01)
    grown[3] = np.nan
    replay = Replay(replace(profile, signals={"modulated_input": grown}))
    found = replay.run(online({"signals": {"modulated_input": 1.0}}, polish=[], max_consecutive_skips=None))
    assert found.actions[0] == "F...F......."


def test_the_formula_decides_the_same() -> None:
    """The double runs the controller on the curve that its profile holds."""
    formula = FormulaEvaluator(30)
    replay = Replay(formula.profile(()))
    for critical in (0.05, 0.2, 0.6):
        policy = online({"signals": {"modulated_input": 1.0}}, critical=critical, polish=["block"])
        letters = formula.actions(policy)
        assert replay.run(policy).actions == (letters,)
        assert set(letters) >= {"F", "."}


# the trained model


@pytest.fixture(scope="module")
def runner() -> PipelineRunner:
    return PipelineRunner(SPEC)


@pytest.fixture(scope="module")
def profile(runner: PipelineRunner) -> Profile:
    return take_profile(runner, CASES[:2])


def traces(runner: PipelineRunner, policy: Policy) -> tuple[list[str], float]:
    """Letters of every row as the profile orders them, and the compute fraction of the first batch."""
    letters, fractions = [], []
    for batch in runner.batches(CASES[:2]):
        with xslim.attach(runner.pipe, policy, num_steps=DRAWN_STEPS) as session:
            runner.draw(batch)
        letters += session.trace.all_actions
        fractions.append(session.trace.compute_fraction)
    return letters, fractions[0]


def test_a_policy_that_reads_its_table_is_replayed_to_the_letter(
    runner: PipelineRunner, profile: Profile
) -> None:
    table = profile.calibration["step_table"]
    indicator = {"signals": {"step_table": 1.0}, "calibration": {"step_table": table.to_data()}}
    middle = float(np.median(table.y)) / DRAWN_STEPS
    seen = set()
    for critical, polish in ((1.2, []), (2.4, ["block", "token"]), (2.4, ["token"])):
        policy = online(indicator, critical=critical * middle, polish=polish, warning_fraction=0.5)
        letters, fraction = traces(runner, policy)
        replayed = Replay(profile).run(policy)
        assert list(replayed.actions) == letters
        if "B" not in letters[0]:
            assert replayed.compute_fraction == pytest.approx(fraction, rel=1e-12)
        seen |= set(letters[0])
    assert seen >= {"F", "."}
    assert seen & {"B", "T"}


def test_rows_decide_as_the_runtime_until_the_first_skip(runner: PipelineRunner, profile: Profile) -> None:
    """From there on, the runtime reads the signals of a picture that is no longer the uncached one."""
    calibration = {"modulated_input": profile.calibration["modulated_input"].to_data()}
    indicator = {"signals": {"modulated_input": 1.0}, "calibration": calibration}
    growth = profile.calibration["modulated_input"]
    values = sorted(growth(float(v)) for v in profile.signals["modulated_input"].ravel())
    places = set()
    for share in (0.1, 0.5, 0.9):
        critical = values[int(share * len(values))] * 1.0001
        policy = online(indicator, critical=critical, polish=[])
        letters, _ = traces(runner, policy)
        replayed = Replay(profile).run(policy).actions
        for mine, run in zip(replayed, letters, strict=True):
            until = (run + ".").index(".") + 1
            assert mine[:until] == run[:until]
            places.add(until)
    assert len(places) > 1


@pytest.mark.parametrize("letters", ["F.F.F.", "FF..TF", "FFT.T."])
def test_static_patterns_cost_what_the_runtime_counts(
    runner: PipelineRunner, profile: Profile, letters: str
) -> None:
    policy = Policy.from_pattern(letters, start_block=0, token_ratio=0.4)
    run, fraction = traces(runner, policy)
    replayed = Replay(profile).run(policy)
    assert replayed.compute_fraction == pytest.approx(fraction, rel=1e-12)
    assert list(replayed.actions) == run
    assert set(run) == {letters}
