"""What the searches of `bench_search_efficiency.py` share: a problem a model, evaluations kept on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT

import autotune
import xslim
from autotune.scoring.case import Case, make_cases
from autotune.scoring.cost import CostModel
from autotune.scoring.environment import device_name
from autotune.scoring.evaluator import Evaluator
from autotune.scoring.lesson import Learned, Lesson
from autotune.scoring.measurement import Latency, Measurement, Pictures, Quality
from autotune.scoring.nets.loaded import load_nets
from autotune.scoring.pipeline import PipelineRunner
from autotune.scoring.profile import Profile
from autotune.scoring.reference import ReferenceStore
from autotune.scoring.sampling import REFERENCE, Sampling
from autotune.scoring.scores import paired_values
from autotune.search.experiment import Experiment, load_experiment
from autotune.search.run import evaluator_spec, model_spec
from xslim.policy.policy import Policy
from xslim.policy.preset import Preset

SEARCH, HOLDOUT, BATCH = 8, 16, 8
SHORT_STEPS = 10  # of uncached sampling, whose LPIPS is the reference point's
SETTINGS = (
    f"cases.search={SEARCH}",
    f"cases.holdout={HOLDOUT}",
    f"cases.batch={BATCH}",
    "cases.seed=0",
    "objectives=[compute_fraction, lpips]",
    "bounds={}",
    "tiers={}",
    "executor.kind=local",
    "tracking.kind=none",
)
REQUEST = ("num_steps", "guidance_scale", "height", "width", "arguments")  # keys of `model`
# nothing is timed: what the search needs to go on, and no objective reads
UNTIMED = Latency(log_ratios=(0.0, 0.0), baseline_s=1.0, candidate_s=1.0, batch=BATCH, floor=0.0)
Point = tuple[float, float]  # compute fraction, LPIPS


@dataclass(frozen=True)
class Problem:
    """One model's search problem: the same cases, metrics and stored evaluations for every method.

    Attributes:
        model: name of an experiment of `experiments/`.
        out: folder of all results.
    """

    model: str
    out: Path

    @property
    def folder(self) -> Path:
        """Everything of this model."""
        return self.out / self.model

    def experiment(self, *overrides: str) -> Experiment:
        """Return the experiment with the benchmark's settings, and others."""
        path = ROOT / "experiments" / f"{self.model}.yaml"
        return load_experiment(path, [*SETTINGS, f"references={self.folder / 'references'}", *overrides])

    @cached_property
    def cases(self) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
        """Search and held-out cases."""
        experiment = self.experiment()
        return make_cases(experiment.model.prompts, SEARCH, HOLDOUT, 0)

    @cached_property
    def identity(self) -> str:
        """Hash of the weights, the request and the cases: what makes results comparable."""
        experiment = self.experiment()
        model = experiment.model.to_data()
        facts = {
            "weights": [
                _hash_files(Path(str(p)), "*.safetensors") for p in (model["path"], experiment.metrics.net)
            ],
            "scheduler": _hash_files(Path(model["path"]) / "scheduler", "*.json"),
            "request": {key: model.get(key) for key in REQUEST},
            "cases": [[asdict(case) for case in cases] for cases in self.cases],
        }
        return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @property
    def shape(self) -> tuple[int, int]:
        """Denoising steps and transformer blocks."""
        model = self.experiment().model
        config = json.loads((Path(model.path) / "transformer" / "config.json").read_text())
        return model.num_steps, config["num_layers"] + config.get("num_single_layers", 0)

    def real(self) -> Evaluator:
        """Load what draws and measures, on one thread, so that sums round alike everywhere."""
        return evaluator_spec(self.experiment(), self.folder, threads=1).build()

    def evaluator(self, log: Path | None) -> StoredEvaluator:
        """Return an evaluator that keeps what it measures, and counts pictures in a log."""
        return StoredEvaluator(self, log)

    def reference(self) -> Point:
        """The hypervolume's reference point: all computed, and the LPIPS of uncached 10-step sampling."""
        path = self.folder / f"reference-{self.identity[:16]}.json"
        if not path.exists():
            write_json(path, [1.0, self._short_lpips()])
        compute, lpips = json.loads(path.read_text())
        return compute, lpips

    def _short_lpips(self) -> float:
        experiment = self.experiment()
        runner = PipelineRunner(model_spec(experiment))
        nets = load_nets(experiment.metrics.spec().absolute(), runner.device)
        store = ReferenceStore(self.folder / "references", runner)
        values = []
        for batch in runner.batches(self.cases[1]):
            with runner.sampled(Sampling(num_steps=SHORT_STEPS)):
                drawn = runner.draw(batch)
            values.append(paired_values(drawn, store.outputs(batch), nets)[0]["lpips"])
        write_json(self.folder / "device.json", device_name(runner.device))
        return float(np.concatenate(values).mean())


@dataclass
class StoredEvaluator:
    """An evaluator whose results are kept on disk, by what was asked and the code that answered.

    It times nothing and keeps no features. Every drawing of a search case is noted in the log, also when
    its result was there already, because another search's luck must not make this one look cheaper.

    Attributes:
        problem: what is searched.
        log: where drawings are noted; None notes none.
    """

    problem: Problem
    log: Path | None
    _noted: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._store = self.problem.folder / "store"
        self._prefix = f"{self.problem.identity}/{code_sha256()}"
        if self.log is not None and self.log.exists():
            self._noted = {json.loads(line)["key"] for line in self.log.read_text().splitlines()}

    @property
    def device(self) -> str:
        """The same for all: nothing is timed."""
        return "any"

    def build(self) -> Evaluator:
        """Return itself: an evaluator is its own factory in this process."""
        return self

    @cached_property
    def _real(self) -> Evaluator:
        return self.problem.real()

    def evaluate(
        self,
        policy: Policy | Preset,
        cases: Sequence[Case],
        timing_rounds: int,
        timed_traces: frozenset[str] = frozenset(),
        sampling: Sampling = REFERENCE,
    ) -> Measurement:
        """Measure a policy, or return what was measured of it before; nothing is timed."""
        bare = policy.policy if isinstance(policy, Preset) else policy
        found = self._kept(
            "evaluate",
            cases,
            bare.to_data() | sampling.to_data(),
            lambda: _quality_data(self._real.evaluate(bare, cases, 0, sampling=sampling).quality),
        )
        self._note_references(cases)
        return Measurement(_quality(found, cases), UNTIMED if timing_rounds else None)

    def baseline(self, cases: Sequence[Case], timing_rounds: int) -> Measurement:
        """Measure the uncached model against itself; nothing is timed."""
        found = self._kept(
            "baseline", cases, None, lambda: _quality_data(self._real.baseline(cases, 1).quality)
        )
        return Measurement(_quality(found, cases), UNTIMED)

    def profile(self, cases: Sequence[Case]) -> Profile:
        """Take the profile."""
        return Profile.from_json(
            self._kept("profile", cases, None, lambda: self._real.profile(cases).to_json())
        )

    def probe(self, cases: Sequence[Case], step: int) -> float:
        """Hold the residual at one step."""
        self._note_references(cases)
        return float(self._kept("probe", cases, step, lambda: self._real.probe(cases, step)))

    def cost_model(self, cases: Sequence[Case], patterns: int) -> CostModel:
        """Fit the cost; not kept, because seconds are no part of this benchmark."""
        return self._real.cost_model(cases, patterns)

    def draw(self, policy: Policy | Preset | None, cases: Sequence[Case], sampling: Sampling) -> Pictures:
        """Draw; not kept, because no search looks at pictures."""
        return self._real.draw(policy, cases, sampling)

    def learn(self, lesson: Lesson, given: Learned, cases: Sequence[Case]) -> Learned:
        """Learn; not kept, because no search does."""
        return self._real.learn(lesson, given, cases)

    @property
    def images(self) -> int:
        """Pictures of search cases that were noted in the log."""
        if self.log is None or not self.log.exists():
            return 0
        return sum(json.loads(line)["pictures"] for line in self.log.read_text().splitlines())

    def _kept(self, kind: str, cases: Sequence[Case], subject: Any, measure: Any) -> Any:
        facts = [self._prefix, kind, [asdict(case) for case in cases], subject]
        key = sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        path = self._store / key[:2] / f"{key}.json"
        if not path.exists():
            write_json(path, measure())
        self._note(key, cases)
        return json.loads(path.read_text())

    def _note_references(self, cases: Sequence[Case]) -> None:
        for start in range(0, len(cases), BATCH):
            batch = cases[start : start + BATCH]
            self._note(f"reference {[asdict(case) for case in batch]}", batch)

    def _note(self, key: str, cases: Sequence[Case]) -> None:
        searched = set(self.problem.cases[0])
        if self.log is None or key in self._noted or not searched.issuperset(cases):
            return
        self._noted.add(key)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as file:
            file.write(json.dumps({"key": key, "pictures": len(cases)}) + "\n")


def point(measurement: Measurement) -> Point:
    """Compute fraction and mean LPIPS."""
    quality = measurement.quality
    return quality.compute_fraction, float(quality.rows["lpips"].mean())


def code_sha256() -> str:
    """Hash the code that a measurement depends on: the runtime and the scoring."""
    folders = (Path(xslim.__file__).parent, Path(autotune.__file__).parent / "scoring")
    return sha256("".join(_hash_files(folder, "*.py") for folder in folders).encode()).hexdigest()


def write_json(path: Path, value: object) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(value) + "\n")
    part.replace(path)


def _hash_files(folder: Path, pattern: str) -> str:
    digest = sha256()
    for path in sorted(p for p in folder.rglob(pattern) if p.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _quality_data(quality: Quality) -> dict[str, Any]:
    data = asdict(replace(quality, cases=(), features={}, rows={}))
    return {**data, "rows": {name: values.tolist() for name, values in quality.rows.items()}}


def _quality(data: dict[str, Any], cases: Sequence[Case]) -> Quality:
    rows = {name: np.asarray(values, dtype=np.float64) for name, values in data["rows"].items()}
    return Quality(**{**data, "cases": tuple(cases), "rows": rows})
