"""Export: certified candidates as preset files, and the summary of the search."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.scoring.case import Case
from autotune.scoring.measurement import Measurement
from autotune.scoring.metrics import METRICS
from autotune.scoring.profile import Profile
from autotune.search.certify import Certified, evidence, holds, profile_note
from autotune.search.experiment import Experiment
from autotune.search.floors import Floors, floor_entry, notes
from autotune.search.numbers import rounded, to_json
from autotune.search.objective import METRIC_NAMES, METRIC_OF, Bound, violations
from autotune.search.pareto import front
from autotune.search.scorer import Scorer
from autotune.search.store import SUMMARY_VERSION, RunFolder
from xslim.policy.policy import Policy
from xslim.policy.preset import ModelSignature, Preset, Quality, save_preset

# what says something of the uncached model alone
RECIPE = ("schema_version", "name", "model", "search_space", "cases", "metrics")
MAX_PROMPTS_BYTES = 2**18  # a preset is read at every start of a service
BASELINE_METRICS = ("fid", "kid", "cmmd", "clip_score", "image_reward")


@dataclass(frozen=True, slots=True)
class Totals:
    """What a search took and found, beside its presets.

    Attributes:
        trials: points by what became of them.
        images: pictures or clips drawn in all.
        wall_s: seconds.
        hypervolume: of the front on the search cases.
        screening: how well replay ranks the trials, as of `Screen.facts`.
        nearest: where nothing holds the bounds, the trial that comes nearest, as of `nearest`.
        references: stored batches of references, and their bytes.
    """

    trials: Mapping[str, int]
    images: int
    wall_s: float
    hypervolume: float
    screening: Mapping[str, Any]
    nearest: Mapping[str, Any] | None
    references: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Exported:
    """A preset on disk.

    Attributes:
        file: path relative to the run folder.
        certified: its held-out measurement.
        preset: the preset.
    """

    file: str
    certified: Certified
    preset: Preset


def select_front(certified: Sequence[Certified], experiment: Experiment) -> list[Certified]:
    """Certified candidates that hold all bounds and that no other one beats, fastest first."""
    holding = [c for c in certified if not c.missed]

    def minimised(c: Certified) -> tuple[float, ...]:
        return tuple(-c.scalars[n] if METRIC_NAMES[n] else c.scalars[n] for n in experiment.objectives)

    return [holding[i] for i in front([minimised(c) for c in holding])]


def export(
    folder: RunFolder,
    experiment: Experiment,
    profile: Profile,
    certified: Sequence[Certified],
    cases: Sequence[Case],
) -> tuple[list[Exported], dict[str, Exported]]:
    """Write `presets/front-NN.yaml`, 00 the fastest, and one file a tier; return both."""
    for old in folder.presets.glob("*.yaml"):
        old.unlink()

    def write(name: str, chosen: Certified, bounds: Mapping[str, Bound]) -> Exported:
        preset = _preset(f"{experiment.name}/{name}", experiment, profile, chosen, bounds, cases)
        save_preset(preset, folder.presets / f"{name}.yaml")
        return Exported(f"presets/{name}.yaml", chosen, preset)

    members = [
        write(f"front-{i:02d}", chosen, experiment.bounds)
        for i, chosen in enumerate(select_front(certified, experiment))
    ]
    tiers = {}
    for tier, bounds in experiment.tiers.items():
        fastest = next((c for c in certified if not c.missed and surely_holds(bounds, c)), None)
        if fastest is not None:
            tiers[tier] = write(tier, fastest, bounds)
    return members, tiers


def surely_holds(bounds: Mapping[str, Bound], certified: Certified) -> bool:
    """Whether all bounds hold at the unfavourable end of their 95 % intervals.

    A tier takes the fastest of several candidates; without the margin it would take the luckiest.
    """
    ends = {
        name: certified.holdout[name]["ci95"][0 if bound.min is not None else 1]
        for name, bound in bounds.items()
    }
    return holds(bounds, ends)


def _preset(
    name: str,
    experiment: Experiment,
    profile: Profile,
    chosen: Certified,
    bounds: Mapping[str, Bound],
    cases: Sequence[Case],
) -> Preset:
    limits = {key: b.min if b.min is not None else b.max for key, b in bounds.items()}
    measured = evidence(chosen.holdout, chosen.measurement, cases, experiment.cases.seed)
    return Preset(
        name=name,
        model=_signature(profile.signature, chosen.measurement),
        policy=Policy.parse(chosen.row.policy),
        quality=Quality(
            bounds={key: limit for key, limit in limits.items() if limit is not None},
            holdout=rounded(measured),
        ),
        provenance={
            "study": experiment.name,
            "trial": chosen.row.trial,
            "family": chosen.row.family,
            **({"sampling": chosen.row.sampling} if chosen.row.sampling else {}),
            "seed": experiment.search.seed,
            "search_cases": experiment.cases.search,
            **({"search_scalars": rounded(chosen.row.scalars)} if chosen.row.scalars else {}),
            "signal_fit": profile_note(profile),
            "versions": {k: v for k, v in chosen.measurement.environment.items() if k != "device"},
            "device": chosen.measurement.environment.get("device", "unknown"),
            "nets": nets(experiment, len(cases)),
            "metric_versions": metric_versions(chosen.scalars),
            "experiment": recipe(experiment),
        },
    )


def _signature(reference: ModelSignature, measured: Measurement) -> ModelSignature:
    """The signature of what was measured: the reference's, but for another number of steps or scheduler."""
    if measured.sampled is None:
        return reference
    return ModelSignature.parse({**reference.to_data(), **measured.sampled})


def recipe(experiment: Experiment) -> dict[str, Any]:
    """What certifying a preset needs of its experiment; very many prompts are left out."""
    data = experiment.to_data()
    kept = {key: data[key] for key in RECIPE}
    if len(json.dumps(data["model"]["prompts"])) > MAX_PROMPTS_BYTES:
        kept["model"] = {key: value for key, value in data["model"].items() if key != "prompts"}
    return {**kept, "search": {"certify_rounds": experiment.search.certify_rounds}}


def nets(experiment: Experiment, n: int) -> dict[str, str]:
    """Role name -> how tables print it, with the network and the number of samples."""
    names = experiment.metrics.spec().names()
    return {name: METRICS[name].label(net=names[name], n=n) for name in METRICS if name in names}


def metric_versions(scalars: Mapping[str, float]) -> dict[str, int]:
    """Metric -> version, of those that were measured."""
    return {name: metric.version for name, metric in METRICS.items() if name in scalars}


def summary(
    experiment: Experiment,
    baseline: Measurement,
    scorer: Scorer,
    floors: Floors,
    totals: Totals,
    members: Sequence[Exported],
    tiers: Mapping[str, Exported],
    certified: Sequence[Certified],
) -> dict[str, Any]:
    """Return the content of `summary.json`."""
    labels = nets(experiment, experiment.cases.holdout)
    base = scorer.scalars(baseline)
    latency = baseline.latency
    data = {
        "schema_version": SUMMARY_VERSION,
        "experiment": experiment.name,
        "seed": experiment.search.seed,
        "objectives": list(experiment.objectives),
        "nets": labels,
        "metric_versions": metric_versions(base),
        "baseline": {
            "latency_s": None if latency is None else latency.baseline_s,
            "a_a_floor": None if latency is None else latency.floor,
            "batch": experiment.cases.batch,
            "metrics": {name: base[name] for name in BASELINE_METRICS if name in base},
            "two_uncached": {name: floor_entry(floor) for name, floor in floors.items()},
        },
        "trials": dict(totals.trials),
        "images_generated": totals.images,
        "wall_s": totals.wall_s,
        "hypervolume": totals.hypervolume,
        "screening": dict(totals.screening),
        "nearest": totals.nearest,
        "front": [_member(member) for member in members],
        "tiers": {tier: _member(member) for tier, member in tiers.items()},
        "dropped": [
            {"trial": c.row.trial, "actions": c.row.actions, "missed": c.missed}
            for c in certified
            if c.missed
        ],
        "warnings": [*notes(baseline, floors, labels), *_timing_notes(certified)],
        "references": {"batches": totals.references[0], "bytes": totals.references[1]},
        "environment": baseline.environment,
    }
    result: dict[str, Any] = rounded(data)
    return result


def nearest(
    bounds: Mapping[str, Bound], found: Sequence[tuple[int, Mapping[str, float]]]
) -> dict[str, Any] | None:
    """The trial that comes nearest to bounds that nothing holds, and its values; None without trials.

    Args:
        bounds: of the experiment.
        found: trials and their scalars.
    """
    if not found or not bounds:
        return None
    trial, scalars = min(found, key=lambda one: max(violations(bounds, one[1]).values()))
    return {"trial": trial, "values": {name: scalars[name] for name in sorted(bounds)}}


def _timing_notes(certified: Sequence[Certified]) -> list[str]:
    """What has to be said of the certified candidates' timing, each line with its trials."""
    found: dict[str, list[str]] = {}
    for c in certified:
        for note in () if c.measurement.latency is None else c.measurement.latency.notes:
            found.setdefault(note.partition(":")[0], []).append(str(c.row.trial))
    return [
        f"{kind}, while these trials were timed: {', '.join(trials)}; see their intervals"
        for kind, trials in found.items()
    ]


def _member(member: Exported) -> dict[str, Any]:
    chosen = member.certified
    quality = [name for name in chosen.scalars if METRIC_OF.get(name) in METRICS]
    return {
        "preset": member.file,
        "trial": chosen.row.trial,
        "speedup": chosen.scalars["speedup"],
        "compute_fraction": chosen.scalars["compute_fraction"],
        "actions": chosen.row.actions,
        "sampling": chosen.row.sampling,
        "memory": chosen.scalars["memory"],
        "metrics": {name: chosen.row.scalars[name] for name in quality if name in chosen.row.scalars},
        "holdout": {
            name: chosen.holdout[name] for name in (*quality, "speedup", "latency", "compute_fraction")
        },
    }


def write_summary(folder: RunFolder, data: Mapping[str, Any]) -> Path:
    """Write `summary.json`."""
    return folder.write("summary.json", to_json(data))
