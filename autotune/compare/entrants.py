"""Entrants: every point of every method that a comparison measures, made from the profile."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from autotune.compare.makers import Bench, make
from autotune.compare.methods import OWN
from autotune.compare.recipe import Peer, Recipe
from autotune.scoring.case import Case
from autotune.scoring.lesson import Learned, Lesson
from autotune.scoring.sampling import REFERENCE, Sampling, preset_sampling, sampling_of
from autotune.search.dispatch import Dispatcher, last_line
from autotune.search.executor import TaskResult
from autotune.search.store import RunFolder
from xslim.errors import ConfigError
from xslim.policy.policy import Policy
from xslim.policy.preset import load_preset

log = logging.getLogger(__name__)


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
        config = {"preset": Path(file).stem, **sampling.to_data()}
        named = Entrant(Path(file).stem, OWN, "X-Slim, tuned", "this project", config, preset=file)
        found.append(replace(named, policy=preset.policy, sampling=sampling))
    return found


def entrants_of(recipe: Recipe, bench: Bench, points: int) -> list[Entrant | NotRun]:
    """Make a method's points, those to be learned still unlearned."""
    found: list[Entrant | NotRun] = []
    for value in recipe.sweep.points(points):
        point = recipe.at(value)
        named = Entrant(point.point, point.method, point.title, point.source, point.config)
        if point.peer is not None:
            found.append(replace(named, peer=point.peer))
            continue
        try:
            made = make(point, bench)
        except ConfigError as error:
            found.append(NotRun(point.method, point.config, str(error)))
            continue
        config = {**point.config, **made.sampling.to_data()}
        found.append(replace(named, policy=made.policy, sampling=made.sampling, config=config))
    return found


@dataclass
class Lessons:
    """Learns what methods fit or train on the model; what was learned is kept in a folder.

    Attributes:
        dispatcher: where it runs.
        folder: of the comparison.
        cases: the search cases: nothing is learned from held-out ones.
        context: what all measurements of this run have in common.
        stop: whether to end early.
    """

    dispatcher: Dispatcher
    folder: Path
    cases: tuple[Case, ...]
    context: dict[str, Any]
    stop: Callable[[], bool]

    def learn(self, recipe: Recipe, entrants: Sequence[Entrant]) -> list[Entrant | NotRun]:
        """Let a method's points learn, in turn what its recipe says."""
        found: list[Entrant | NotRun] = list(entrants)
        for name, settings in recipe.learn.items():
            for i, entrant in enumerate(found):
                if self.stop():
                    return found
                if isinstance(entrant, Entrant) and entrant.policy is not None:
                    found[i] = self._learned(entrant, name, settings)
        return found

    def _learned(self, entrant: Entrant, name: str, settings: dict[str, Any]) -> Entrant | NotRun:
        if entrant.policy is None:
            raise ValueError("an entrant without a policy has nothing to learn")
        given = Learned(entrant.policy, entrant.sampling)
        path = self._path(given, name, settings)
        if path.exists():
            data = json.loads(path.read_text())
            given = Learned(Policy.parse(data["policy"]), sampling_of(data["sampling"]))
            return replace(entrant, policy=given.policy, sampling=given.sampling)
        lesson = Lesson(name, settings, str(path.parent.resolve()))
        self.dispatcher.submit(
            "learn", self.cases, policy=given.policy, sampling=given.sampling, lesson=lesson
        )
        results: list[tuple[object, TaskResult]] = []
        while not results:
            results = self.dispatcher.wait()
        value = results[0][1].value
        if not isinstance(value, Learned):
            return NotRun(entrant.method, entrant.config, last_line(results[0][1].error))
        path.parent.mkdir(parents=True, exist_ok=True)
        data = {"policy": value.policy.to_data(), "sampling": value.sampling.to_data()}
        path.write_text(json.dumps(data))
        return replace(entrant, policy=value.policy, sampling=value.sampling)

    def _path(self, given: Learned, name: str, settings: dict[str, Any]) -> Path:
        facts = {
            **self.context,
            "policy": given.policy.to_data(),
            "sampling": given.sampling.to_data(),
            "lesson": [name, settings],
            "cases": [asdict(case) for case in self.cases],
        }
        key = sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return self.folder / "learned" / f"{key}.json"
