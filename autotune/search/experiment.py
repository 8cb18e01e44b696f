"""Experiment: one YAML file that names model, cases, objectives, bounds, search space and how to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from autotune.scoring.case import check_counts
from autotune.search.metrics import Metrics
from autotune.search.model import Model
from autotune.search.objective import OBJECTIVES, SCALAR_NAMES, Bound
from autotune.search.space import SearchSpace
from autotune.search.storage import check_url
from xslim.errors import ConfigError
from xslim.policy.document import Document, parse_yaml, read_yaml, suggest

SCHEMA_VERSION = 1
# overriding one of two keys, of which one is given, takes the other one's place
INSTEAD_OF = {"model.prompts": "prompts_file", "model.prompts_file": "prompts"}
Positive = Annotated[int, Field(ge=1, le=1_000_000)]


class Search(Document):
    """How long and how the search goes on.

    Attributes:
        trials: candidates told COMPLETE or PRUNED, warm starts included.
        max_seconds: no new candidate after so many seconds; None for no limit.
        max_worker_seconds: likewise of all workers together, on GPUs GPU-seconds.
        max_images: likewise pictures or clips drawn for the trials.
        patience: trials in a row that do not enlarge the hypervolume by a thousandth, after which it ends.
        sampler: Optuna's sampler.
        screening: whether replayed trajectories propose points; if not, all but warm starts are sampled.
        timing_rounds: A B B A rounds of every candidate; 0 for objectives that need no time.
        certify: front members measured on the held-out cases.
        warm_starts: points chosen by replay before anything is measured, beside the seeds of the space.
        rectify: whether patterns are also certified with a corrector, fitted on the search cases, whose
            residuals are held in memory.
        levels: whether requests of few steps are also certified with noise levels fitted to the reference
            on a batch of the search cases, where pipeline and scheduler take some.
        neighbours: share of the trials, the last ones, that look around members of the front for cliffs.
        presets: preset files or names that the search begins with, remapped to its steps.
        published: whether it also tries the settings that published rules recommend.
        storage: URL of a database for Optuna's study, without a password; None keeps it in the run folder.
        study: name of the study in that database; None takes the experiment's name.
    """

    trials: Annotated[int, Field(ge=0, le=1_000_000)] = 40
    max_seconds: Annotated[float, Field(gt=0)] | None = None
    max_worker_seconds: Annotated[float, Field(gt=0)] | None = None
    max_images: Positive | None = None
    patience: Positive | None = None
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0
    sampler: Literal["tpe", "gp", "nsga2", "nsga3", "qmc", "random"] = "tpe"
    screening: bool = True
    timing_rounds: Annotated[int, Field(ge=0, le=1000)] = 1
    certify: Positive = 10
    certify_rounds: Positive = 3
    rectify: bool = False
    levels: bool = False
    warm_starts: Annotated[int, Field(ge=0, le=1000)] = 12
    neighbours: Annotated[float, Field(ge=0.0, le=0.5)] = 0.15
    presets: Annotated[tuple[str, ...], Field(strict=False)] = ()
    published: bool = True
    storage: Annotated[str, Field(min_length=1)] | None = None
    study: Annotated[str, Field(min_length=1, max_length=200)] | None = None

    @model_validator(mode="after")
    def _check_storage(self) -> Self:
        if self.storage is not None:
            check_url(self.storage)
        return self


class Cases(Document):
    """How many cases, and how they are drawn.

    Attributes:
        repeat: whether a prompt may come again with another noise; if not, search and held-out cases
            together need as many prompts.
    """

    search: Annotated[int, Field(ge=2, le=100_000)] = 16
    holdout: Annotated[int, Field(ge=2, le=100_000)] = 64
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0
    batch: Annotated[int, Field(ge=1, le=10_000)] = 8
    repeat: bool = True
    sensitivity: Annotated[int, Field(ge=1, le=1000)] = 2


class ExecutorChoice(Document):
    """Where the work runs.

    Attributes:
        workers: how many tasks run at once; None is one for each GPU, else 1.
        gpus: GPUs of a worker; None is 1 where there are any.
        timing_device: the only kind of GPU or processor that latency is measured on, by its name; None is
            the commonest of the workers'.
    """

    kind: Literal["local", "ray"] = "ray"
    workers: Annotated[int, Field(ge=1, le=100_000)] | None = None
    gpus: Annotated[int, Field(ge=0, le=64)] | None = None
    timing_device: Annotated[str, Field(min_length=1)] | None = None


class Tracking(Document):
    """Where the search is shown."""

    kind: Literal["mlflow", "none"] = "mlflow"


class Compare(Document):
    """What `autotune compare` measures beside the search's presets.

    Attributes:
        methods: names of recipes; None for all that apply to the model.
        points: settings of each method's own knob.
        cases: held-out cases that quality is measured on.
        rounds: A B B A rounds of timing, each on a batch of the cases; 0 for none.
        seed: draws other cases than the search's; None takes the one after `cases.seed`.
        pictures: cases that are kept as pictures for the report, of one batch at most.
        peer_seconds: that a setting of another library may take.
    """

    methods: Annotated[tuple[str, ...], Field(strict=False)] | None = None
    points: Annotated[int, Field(ge=1, le=1000)] = 4
    cases: Annotated[int, Field(ge=2, le=100_000)] = 32
    rounds: Annotated[int, Field(ge=0, le=1000)] = 1
    seed: Annotated[int, Field(ge=0, le=2**31)] | None = None
    pictures: Annotated[int, Field(ge=0, le=64)] = 4
    peer_seconds: Annotated[float, Field(gt=0)] = 1800.0


class Experiment(Document):
    """One reproducible search.

    Attributes:
        references: folder of the uncached outputs, for several searches; None keeps them in the run folder.

    Raises:
        ConfigError: a key is unknown, or a value is of the wrong type or out of range.
    """

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION
    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    model: Model
    search_space: Annotated[str, Field(min_length=1)]
    search: Search = Search()
    cases: Cases = Cases()
    metrics: Metrics = Metrics()
    objectives: Annotated[tuple[str, ...], Field(strict=False, min_length=2, max_length=3)] = (
        "latency",
        "lpips",
    )
    bounds: dict[str, Bound] = Field(default_factory=dict)
    tiers: dict[str, dict[str, Bound]] = Field(default_factory=dict)
    executor: ExecutorChoice = ExecutorChoice()
    tracking: Tracking = Tracking()
    compare: Compare = Compare()
    references: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for i, name in enumerate(self.objectives):
            if name not in OBJECTIVES:
                allowed = ", ".join(OBJECTIVES)
                raise ConfigError(
                    f"got {name!r}; allowed: any two or three of {allowed}", key=f"objectives.{i}"
                )
        if len(set(self.objectives)) != len(self.objectives):
            raise ConfigError(
                "an objective is given twice; name two or three different ones", key="objectives"
            )
        for key, bounds in (("bounds", self.bounds), *((f"tiers.{t}", b) for t, b in self.tiers.items())):
            for name in bounds:
                if name not in SCALAR_NAMES:
                    raise ConfigError(f"unknown scalar; {suggest(name, SCALAR_NAMES)}", key=f"{key}.{name}")
        timed = next((key for key, name in self.named() if name in ("latency", "speedup")), None)
        if timed is not None and not self.search.timing_rounds:
            raise ConfigError(f"got 0; {timed} needs at least 1", key="search.timing_rounds")
        self.metrics.check_named(self.named())
        if self.compare.seed == self.cases.seed:
            raise ConfigError(
                f"got {self.compare.seed}, which is cases.seed: presets were chosen on its held-out cases; "
                "give another",
                key="compare.seed",
            )
        return self

    def named(self) -> list[tuple[str, str]]:
        """(key, scalar) of all objectives and bounds."""
        groups = {"bounds": self.bounds, **{f"tiers.{tier}": bounds for tier, bounds in self.tiers.items()}}
        bounded = [(f"{key}.{name}", name) for key, bounds in groups.items() for name in bounds]
        return [(f"objectives.{i}", name) for i, name in enumerate(self.objectives)] + bounded

    def space(self, source: str | Path | None) -> SearchSpace:
        """Load the search space, relative to the experiment's file, else to the current directory.

        Raises:
            ConfigError: the file is missing or at fault.
        """
        path = Path(self.search_space)
        beside = None if source is None else Path(source).parent / path
        return SearchSpace.load(beside if beside is not None and beside.exists() else path)

    def with_prompts(self, source: str | Path | None) -> Experiment:
        """Return the experiment with its prompts read, enough of them for its cases.

        Args:
            source: the experiment's file, beside which the prompts' file is looked for first.

        Raises:
            ConfigError: the prompts' file is missing or at fault, or holds too few.
        """
        model, cases = self.model.with_prompts(source), self.cases
        check_counts(len(model.prompts), cases.search, cases.holdout, cases.repeat)
        return self.model_copy(update={"model": model})


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment and its prompts, and apply `KEY=VALUE` overrides.

    Args:
        path: the YAML file.
        overrides: dotted keys with YAML values, such as `search.trials=8`.

    Raises:
        ConfigError: the file or an override is at fault.
    """
    data = read_yaml(path)
    if not isinstance(data, Mapping):
        raise ConfigError("allowed is a mapping of keys", source=str(path))
    return parse_experiment(data, path, overrides)


def parse_experiment(
    data: Mapping[Any, Any], source: str | Path, overrides: Sequence[str] = ()
) -> Experiment:
    """Build an experiment from plain data, as `load_experiment` from a file.

    Raises:
        ConfigError: the data, its prompts or an override is at fault.
    """
    merged: dict[str, Any] = dict(data)
    for override in overrides:
        _apply(merged, override)
    try:
        return Experiment.parse(merged).with_prompts(source)
    except ConfigError as error:
        keys = [override.partition("=")[0] for override in overrides]
        from_command = any(
            f"{error.key}.".startswith(f"{key}.") or key.startswith(f"{error.key}.") for key in keys
        )
        raise error.at(source="--set" if from_command else error.source or str(source)) from None


def _apply(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"got {override!r}; allowed is KEY=VALUE, such as search.trials=8", source="--set")
    value = text if key == "model.path" else parse_yaml(text, source=f"--set {key}")
    *parents, last = key.split(".")
    at = data
    for name in parents:
        child = at.get(name, {})
        if not isinstance(child, Mapping):
            raise ConfigError(f"{name} holds a value, not keys", key=key, source="--set")
        at[name] = dict(child)
        at = at[name]
    at[last] = value
    if key in INSTEAD_OF:
        at.pop(INSTEAD_OF[key], None)
