"""What a tracker is told of a search: names that let searches be compared, settings, cases, candidates."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autotune.scoring.case import Case, cases_sha256
from autotune.search.experiment import Experiment
from autotune.search.tracker import Candidate, CaseSet, Tracker
from xslim.policy.preset import ModelSignature

# not settings of a search: prompts are its datasets, the rest says where it ran
LEFT_OUT = ("model.prompts", "references", "tracking.kind")


def open_tracker(
    tracker: Tracker,
    experiment: Experiment,
    signature: ModelSignature,
    environment: Mapping[str, str],
    folder: Path,
    cases: tuple[Sequence[Case], Sequence[Case]],
) -> None:
    """Start the parent run of a search, and log what it measures on.

    Args:
        tracker: that is told.
        experiment: what is searched.
        signature: the model and its request, as profiled.
        environment: of the workers, as measured.
        folder: the run folder.
        cases: search and held-out cases.
    """
    tags = {"folder": folder.name, "objectives": ", ".join(experiment.objectives), **environment}
    where = "" if folder.name == experiment.name else f" in {folder.name}"
    tracker.start(
        f"{experiment.name}, seed {experiment.search.seed}{where}",
        experiment_name(experiment.model.path, signature, environment.get("device", "unknown device")),
        settings(experiment),
        tags,
    )
    tracker.datasets(
        [
            CaseSet(
                name=f"{experiment.name}, {context} cases",
                context=context,
                sha256=cases_sha256(drawn),
                cases=len(drawn),
                prompts=len({case.prompt for case in drawn}),
                seed=experiment.cases.seed,
            )
            for context, drawn in zip(("search", "holdout"), cases, strict=True)
        ]
    )


def close_tracker(tracker: Tracker, experiment: Experiment, data: Mapping[str, Any], folder: Path) -> None:
    """Log what a search has brought: files, certified numbers, candidates.

    Args:
        tracker: that is told.
        experiment: what was searched.
        data: content of `summary.json`.
        folder: the run folder.
    """
    files = {"presets": folder / "presets", "plots": folder / "pareto.png", "": folder / "summary.json"}
    tracker.artifacts({name: path for name, path in files.items() if path.exists()})
    metrics = {"certified/front": float(len(data["front"]))}
    for tier, member in data["tiers"].items():
        for name, value in _certified(experiment, tier, member).items():
            metrics[f"certified_{name}/{tier}"] = value
    tracker.progress(data["trials"]["complete"] + data["trials"]["pruned"], metrics)
    device = str(data["environment"].get("device", "unknown"))
    tracker.register(
        [
            Candidate(
                name=registered_name(experiment.name, tier),
                file=folder / member["preset"],
                tags={
                    "tier": tier,
                    "device": device,
                    "trial": str(member["trial"]),
                    **{n: f"{v:.4g}" for n, v in _certified(experiment, tier, member).items()},
                },
            )
            for tier, member in data["tiers"].items()
        ]
    )


def _certified(experiment: Experiment, tier: str, member: Mapping[str, Any]) -> dict[str, float]:
    """A tier's preset on the held-out cases: what it saves, and what its bounds speak of."""
    held = member["holdout"]
    names = ("speedup", "compute_fraction", *experiment.tiers.get(tier, ()))
    return {name: held[name]["value"] for name in dict.fromkeys(names) if name in held}


def experiment_name(path: str, signature: ModelSignature, device: str) -> str:
    """Name what is compared: `dit-digits, 50 steps, 16x16 latent, NVIDIA H200`.

    Args:
        path: of the model, a folder or a hub id.
        signature: its request.
        device: that it runs on.
    """
    model = path.rstrip("/").rpartition("/")[2] or path
    shape = signature.latent_shape or ()
    sides = shape[1:] if len(shape) > 2 else shape  # channels first, or a sequence
    if not sides and signature.height and signature.width:
        sides = (signature.height, signature.width)
    size = f"{'x'.join(map(str, sides))} latent" if sides else "any size"
    short = re.sub(r"\((?:R|TM|r|tm)\)|\bCPU\b|@.*?GHz|\bProcessor\b", " ", device)
    return f"{model}, {signature.num_steps} steps, {size}, {' '.join(short.split())}"


def registered_name(experiment: str, tier: str) -> str:
    """Name a tier's registered model; MLflow allows neither slashes nor colons."""
    return re.sub(r"[^\w. -]+", "-", f"{experiment}-{tier}")


def settings(experiment: Experiment) -> dict[str, object]:
    """Return an experiment by dotted keys, so that those which differ stand out; prompts are counted."""
    flat = dict(_flat("", experiment.to_data()))
    kept = {key: value for key, value in flat.items() if key not in LEFT_OUT}
    return {**kept, "model.prompts": f"{len(experiment.model.prompts)} prompts"}


def _flat(key: str, value: object) -> list[tuple[str, object]]:
    if not isinstance(value, Mapping) or not value:
        return [(key, value)]
    return [
        entry for name, inner in value.items() for entry in _flat(f"{key}.{name}" if key else name, inner)
    ]
