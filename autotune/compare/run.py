"""One comparison from start to end. What the `compare` verb runs."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune.compare.comparison import Comparison
from autotune.compare.document import FILE, read_data
from autotune.compare.entrants import Entrant, NotRun, entrants_of, learned_entrants, own_entrants
from autotune.compare.live import Live
from autotune.compare.makers import Bench
from autotune.compare.methods import choose
from autotune.compare.peers import PeerResult
from autotune.compare.pictures import shown_rows
from autotune.compare.recipe import FEWER, OWN, Recipe
from autotune.compare.taken import Taken, Timing, check_same, kept, read_rows, taken_from, taken_methods
from autotune.scoring.case import Case, make_cases
from autotune.scoring.evaluator import EvaluatorSpec
from autotune.scoring.lesson import Learned
from autotune.scoring.measurement import Measurement
from autotune.scoring.profile import Profile
from autotune.search.certify import measuring_context
from autotune.search.dispatch import Dispatcher
from autotune.search.draining import stop_on_signals
from autotune.search.executor import EvaluatorFactory, Executor
from autotune.search.experiment import Experiment
from autotune.search.lessons import Lessons
from autotune.search.numbers import to_json
from autotune.search.parts import Job, PartStore, measure
from autotune.search.pictures import keep_pictures, write_pictures
from autotune.search.profiling import Profiling
from autotune.search.scorer import Scorer, reference_sets
from autotune.search.store import RunFolder

SUBFOLDER = "comparison"


@dataclass
class CompareRun:
    """Everything a comparison needs; `run` does it. What is measured is kept, so that a second run goes on.

    Attributes:
        experiment: the model, cases and metrics.
        recipes: all that are known.
        folder: of the search whose presets take part, acquired; `comparison.json` goes there.
        executor: where tasks run; started here.
        factory: builds the workers' evaluators.
        spec: the same, for peers in processes of their own.
        command: that reproduces it.
        tell: told how far it is, for people.
        others: comparison whose rows of methods that are not measured here are taken over.
    """

    experiment: Experiment
    recipes: dict[str, Recipe]
    folder: RunFolder
    executor: Executor
    factory: EvaluatorFactory
    spec: EvaluatorSpec
    command: str
    tell: Callable[[str], None] = lambda line: None
    others: Path | None = None
    _done: int = field(default=0)

    def run(self) -> dict[str, Any] | None:
        """Measure; return the content of `comparison.json`, or None when a signal stopped it.

        Raises:
            ConfigError: the input is at fault.
            RunBrokenError: the run cannot go on; what was measured is kept.
        """
        with stop_on_signals() as stopped:
            try:
                self.tell("starting workers")
                self.executor.start(self.factory)
                found = self._own_methods(Dispatcher(self.executor), stopped)
            finally:
                self.executor.close()
            if found is None or stopped.is_set():
                return None
            comparison, entrants = found
            self._peers(comparison, entrants, stopped)  # a peer gets the device for itself
            if stopped.is_set():
                return None
            data = comparison.content(partial=False)
            self.folder.write(FILE, to_json(data))
            return data

    def _own_methods(
        self, dispatcher: Dispatcher, stopped: threading.Event
    ) -> tuple[Comparison, list[Entrant]] | None:
        """All that runs as a policy of ours, and its pictures; and all entrants."""
        search, cases = self._cases()
        profile = self._profile(dispatcher, search, stopped)
        if profile is None:
            return None
        chosen = choose(self.recipes, self.experiment.compare.methods, profile.signature.family)
        comparison = self._begin(dispatcher, cases)
        measured = self._take_over(comparison, chosen)
        entrants = self._entrants(dispatcher, measured, profile, search, comparison, stopped)
        if stopped.is_set():
            return None
        for entrant, result in self._measured(dispatcher, entrants, cases, stopped):
            self._take(comparison, entrant, result, len(entrants))
        if not stopped.is_set():
            self._draw(dispatcher, comparison, entrants, cases)
        return comparison, entrants

    def _peers(self, comparison: Comparison, entrants: Sequence[Entrant], stopped: threading.Event) -> None:
        """Other libraries' caches."""
        settings, folder = self.experiment.compare, self._own / "pictures"
        latency = comparison.baseline.latency
        peers = Live(
            self.spec,
            self._own / "peers",
            measuring_context(self.experiment),
            comparison.cases,
            self._cases()[0][: self.experiment.cases.batch],
            None if latency is None else latency.floor,
            settings.rounds,
            settings.peer_seconds,
            settings.pictures,
            stopped.is_set,
        )
        for entrant, result in peers.measured(entrants):
            measured = result if isinstance(result, str) else result.measurement
            notes = () if isinstance(result, str) else result.notes
            self._take(comparison, entrant, measured, len(entrants), notes)
            if isinstance(result, PeerResult) and result.images is not None:
                write_pictures(folder, entrant.id, result.images, comparison.cases[: settings.pictures])

    def _profile(
        self, dispatcher: Dispatcher, search: tuple[Case, ...], stopped: threading.Event
    ) -> Profile | None:
        cases = self.experiment.cases
        self.tell("profiling the uncached model")
        batch = search[: cases.batch]
        return Profiling(dispatcher, self.folder, batch, cases.sensitivity, stopped.is_set, self.tell).take()

    def _begin(self, dispatcher: Dispatcher, cases: tuple[Case, ...]) -> Comparison:
        self.tell(f"measuring the uncached model on {len(cases)} held-out cases")
        baseline = dispatcher.run("baseline", cases, max(1, self.experiment.compare.rounds)).value
        if not isinstance(baseline, Measurement):
            raise TypeError("a baseline task returned something else")
        summary = self.folder.path / "summary.json"
        return Comparison(
            self.experiment,
            cases,
            comparison_seed(self.experiment),
            baseline,
            Scorer(reference_sets(self.experiment.metrics, baseline)),
            json.loads(summary.read_text()) if summary.exists() else {},
            self.command,
        )

    def _take_over(self, comparison: Comparison, chosen: Sequence[Recipe]) -> list[Recipe]:
        """Take rows of methods that are not measured here; return the methods that are.

        They come from `others`, and from what was taken before. Rows of our presets are taken, too, where the
        folder has no search, and those of fewer steps where nothing is timed here.
        """
        before, settings = read_data(self.folder.path), self.experiment.compare
        now, taken = comparison.content(partial=True), Taken()
        if before is not None and taken_methods(before):
            check_same(now, before, str(self.folder.path), "--resume")
            taken = kept(before)
        if self.others is not None:
            other = read_rows(self.others)
            check_same(now, other, str(self.others), "--rows")
            taken = taken.and_of(taken_from(other))
        if not settings.rounds and settings.methods is not None and FEWER not in settings.methods:
            chosen = [recipe for recipe in chosen if recipe.method != FEWER or FEWER not in taken.methods]
        own = [OWN] if comparison.summary else []
        here = Timing.of(now["environment"], now["cases"]["timed"])
        timing = here if settings.rounds else taken.timing
        measured = [recipe.method for recipe in chosen]
        comparison.taken = taken.without([*measured, *own]).timed_as(timing)
        return list(chosen)

    def _entrants(
        self,
        dispatcher: Dispatcher,
        chosen: Sequence[Recipe],
        profile: Profile,
        search: tuple[Case, ...],
        comparison: Comparison,
        stopped: threading.Event,
    ) -> list[Entrant]:
        """All points, made and learned; those that cannot be are noted."""
        if profile.cost is None:
            raise ValueError("the profile has no cost model")
        bench = Bench(profile, profile.cost.kinds)
        context = measuring_context(self.experiment)
        lessons = Lessons(dispatcher, self._own / "learned", search, context, stopped.is_set)
        files = [member["preset"] for member in comparison.summary.get("front", ())]
        found = own_entrants(self.folder, files)
        for recipe in chosen:
            made = entrants_of(recipe, bench, self.experiment.compare.points)
            points = [point for point in made if isinstance(point, Entrant)]
            if recipe.learn:
                self.tell(f"{recipe.method}: learning")
            before = lessons.spent_s
            learned = learned_entrants(points, lessons)
            if recipe.learn:
                comparison.spend(recipe.method, lessons.spent_s - before)
            found += [point for point in learned if isinstance(point, Entrant)]
            for point in (*made, *learned):
                if isinstance(point, NotRun):
                    comparison.leave_out(point)
        return found

    def _measured(
        self,
        dispatcher: Dispatcher,
        entrants: Sequence[Entrant],
        cases: tuple[Case, ...],
        stopped: threading.Event,
    ) -> Iterator[tuple[Entrant, Measurement | str]]:
        """Measure what runs as a policy of ours, in parts that are kept."""
        rounds, batch = self.experiment.compare.rounds, self.experiment.cases.batch
        store = PartStore(self._own / "parts", measuring_context(self.experiment))
        jobs = [
            Job(entrant.policy, cases, rounds, entrant, entrant.sampling)
            for entrant in entrants
            if entrant.policy is not None
        ]
        for job, result in measure(dispatcher, jobs, batch, store, stopped.is_set):
            yield job.tag, result

    def _take(
        self,
        comparison: Comparison,
        entrant: Entrant,
        result: Measurement | str,
        of: int,
        notes: Sequence[str] = (),
    ) -> None:
        self._done += 1
        place = f"{self._done}/{of} {entrant.id}"
        if isinstance(result, Measurement):
            row = comparison.add(entrant, result, notes)
            speed = "" if row["speedup"] is None else f"{row['speedup']:.2f}x, "
            lpips = row["metrics"].get("lpips")
            self.tell(
                f"{place}: {speed}compute fraction {row['compute_fraction']:.3f}"
                + ("" if lpips is None else f", lpips {lpips:.4g}")
            )
        else:
            comparison.leave_out(NotRun(entrant.method, entrant.config, result))
            self.tell(f"{place}: {result}")
        self.folder.write(FILE, to_json(comparison.content(partial=True)))

    def _draw(
        self,
        dispatcher: Dispatcher,
        comparison: Comparison,
        entrants: Sequence[Entrant],
        cases: tuple[Case, ...],
    ) -> None:
        """Keep pictures of the rows that the report shows."""
        count = self.experiment.compare.pictures
        if not count:
            return
        wanted = shown_rows(comparison.rows)
        self.tell(f"drawing {count} cases under {len(wanted)} policies for the report")
        drawn = {e.id: Learned(e.policy, e.sampling) for e in entrants if e.id in wanted and e.policy}
        keep_pictures(dispatcher, self._own / "pictures", drawn, cases[: self.experiment.cases.batch], count)

    @property
    def _own(self) -> Path:
        return self.folder.path / SUBFOLDER

    def _cases(self) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
        """Search cases, to profile and learn on, and fresh held-out ones."""
        cases, prompts = self.experiment.cases, self.experiment.model.prompts
        search = make_cases(prompts, cases.search, cases.holdout, cases.seed, cases.repeat)[0]
        return search, held_out(self.experiment)


def held_out(experiment: Experiment) -> tuple[Case, ...]:
    """The cases that a comparison measures on."""
    seed, count = comparison_seed(experiment), experiment.compare.cases
    return make_cases(experiment.model.prompts, 0, count, seed, experiment.cases.repeat)[1]


def comparison_seed(experiment: Experiment) -> int:
    """Seed of the held-out cases: not the search's, whose presets were chosen on its own ones."""
    given = experiment.compare.seed
    return experiment.cases.seed + 1 if given is None else given
