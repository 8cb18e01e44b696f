"""Reference outputs over whole searches: whoever needs one, the uncached model draws it once."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from autotune.scoring import evaluator as evaluator_module
from autotune.scoring.evaluator import EvaluatorSpec, PipelineEvaluator
from autotune.scoring.measurement import Latency
from autotune.scoring.nets.spec import MetricsSpec
from autotune.scoring.pipeline import ModelSpec
from autotune.scoring.reference import stored
from autotune.search.executor import EvaluatorFactory, Task, TaskResult, perform
from autotune.search.experiment import Experiment
from autotune.search.run import SearchRun, references_folder
from autotune.search.space import SearchSpace
from autotune.search.store import RunFolder
from autotune.search.tracker import NullTracker
from tests.search.support import SPACE

ROOT = Path(__file__).parents[2]
MODEL = str(ROOT / "experiments/models/dit-digits")
NET = str(ROOT / "experiments/models/digits-classifier")
STEPS = 4
LATENCY = Latency((0.5, 0.5), 1.0, 0.6, 2, 0.01)


@dataclass
class Counts:
    """Calls of uncached transformers, by the noise that the request began with."""

    calls: Counter[int] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def watch(self, transformer: torch.nn.Module) -> None:
        started: list[int] = []

        def before(module: Any, args: Any, kwargs: Any) -> None:
            if "_diffusers_hook" in vars(module):  # a policy is attached: no reference
                started.clear()
                return
            latents = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            if int(kwargs["timestep"].flatten()[0]) > 1000 * (1 - 1.5 / STEPS):  # the first of a request
                started[:] = [hash(latents.numpy().tobytes())]
            with self.lock:
                self.calls[started[0]] += 1

        transformer.register_forward_pre_hook(before, with_kwargs=True)


class ThreadExecutor:
    """Two workers, each with a pipeline of its own, at work at the same time."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._tasks: queue.Queue[Task | None] = queue.Queue()
        self._results: queue.Queue[TaskResult] = queue.Queue()
        self._threads: list[threading.Thread] = []

    @property
    def slots(self) -> int:
        return 2

    def start(self, factory: EvaluatorFactory) -> None:
        for _ in range(self.slots):
            evaluator = factory.build()
            assert isinstance(evaluator, PipelineEvaluator)
            self._counts.watch(evaluator._runner.pipe.transformer)
            self._threads.append(threading.Thread(target=self._work, args=(evaluator,)))
            self._threads[-1].start()

    def _work(self, evaluator: PipelineEvaluator) -> None:
        while (task := self._tasks.get()) is not None:
            self._results.put(perform(evaluator, task))

    def submit(self, task: Task) -> None:
        self._tasks.put(task)

    def wait(self, timeout_s: float) -> Sequence[TaskResult]:
        try:
            return [self._results.get(timeout=timeout_s)]
        except queue.Empty:
            return []

    def close(self) -> None:
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Timing runs the uncached model too, and is no matter of references."""
    monkeypatch.setattr(evaluator_module, "paired", lambda *_: LATENCY)
    monkeypatch.setattr(evaluator_module.WorkerFloor, "measure", lambda *_: LATENCY)
    monkeypatch.setattr(evaluator_module.WorkerFloor, "value", lambda *_: 0.01)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(
    folder: Path, shared: Path, counts: Counts, trials: int = 2, seed: int = 0, resume: bool = False
) -> None:
    experiment = Experiment.parse(
        {
            "name": "references",
            "model": {"path": MODEL, "num_steps": STEPS, "guidance_scale": 1.5, "prompts": [3, 5, 7]},
            "search_space": "none",
            "search": {"trials": trials, "certify": 1, "certify_rounds": 1, "warm_starts": 0, "seed": seed},
            "cases": {"search": 2, "holdout": 4, "batch": 2, "sensitivity": 1},
            "metrics": {"net": NET},
            "objectives": ["compute_fraction", "psnr"],
            "references": str(shared),
        }
    )
    space = SearchSpace.parse({"schema_version": 1, "families": {"pattern": SPACE["families"]["pattern"]}})
    family = space.to_data()["families"]["pattern"]
    family["params"]["schedule.full_steps"] = {"type": "int", "low": 2, "high": 3}
    family["params"]["schedule.refreshes"] = {"type": "int", "low": 0, "high": 0}
    space = SearchSpace.parse({"schema_version": 1, "families": {"pattern": family}})
    spec = EvaluatorSpec(
        ModelSpec(MODEL, STEPS, 1.5, device="cpu", batch=2),
        MetricsSpec.digits(NET),
        str(references_folder(experiment, folder)),
    )
    held = RunFolder(folder)
    held.acquire()
    try:
        held.claim(experiment, space.to_data(), resume)
        search = SearchRun(experiment, space, held, ThreadExecutor(counts), spec, NullTracker())
        assert not search.run().interrupted
    finally:
        held.release()


@pytest.mark.usefixtures("untimed")
def test_a_reference_is_drawn_once_by_whoever_needs_it_first(tmp_path: Path) -> None:
    """Two workers, a resumed search, and another search on the same folder of references."""
    counts, shared = Counts(), tmp_path / "shared"
    run(tmp_path / "one", shared, counts)
    # a search batch, 2 held-out ones, and one case of the profile's sensitivity
    assert sorted(counts.calls.values()) == [STEPS] * 4
    assert stored(shared)[0] == 4
    assert not (tmp_path / "one" / "references").exists()
    run(tmp_path / "one", shared, counts, trials=3, resume=True)
    run(tmp_path / "two", shared, counts, seed=1)
    assert sorted(counts.calls.values()) == [STEPS] * 4, "nothing was drawn again"
    assert stored(shared)[0] == 4
