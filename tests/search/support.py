"""A small experiment on the formula evaluator, as files and as objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

from autotune.scoring.doubles import FailingEvaluator, FormulaEvaluator
from autotune.scoring.evaluator import Evaluator
from autotune.search.executor import Executor, LocalExecutor
from autotune.search.experiment import Experiment
from autotune.search.optuna_study import STUDY
from autotune.search.run import Outcome, SearchRun
from autotune.search.space import SearchSpace
from autotune.search.status import Status
from autotune.search.store import RunFolder
from autotune.search.tracker import NullTracker, Tracker
from xslim.policy.document import dump_yaml
from xslim.policy.policy import Policy

STEPS = 12
FLOAT = {"type": "float", "low": 0.0, "high": 1.0}
SPACE: dict[str, Any] = {
    "schema_version": 1,
    "families": {
        "online": {
            "base": {"controller": {"kind": "dual-threshold", "critical": 0.3}},
            "params": {
                "controller.critical": {"type": "float", "low": 0.02, "high": 1.5, "log": True},
                "controller.polish": {"type": "categorical", "choices": [[], ["block", "token"]]},
                "indicator.signals.modulated_input": FLOAT,
                "indicator.signals.step_table": FLOAT,
            },
            "seeds": [{"controller.critical": 0.2}],
        },
        "pattern": {
            "base": {"controller": {"kind": "pattern", "steps": "F"}},
            "params": {
                "schedule.full_steps": {"type": "int", "low": 2, "high": 10},
                "schedule.refreshes": {"type": "int", "low": 0, "high": 3},
                "schedule.polish": {"type": "categorical", "choices": ["T", "BT"]},
                "block.budget": {"type": "float", "low": 0.25, "high": 0.9},
                "predictor": {
                    "type": "categorical",
                    "choices": [{"kind": "newton", "order": 1}, {"kind": "hold"}],
                },
            },
        },
    },
}
EXPERIMENT: dict[str, Any] = {
    "schema_version": 1,
    "name": "formula",
    "model": {"path": "somewhere/local/model", "num_steps": STEPS, "prompts": [0, 1, 2]},
    "search_space": "space.yaml",
    "search": {"trials": 14, "warm_starts": 11, "certify": 4, "certify_rounds": 1, "published": False},
    "cases": {"search": 4, "holdout": 6, "batch": 4},
    "metrics": {"net": "net"},
    "objectives": ["latency", "psnr"],
    "bounds": {"psnr_p5": {"min": 5.0}},
    "tiers": {"high": {"psnr_p5": {"min": 12.0}}, "fast": {"psnr_p5": {"min": 6.0}}},
    "executor": {"kind": "local"},
    "tracking": {"kind": "none"},
}


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The data with dotted keys replaced."""
    data = {key: merged(value, {}) if isinstance(value, Mapping) else value for key, value in base.items()}
    for key, value in changes.items():
        *parents, last = key.split(".")
        at = data
        for name in parents:
            at = at[name]
        at[last] = value
    return data


def write_files(folder: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """Write the experiment and its space; return the experiment's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "space.yaml").write_text(dump_yaml(SPACE))
    path = folder / "experiment.yaml"
    path.write_text(dump_yaml(merged(EXPERIMENT, changes or {})))
    return path


def never(policy: Policy) -> bool:
    return False


@dataclass(frozen=True)
class FormulaFactory:
    """Builds the formula evaluator; fails where it is told to."""

    fails: Callable[[Policy], bool] = never
    num_steps: int = STEPS

    def build(self) -> Evaluator:
        return FailingEvaluator(FormulaEvaluator(self.num_steps), self.fails)


@dataclass
class Search:
    """One search on a folder, run as often as wanted."""

    folder: Path
    changes: dict[str, Any] = field(default_factory=dict)
    space: dict[str, Any] = field(default_factory=lambda: SPACE)

    @property
    def experiment(self) -> Experiment:
        return Experiment.parse(merged(EXPERIMENT, self.changes))

    def run(
        self,
        fails: Callable[[Policy], bool] = never,
        *,
        resume: bool = False,
        executor: Executor | None = None,
        tracker: Tracker | None = None,
        show: Callable[[Status], None] = lambda status: None,
    ) -> Outcome:
        space, folder = SearchSpace.parse(self.space), RunFolder(self.folder)
        folder.acquire()
        try:
            folder.claim(self.experiment, space.to_data(), resume)
            return SearchRun(
                self.experiment,
                space,
                folder,
                executor or LocalExecutor(),
                FormulaFactory(fails),
                tracker or NullTracker(),
                show=show,
            ).run()
        finally:
            folder.release()

    @property
    def trials(self) -> list[optuna.trial.FrozenTrial]:
        return self.study.get_trials()

    @property
    def study(self) -> optuna.Study:
        return optuna.load_study(study_name=STUDY, storage=f"sqlite:///{self.folder / 'study.db'}")

    @property
    def rows(self) -> list[Any]:
        return RunFolder(self.folder).rows()
