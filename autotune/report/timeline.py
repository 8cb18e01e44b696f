"""The timeline of a preset: what it does at every step and block, and the error that it lets grow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autotune.report.sources import Member, Search
from autotune.report.words import ACTIONS
from autotune.scoring.profile import Profile
from autotune.scoring.sampling import preset_sampling
from autotune.search.replay import Replay
from xslim.errors import XSlimError
from xslim.policy.policy import DualThreshold, Policy

ROW = 0  # of the profile, whose recorded signals an online policy is shown on
TINY = 1e-30


@dataclass(frozen=True, slots=True)
class Step:
    """One step.

    Attributes:
        action: its letter.
        about: what is said of it.
    """

    action: str
    about: str


@dataclass(frozen=True, slots=True)
class Curve:
    """An error over the steps.

    Attributes:
        title: what is drawn.
        points: (step, value), in order; several at one step where the value drops there.
        lines: name -> height of the lines that it is held against.
    """

    title: str
    points: tuple[tuple[float, float], ...]
    lines: dict[str, float]

    @property
    def top(self) -> float:
        """Height of the drawing."""
        return max([value for _, value in self.points] + list(self.lines.values()) + [TINY])


@dataclass(frozen=True, slots=True)
class Timeline:
    """What a preset does.

    Attributes:
        name: of the preset.
        steps: as measured, the first sample's.
        curve: None where it cannot be replayed.
        blocks: share of each block that runs, by step and block; empty where all blocks always do the same.
        note: what has to be known of it.
    """

    name: str
    steps: tuple[Step, ...]
    curve: Curve | None
    blocks: tuple[tuple[float, ...], ...]
    note: str


def timelines(search: Search) -> list[Timeline]:
    """Return one timeline for each preset, or of a running search for each trial on its front."""
    rows = {row.trial: row for row in search.rows}
    found = []
    for member in search.members:
        try:
            if member.preset is not None:
                policy, steps = member.preset.policy, member.preset.model.num_steps
                other = preset_sampling(member.preset).scheduler is not None
            else:
                row = rows[member.trial]
                policy, steps = Policy.parse(row.policy), len(row.actions)
                other = "scheduler" in row.sampling
        except (XSlimError, KeyError):
            found.append(_measured(member, "the preset cannot be read"))
            continue
        found.append(_timeline(member, policy, steps, None if other else search.profile))
    return found


def _timeline(member: Member, policy: Policy, num_steps: int, profile: Profile | None) -> Timeline:
    if profile is None or profile.cost is None:
        return _measured(member, "not replayed: there is no profile of this scheduler here")
    reference = None if profile.num_steps == num_steps else profile
    replay = Replay(profile.at_steps(num_steps), reference)
    try:
        if isinstance(policy.controller, DualThreshold):
            return _online(member, policy, policy.controller, replay)
        return _static(member, policy, replay)
    except (XSlimError, ValueError, IndexError) as error:
        return _measured(member, f"not replayed: {error}")


def _measured(member: Member, note: str) -> Timeline:
    return Timeline(member.name, _steps(member.actions), None, (), note)


def _steps(actions: str, reasons: Sequence[str] = ()) -> tuple[Step, ...]:
    return tuple(
        Step(letter, f"step {i}: {ACTIONS.get(letter, letter)}" + (f", {reasons[i]}" if reasons else ""))
        for i, letter in enumerate(actions)
    )


def _online(member: Member, policy: Policy, rule: DualThreshold, replay: Replay) -> Timeline:
    """The estimate before and after every decision: it climbs, and drops where something is computed."""
    judged = replay.judged(policy, ROW)
    letters = "".join(one.decision.action for one in judged)
    points = [
        (float(i), value)
        for i, one in enumerate(judged)
        for value in ((one.decision.err,) if one.estimate is None else (one.estimate, one.decision.err))
    ]
    lines = {"warning": rule.warning, "critical": rule.critical}
    curve = Curve("accumulated error estimate, on the profile's signals", tuple(points), lines)
    differ = sum(a != b for a, b in zip(letters, member.actions, strict=False))
    note = "the estimate is replayed on the signals that the profile recorded without a cache" + (
        f"; {differ} of {len(letters)} actions differ from the measured ones" if differ else ""
    )
    reasons = [one.decision.reason for one in judged] if not differ else ()
    return Timeline(
        member.name, _steps(member.actions, reasons), curve, _blocks(policy, replay, letters), note
    )


def _static(member: Member, policy: Policy, replay: Replay) -> Timeline:
    """The error of the residual that is used in place of each of the reference's."""
    done = replay.run(policy)
    own = np.diagonal(replay.whole.gram.mean(0))
    relative = np.sqrt(np.maximum(np.diagonal(done.products), 0.0) / np.maximum(own, TINY))
    scale = len(member.actions) / max(len(relative), 1)  # a request of fewer steps has wider ones
    points = tuple((i * scale, float(value)) for i, value in enumerate(relative))
    curve = Curve("error of the residual that is used, over the residual's length", points, {})
    note = "replayed on the residuals that the profile recorded"
    return Timeline(member.name, _steps(member.actions), curve, _blocks(policy, replay, None), note)


def _blocks(policy: Policy, replay: Replay, letters: str | None) -> tuple[tuple[float, ...], ...]:
    shares = replay.blocks_run(policy, letters)
    if (shares == shares[:, :1]).all():
        return ()
    return tuple(tuple(round(float(share), 3) for share in row) for row in shares)
