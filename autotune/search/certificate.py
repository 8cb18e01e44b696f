"""A certificate: what a preset holds on held-out cases that it was not chosen by, bound by bound."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autotune.scoring.case import Case, make_cases
from autotune.scoring.measurement import Measurement
from autotune.scoring.metrics import METRICS
from autotune.scoring.sampling import Sampling, preset_sampling
from autotune.search.certify import evidence, measuring_context, with_intervals
from autotune.search.dispatch import Dispatcher, RunBrokenError
from autotune.search.draining import stop_on_signals
from autotune.search.executor import EvaluatorFactory, Executor
from autotune.search.experiment import Experiment, parse_experiment
from autotune.search.export import nets
from autotune.search.floors import floor_entry, notes, uncached_floors
from autotune.search.numbers import rounded, to_json
from autotune.search.objective import METRIC_NAMES, METRIC_OF, SCALAR_NAMES, Bound
from autotune.search.parts import Job, PartStore, measure
from autotune.search.scorer import Scorer, check_measured, reference_sets
from autotune.search.store import RunFolder
from xslim.errors import ConfigError
from xslim.policy.document import read_yaml, suggest
from xslim.policy.preset import Preset, load_preset

SCHEMA_VERSION = 1
SEED_KEYS = ("cases", "cases.seed")


@dataclass(frozen=True, slots=True)
class CertificationPlan:
    """What is certified, and on what.

    Attributes:
        preset: the preset.
        source: its path or name, as given.
        experiment: says how its model is run and measured; its cases are fresh ones.
        sampling: of the preset, where it is not the reference's.
        bounds: what it has to hold.
    """

    preset: Preset
    source: str
    experiment: Experiment
    sampling: Sampling
    bounds: dict[str, Bound]

    @property
    def cases(self) -> tuple[Case, ...]:
        """The held-out cases."""
        cases = self.experiment.cases
        prompts = self.experiment.model.prompts
        return make_cases(prompts, 0, cases.holdout, cases.seed, cases.repeat)[1]


def plan_certification(
    source: str, experiment: Path | None = None, model: str | None = None, overrides: Sequence[str] = ()
) -> CertificationPlan:
    """Load a preset and find out how it is measured.

    The request (steps, guidance, dtype) is the preset's own; a preset with another number of steps or another
    scheduler than its reference tells so in its provenance. Unless an override names a seed, the cases are
    drawn with one above those of the preset's evidence.

    Args:
        source: a preset's path or shipped name.
        experiment: its experiment; None takes what the preset itself tells.
        model: a model folder or hub id instead of the experiment's.
        overrides: `KEY=VALUE` of the experiment.

    Raises:
        ConfigError: no such preset or experiment, a seed that was used, or values at fault.
    """
    preset = load_preset(source)
    data, where = _recipe(preset, source, experiment)
    request = preset.model
    try:
        sampling = preset_sampling(preset)
    except ConfigError as error:
        raise error.at(source=source) from None
    wanted = {key: getattr(request, key) for key in _request_keys(sampling)} | {"path": model}
    section = data.get("model")
    known = dict(section) if isinstance(section, Mapping) else {}
    data["model"] = {**known, **{key: value for key, value in wanted.items() if value is not None}}
    used = _used_seeds(preset)
    fresh = 1 + max(used, default=-1)
    chosen = any(override.partition("=")[0] in SEED_KEYS for override in overrides)
    if not chosen:
        overrides = [*overrides, f"cases.seed={fresh}"]
    found = parse_experiment(data, where, overrides)
    if found.cases.seed in used:
        raise ConfigError(
            f"got {found.cases.seed}, which drew the preset's own evidence; give {fresh}, or another",
            key="cases.seed",
        )
    _check_request(preset, found, where, sampling)
    plan = CertificationPlan(preset, source, found, sampling, _bounds(preset, source))
    _check_measure(plan)
    return plan


def _request_keys(sampling: Sampling) -> tuple[str, ...]:
    """Keys of the request that preset and reference have in common."""
    return ("guidance_scale", "dtype", *(("num_steps",) if sampling.num_steps is None else ()))


def _check_request(preset: Preset, found: Experiment, where: str, sampling: Sampling) -> None:
    """Refuse another request than the preset's, or another reference: an override may have changed it."""
    kept = preset.provenance.get("experiment")
    model = kept.get("model") if isinstance(kept, Mapping) else None
    reference = model.get("num_steps") if isinstance(model, Mapping) else None
    if sampling.num_steps is not None and reference is not None and found.model.num_steps != reference:
        raise ConfigError(
            f"got {found.model.num_steps}; the preset was measured against {reference} uncached steps; "
            "leave it out",
            key="model.num_steps",
            source=where,
        )
    for key in _request_keys(sampling):
        own, given = getattr(preset.model, key), getattr(found.model, key)
        if own is not None and given != own:
            raise ConfigError(
                f"got {given!r}; the preset was made for {own!r}; leave it out",
                key=f"model.{key}",
                source=where,
            )


def _check_measure(plan: CertificationPlan) -> None:
    """Refuse to judge a bound by another network, version or number of pictures than it was set by."""
    told, versions = plan.preset.provenance.get("nets"), plan.preset.provenance.get("metric_versions")
    labels = nets(plan.experiment, len(plan.cases))
    for name in plan.bounds:
        metric = METRIC_OF.get(name, name)
        before = told.get(metric) if isinstance(told, Mapping) else None
        if before is not None and metric in labels and before != labels[metric]:
            raise ConfigError(
                f"was set by {before} and would be judged by {labels[metric]}; give the same network "
                "(metrics) and number of pictures (cases.holdout)",
                key=f"quality.bounds.{name}",
                source=plan.source,
            )
        version = versions.get(metric) if isinstance(versions, Mapping) else None
        if version is not None and metric in METRICS and version != METRICS[metric].version:
            raise ConfigError(
                f"was set by version {version} of {metric}, this is version {METRICS[metric].version}; "
                "search anew",
                key=f"quality.bounds.{name}",
                source=plan.source,
            )


def _recipe(preset: Preset, source: str, experiment: Path | None) -> tuple[dict[str, Any], str]:
    """The experiment's data: of a file, of the preset itself, or of the study that it names."""
    kept = preset.provenance.get("experiment")
    if experiment is None and isinstance(kept, Mapping):
        return dict(kept), source
    beside = Path("experiments") / f"{preset.provenance.get('study')}.yaml"
    if experiment is None and beside.is_file():
        experiment = beside
    if experiment is None:
        raise ConfigError(
            "missing: the preset does not tell how it was measured; give --experiment FILE",
            key="provenance.experiment",
            source=source,
        )
    data = read_yaml(experiment)
    if not isinstance(data, Mapping):
        raise ConfigError("allowed is a mapping of keys", source=str(experiment))
    return dict(data), str(experiment)


def _used_seeds(preset: Preset) -> set[int]:
    entries = (preset.quality.holdout, preset.quality.certified)
    seeds = [entry.get("cases_seed") for entry in entries]
    return {seed for seed in seeds if isinstance(seed, int)}


def _bounds(preset: Preset, source: str) -> dict[str, Bound]:
    """The preset's bounds with their direction; and that it is faster than the uncached model."""
    found = {"speedup": Bound(min=1.0)}
    for name, limit in preset.quality.bounds.items():
        if name not in SCALAR_NAMES:
            raise ConfigError(
                f"unknown scalar; {suggest(name, SCALAR_NAMES)}", key=f"quality.bounds.{name}", source=source
            )
        rising = name == "speedup" or METRIC_NAMES[METRIC_OF[name]]
        least = max(1.0, limit) if name == "speedup" else limit
        found[name] = Bound(min=least) if rising else Bound(max=limit)
    return found


@dataclass
class Certification:
    """Measures a plan in a folder; a second run goes on where the first one was stopped.

    Attributes:
        plan: what is certified.
        folder: holds the parts, the references and `certificate.json`; acquired.
        executor: where tasks run; started here.
        factory: builds the workers' evaluators.
        on_phase: told what is being done, for people.
    """

    plan: CertificationPlan
    folder: RunFolder
    executor: Executor
    factory: EvaluatorFactory
    on_phase: Callable[[str], None] = lambda text: None

    def run(self) -> dict[str, Any] | None:
        """Measure; return the content of `certificate.json`, or None when a signal stopped it.

        Raises:
            ConfigError: the input is at fault, such as a model that the preset was not made for.
            RunBrokenError: the measurement failed; what was measured is kept.
        """
        plan, experiment = self.plan, self.plan.experiment
        cases, rounds = plan.cases, experiment.search.certify_rounds
        job = Job(plan.preset, cases, rounds, sampling=plan.sampling)
        store = PartStore(self.folder.path / "certification", measuring_context(experiment))
        with stop_on_signals() as stopped:
            try:
                self.on_phase(f"measuring {plan.preset.name} on {len(cases)} fresh held-out cases")
                self.executor.start(self.factory)
                dispatcher = Dispatcher(self.executor)
                done = list(measure(dispatcher, [job], experiment.cases.batch, store, stopped.is_set))
                if stopped.is_set():
                    return None
                measured = done[0][1]
                if not isinstance(measured, Measurement):
                    raise RunBrokenError(f"the measurement failed: {measured}")
                self.on_phase("measuring the uncached model")
                baseline = dispatcher.run("baseline", cases, 1).value
                if not isinstance(baseline, Measurement):
                    raise TypeError("a baseline task returned something else")
            except ConfigError as error:
                raise error.at(source=error.source or plan.source) from None
            finally:
                self.executor.close()
        data = self._content(measured, baseline)
        self.folder.write("certificate.json", to_json(data))
        store.clear()  # the next certification measures anew
        return data

    def _content(self, measured: Measurement, baseline: Measurement) -> dict[str, Any]:
        plan, cases = self.plan, self.plan.cases
        scorer = Scorer(reference_sets(plan.experiment.metrics, baseline))
        scalars = scorer.scalars(measured)
        check_measured([(f"quality.bounds.{name}", name) for name in plan.bounds], scalars)
        floors = uncached_floors(baseline, scorer)
        labels = nets(plan.experiment, len(cases))
        timing = () if measured.latency is None else measured.latency.notes
        holdout = with_intervals(scalars, measured, scorer, floors)
        checks = [_check(name, bound, holdout[name], plan.preset) for name, bound in plan.bounds.items()]
        data: dict[str, Any] = rounded(
            {
                "schema_version": SCHEMA_VERSION,
                "preset": plan.preset.name,
                "source": plan.source,
                "model": plan.experiment.model.path,
                "held": all(check["held"] for check in checks),
                "bounds": checks,
                "holdout": evidence(holdout, measured, cases, plan.experiment.cases.seed),
                "uncached": scorer.scalars(baseline),
                "two_uncached": {name: floor_entry(floor) for name, floor in floors.items()},
                "nets": labels,
                "warnings": [*timing, *notes(baseline, floors, labels)],
                "environment": measured.environment,
                "date": datetime.now(UTC).date().isoformat(),
            }
        )
        return data


def _check(name: str, bound: Bound, entry: Mapping[str, Any], preset: Preset) -> dict[str, Any]:
    """One line of the certificate; `sure` when the whole interval holds the bound."""
    before = preset.quality.holdout.get(name)
    return {
        "name": name,
        "wanted": bound.to_data(),
        "value": entry["value"],
        "ci95": entry["ci95"],
        "held": bound.violation(entry["value"]) <= 0,
        "sure": all(bound.violation(end) <= 0 for end in entry["ci95"]),
        "evidence": before.get("value") if isinstance(before, Mapping) else None,
    }


def certified_section(certificate: Mapping[str, Any]) -> dict[str, Any]:
    """What a preset says of its certificate; empty when a bound was missed."""
    if not certificate["held"]:
        return {}
    environment = certificate["environment"]
    versions = {key: value for key, value in environment.items() if key != "device"}
    return {
        **certificate["holdout"],
        "bounds": {check["name"]: check["wanted"] for check in certificate["bounds"]},
        "device": environment.get("device", "unknown"),
        "versions": versions,
        "date": certificate["date"],
    }


def default_folder(preset: Preset) -> Path:
    """Where a certification is kept: `runs/certify/<name>`."""
    name = re.sub(r"[^\w.-]+", "-", preset.name).strip(".-") or "preset"
    return Path("runs") / "certify" / name
