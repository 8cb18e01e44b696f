"""Searches on simulated evaluators: real drivers, studies, spools and actors; only the drawing is a sleep.

Workers import this module, so it loads no torch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.scoring.case import Case
from autotune.scoring.doubles import FormulaEvaluator
from autotune.scoring.measurement import Measurement
from autotune.scoring.sampling import REFERENCE, Sampling
from autotune.search.executor import EvaluatorFactory, Executor, Task, TaskResult
from xslim.policy.policy import Policy
from xslim.policy.preset import Preset

if TYPE_CHECKING:
    from autotune.scoring.evaluator import Evaluator
    from autotune.search.run import Outcome
    from autotune.search.tracker import Tracker

ROUNDS = 2  # timing rounds of trials: they take their time, the profile and the certification none
STEPS = 20
UNIT = {"type": "float", "low": 0.0, "high": 1.0}
# continuous only, so that no two candidates are the same one and every trial is measured
SPACE: dict[str, Any] = {
    "schema_version": 1,
    "families": {
        "online": {
            "base": {"controller": {"kind": "dual-threshold", "critical": 0.3}},
            "params": {
                "controller.critical": {"type": "float", "low": 0.02, "high": 1.5, "log": True},
                "controller.warning_fraction": {"type": "float", "low": 0.2, "high": 0.95},
                "controller.polish": {"type": "categorical", "choices": [[], ["block", "token"]]},
                "block.budget": {"type": "float", "low": 0.25, "high": 0.9},
                "token.budget": {"type": "float", "low": 0.25, "high": 0.9},
                "indicator.signals.modulated_input": UNIT,
                "indicator.signals.latent_velocity": UNIT,
                "indicator.signals.step_table": UNIT,
            },
        }
    },
}
EXPERIMENT: dict[str, Any] = {
    "schema_version": 1,
    "name": "simulated",
    "model": {"path": "simulated/model", "num_steps": STEPS, "prompts": [0, 1, 2]},
    "search_space": "space.yaml",
    "cases": {"search": 8, "holdout": 8, "batch": 8, "sensitivity": 1},
    "metrics": {"net": "net"},
    "objectives": ["latency", "psnr"],
    "bounds": {"psnr_p5": {"min": 5.0}},
    "tiers": {"fast": {"psnr_p5": {"min": 6.0}}},
}


@dataclass(frozen=True, slots=True)
class Simulated(FormulaEvaluator):
    """A measurement of a trial sleeps, and tells when it began and ended."""

    trial_s: float = field(default=0.0, kw_only=True)

    def evaluate(
        self,
        policy: Policy | Preset,
        cases: Sequence[Case],
        timing_rounds: int,
        timed_traces: frozenset[str] = frozenset(),
        sampling: Sampling = REFERENCE,
    ) -> Measurement:
        """As the formula evaluator, for longer."""
        began = time.time()
        if timing_rounds == ROUNDS:
            time.sleep(self.trial_s)
        found = FormulaEvaluator.evaluate(self, policy, cases, timing_rounds, sampling=sampling)
        moments = {"began": f"{began:.3f}", "ended": f"{time.time():.3f}"} if timing_rounds == ROUNDS else {}
        return Measurement(found.quality, found.latency, {**found.environment, **moments})


@dataclass(frozen=True)
class SimulatedFactory:
    """Builds it in a worker."""

    trial_s: float

    def build(self) -> Evaluator:
        """Nothing to load."""
        return Simulated(STEPS, trial_s=self.trial_s)


@dataclass
class Watched:
    """An executor that waits for all its workers, and keeps what came from them.

    Attributes:
        inner: does the work.
        workers: to wait for.
        results: of trials: when each began and ended, and its worker.
        tick: called after each wait.
        waited_s: seconds in `wait`, which are not the driver's own.
        waited_cpu_s: of them, those of the processor.
    """

    inner: Executor
    workers: int
    results: list[tuple[float, float, str]] = field(default_factory=list)
    tick: Callable[[], None] = lambda: None
    waited_s: float = 0.0
    waited_cpu_s: float = 0.0

    @property
    def slots(self) -> int:
        """As the inner executor."""
        return self.inner.slots

    def start(self, factory: EvaluatorFactory) -> None:
        """Start, and wait until all workers have loaded."""
        self.inner.start(factory)
        while self.inner.slots < self.workers:
            self.inner.wait(1.0)

    def submit(self, task: Task) -> None:
        """As the inner executor."""
        self.inner.submit(task)

    def wait(self, timeout_s: float) -> Sequence[TaskResult]:
        """As the inner executor; keeps the moments of trials, and how long it took."""
        began, cpu = time.perf_counter(), time.thread_time()
        found = self.inner.wait(timeout_s)
        self.waited_s += time.perf_counter() - began
        self.waited_cpu_s += time.thread_time() - cpu
        for result in found:
            if isinstance(result.value, Measurement) and "began" in result.value.environment:
                moments = result.value.environment
                self.results.append((float(moments["began"]), float(moments["ended"]), result.worker))
        self.tick()
        return found

    def close(self) -> None:
        """As the inner executor."""
        self.inner.close()


def search(
    out: Path, trials: int, executor: Executor, factory: EvaluatorFactory, resume: bool = False, **more: Any
) -> Outcome:
    """Run a search of so many trials in a folder, its tracker spooled to MLflow.

    Args:
        out: run folder.
        trials: to be told.
        executor: where they run; closed at the end.
        factory: of the workers' evaluators.
        resume: go on with the folder's search.
        more: keys of `search`.
    """
    from autotune.search.experiment import Experiment
    from autotune.search.mlflow_tracker import MLflowTracker
    from autotune.search.run import SearchRun
    from autotune.search.space import SearchSpace
    from autotune.search.store import RunFolder

    settings = {"trials": trials, "timing_rounds": ROUNDS, "certify": 1, "certify_rounds": 1, **more}
    experiment = Experiment.parse({**EXPERIMENT, "search": settings})
    folder = RunFolder(out)
    folder.acquire()
    try:
        folder.claim(experiment, SPACE, resume)
        tracker: Tracker = MLflowTracker(None, out, retry_s=2.0)
        return SearchRun(experiment, SearchSpace.parse(SPACE), folder, executor, factory, tracker).run()
    finally:
        folder.release()


def memory_mb(pid: int | str = "self", private: bool = False) -> float:
    """Megabytes of memory that a process holds; `private` leaves out what it shares with others."""
    kinds = ("Private_Clean", "Private_Dirty") if private else ("Rss",)
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.split(":")[0] in kinds) / 1024


def processes(words: str) -> list[int]:
    """Ids of this user's processes whose command line begins with the words, oldest first."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            mine = entry.stat().st_uid == os.getuid()
            if mine and (entry / "cmdline").read_bytes().startswith(words.encode()):
                found.append(
                    (int((entry / "stat").read_text().rpartition(")")[2].split()[19]), int(entry.name))
                )
        except OSError:  # it ended meanwhile
            continue
    return [pid for _, pid in sorted(found)]


def descendants(pid: int, words: str) -> list[int]:
    """Those of a process's descendants whose command line begins with the words, oldest first."""
    return [each for each in processes(words) if pid in _ancestors(each)]


def _ancestors(pid: int) -> set[int]:
    found: set[int] = set()
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
        found.add(pid)
    return found
