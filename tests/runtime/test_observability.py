"""What a session says of itself: its summary, its log, and the health that it reads late on a GPU."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from diffusers import DiTPipeline

import xslim
from tests.tiny import TINY, dit, generate, noise, sample
from xslim import Policy
from xslim.policy.decision import Action
from xslim.runtime.health import Health

DIT = TINY["DiTTransformer2DModel"]


def test_a_summary_says_what_happened(pipe: DiTPipeline, mixed: Policy) -> None:
    with xslim.attach(pipe, mixed, num_steps=8) as session:
        generate(pipe, 8, batch=2)
        trace = session.trace
        generate(pipe, 8, batch=2)
    summary = session.summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary["policy"] == "pattern"
    assert summary["preset"] is None
    first, second = summary["requests"]
    assert first == second
    assert first["actions"] == "FFB.FT.F"
    assert first["shares"] == {"full": 0.5, "block": 0.125, "token": 0.125, "skip": 0.25}
    assert first["counts"] == {action.value: trace.count(action) for action in Action}
    assert first["compute_fraction"] == trace.compute_fraction
    assert len(first["errors"]) == 8
    assert first["held_bytes"] == session.peak_held_bytes > 0
    assert first["note"] is None
    totals = summary["totals"]
    assert (totals["requests"], totals["steps"]) == (2, 16)
    assert totals["shares"] == first["shares"]
    assert totals["compute_fraction"] == pytest.approx(trace.compute_fraction)
    assert totals["mismatches"] == {}


def test_the_curve_of_errors_is_the_controllers(pipe: DiTPipeline, adaptive: Policy) -> None:
    with xslim.attach(pipe, adaptive, num_steps=12) as session:
        generate(pipe, 12, batch=2)
    (request,) = session.summary()["requests"]
    assert request["errors"] == [record.decisions[0].err for record in session.trace.records]
    assert max(request["errors"]) > 0
    for error, action in zip(request["errors"], request["actions"], strict=True):
        assert error == 0 or action != "F"


def test_totals_outlive_the_requests_that_are_kept() -> None:
    model, start = dit(num_layers=1), noise(DIT, 1)
    with xslim.attach(model, Policy.from_pattern("F."), num_steps=2) as session:
        for _ in range(103):
            sample(DIT, model, 2, start)
    totals = session.summary()["totals"]
    assert len(session.requests) == len(session.summary()["requests"]) == 100
    assert (totals["requests"], totals["steps"], totals["shares"]["skip"]) == (103, 206, 0.5)


def test_mismatches_aborts_and_nonfinite_events_are_counted(pipe: DiTPipeline) -> None:
    from tests.runtime.test_presets import preset_for

    preset = preset_for(pipe)
    with xslim.attach(pipe, preset) as session:
        generate(pipe, 5)
        generate(pipe, 8)
        generate(pipe, 5)
    summary = session.summary()
    assert summary["preset"] == "test"
    totals = summary["totals"]
    assert (totals["requests"], totals["mismatched"]) == (3, 2)
    assert list(totals["mismatches"].values()) == [2]
    assert [r["note"] for r in summary["requests"]] == ["policy not applied", None, "policy not applied"]
    assert totals["note"] is None


def test_one_log_line_a_request(pipe: DiTPipeline, mixed: Policy, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "xslim.runtime.session"):
        with xslim.attach(pipe, mixed, num_steps=8):
            generate(pipe, 8)
            generate(pipe, 8)
        with xslim.attach(pipe, Policy.from_pattern("FF"), num_steps=8):
            generate(pipe, 8)
    lines = [r.getMessage() for r in caplog.records if r.name == "xslim.runtime.session"]
    assert len(lines) == 3
    assert all(line.startswith("request {") and "\n" not in line for line in lines)
    data = [json.loads(line.removeprefix("request ")) for line in lines]
    assert [d["request"] for d in data] == [1, 2, 1]
    assert [d["actions"] for d in data] == ["FFB.FT.F", "FFB.FT.F", "F" * 8]
    assert [d["note"] for d in data] == [None, None, "never skipped"]


def test_a_session_without_requests_has_a_summary() -> None:
    with xslim.attach(dit(), Policy.from_pattern("F."), num_steps=2) as session:
        totals = session.summary()["totals"]
    assert totals["requests"] == 0
    assert totals["note"] is None
    assert totals["compute_fraction"] == 1.0


def residual(*bad: int) -> torch.Tensor:
    values = torch.zeros(3, 4, 5)
    values[list(bad), 1, 2] = torch.nan
    return values


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_health_is_of_the_newest_residuals_and_of_those_unread(device: str) -> None:
    def sick(waits: bool = True) -> list[int] | None:
        flags = health.flags(waits)
        return None if flags is None else flags.isnan().nonzero().flatten().tolist()

    health = Health()
    assert sick() is None
    health.note(residual(1).to(device))
    assert sick() == sick() == [1]  # as often as it is asked for
    health.note(residual(2).to(device))
    assert sick() == [2]  # what was read before is not told again
    health.note(residual(0).to(device))
    health.note(residual().to(device))
    assert sick() == [0]  # nobody had read it
    health.note(None)
    assert sick() is None
    assert health.tensors() == []


@pytest.mark.gpu
def test_health_does_not_wait_for_a_gpu() -> None:
    health = Health()
    values = residual(1).cuda()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        health.note(values)
        early = health.flags(waits=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    late = health.flags(waits=False)
    assert late is not None
    assert late.device.type == "cpu"
    assert late.isnan().tolist() == [False, True, False]
    assert early is None or torch.equal(early.isnan(), late.isnan())
