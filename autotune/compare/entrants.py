"""Entrants: every point of every method that a comparison measures, made from the profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autotune.compare.makers import Bench, make
from autotune.compare.recipe import OWN, Peer, Recipe
from autotune.scoring.lesson import Learned
from autotune.scoring.sampling import REFERENCE, Sampling, preset_sampling
from autotune.search.lessons import Lessons
from autotune.search.store import RunFolder
from xslim.errors import ConfigError
from xslim.policy.policy import Policy
from xslim.policy.preset import load_preset


@dataclass(frozen=True)
class Entrant:
    """One point of a method.

    Attributes:
        id: names it in files.
        method: its method.
        title: as its authors call the method.
        source: where the method was published.
        config: its knob, and what else tells its point.
        policy: what runs; None for another library's cache.
        sampling: how it is sampled.
        peer: the other library's cache.
        preset: of our own rows, the file.
        learn: lesson -> its settings, in the order they are learned.
    """

    id: str
    method: str
    title: str
    source: str
    config: dict[str, Any]
    policy: Policy | None = None
    sampling: Sampling = REFERENCE
    peer: Peer | None = None
    preset: str | None = None
    learn: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class NotRun:
    """A point that cannot be measured, and why."""

    method: str
    config: dict[str, Any]
    reason: str


def own_entrants(folder: RunFolder, files: Sequence[str]) -> list[Entrant]:
    """The presets of a search.

    Args:
        folder: of the search.
        files: presets relative to it, as its summary lists them.
    """
    found = []
    for file in files:
        preset = load_preset(str(folder.path / file))
        sampling = preset_sampling(preset)
        config = {"preset": Path(file).stem, **_told(sampling)}
        named = Entrant(Path(file).stem, OWN, "X-Slim, tuned", "this project", config, preset=file)
        found.append(replace(named, policy=preset.policy, sampling=sampling))
    return found


def entrants_of(recipe: Recipe, bench: Bench, points: int) -> list[Entrant | NotRun]:
    """Make a method's points, those to be learned still unlearned."""
    found: list[Entrant | NotRun] = []
    for value in recipe.sweep.points(points):
        point = recipe.at(value)
        named = Entrant(point.point, point.method, point.title, point.source, point.config, learn=point.learn)
        if point.peer is not None:
            found.append(replace(named, peer=point.peer))
            continue
        try:
            made = make(point, bench)
        except ConfigError as error:
            found.append(NotRun(point.method, point.config, str(error)))
            continue
        config = {**point.config, **_told(made.sampling)}
        found.append(replace(named, policy=made.policy, sampling=made.sampling, config=config))
    return found


def _told(sampling: Sampling) -> dict[str, Any]:
    """How a point is sampled, for its configuration."""
    data = sampling.to_data()
    return data if sampling.scheduler is None else {**data, "scheduler": str(sampling.scheduler)}


def learned_entrants(entrants: Sequence[Entrant], lessons: Lessons) -> list[Entrant | NotRun]:
    """Let a method's points learn, in turn what each says; all of them have the same lessons."""
    found: list[Entrant | NotRun] = list(entrants)
    for name in dict.fromkeys(name for one in entrants for name in one.learn):
        todo = [(i, one) for i, one in enumerate(found) if isinstance(one, Entrant) and one.policy]
        given = [Learned(one.policy, one.sampling) for _, one in todo if one.policy is not None]
        settings = [one.learn[name] for _, one in todo]
        for (i, one), learned in zip(todo, lessons.learn_all(given, name, settings), strict=True):
            if isinstance(learned, str):
                found[i] = NotRun(one.method, one.config, learned)
            else:
                found[i] = replace(one, policy=learned.policy, sampling=learned.sampling)
    return found
