"""Traces: their figures, and the round trip through JSON lines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xslim.policy.decision import Action, Decision
from xslim.policy.trace import StepRecord, Trace

finite = st.floats(0, 1e12)
decisions = st.builds(
    Decision,
    action=st.sampled_from(Action),
    reason=st.text(max_size=9),
    err=finite,
    compute_blocks=st.none() | st.lists(st.booleans(), max_size=4).map(tuple),
    nonfinite=st.booleans(),
)
rows = st.integers(1, 3).flatmap(
    lambda n: st.builds(
        StepRecord,
        step=st.integers(0, 99),
        branch=st.sampled_from(["cond", "uncond"]),
        decisions=st.lists(decisions, min_size=n, max_size=n).map(tuple),
        readings=st.lists(st.dictionaries(st.text(max_size=5), finite), min_size=n, max_size=n).map(tuple),
        macs=finite,
        full_macs=finite,
    )
)


@given(st.lists(rows, max_size=6))
def test_json_lines_round_trip(records: list[StepRecord]) -> None:
    trace = Trace(records)
    text = trace.to_json_lines()
    assert Trace.from_json_lines(text.splitlines()) == trace
    assert len(text.splitlines()) == len(records)


def record(step: int, branch: str, actions: str, macs: float) -> StepRecord:
    made = tuple(Decision(Action(a), "test", nonfinite=a == "F" and step == 1) for a in actions)
    return StepRecord(step, branch, made, ({},) * len(actions), macs, 10.0)


def test_figures() -> None:
    trace = Trace(
        [record(0, "c", "FF", 10), record(0, "u", "F", 10), record(1, "c", ".F", 5), record(1, "u", "B", 7)]
    )
    assert trace.actions == "F."
    assert trace.actions_of("c", 1) == "FF"
    assert trace.all_actions == ("F.", "FF", "FB")
    assert trace.compute_fraction == 32 / 40
    assert trace.nonfinite == 1
    assert trace.count(Action.FULL) == 4
    assert trace.branches == ("c", "u")


def test_an_empty_trace() -> None:
    assert Trace().actions == ""
    assert Trace().compute_fraction == 1.0
    assert Trace().all_actions == ()
