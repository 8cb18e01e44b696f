"""What may be compared with what: refusals that say what differs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.scoring.case import cases_sha256, make_cases
from autotune.search.experiment import Experiment
from autotune.search.manifest import Manifest
from autotune.search.store import MANIFEST
from xslim.errors import ConfigError

# what has to be the same for a search's presets to take part
OF_THE_MODEL = ("model.", "model_sha256", "metrics.", "nets_sha256.", "cases.batch")


def check_search(folder: Path, experiment: Experiment, space: Mapping[str, Any]) -> None:
    """Refuse a folder whose search was of another model, request or metric.

    Raises:
        ConfigError: says what differs.
    """
    then, now = Manifest.read(folder / MANIFEST), Manifest.of(experiment, space)
    found = [line for line in then.differences(now) if line.startswith(OF_THE_MODEL)]
    if found:
        raise ConfigError(
            f"holds a search of something else: {'; '.join(found[:3])}; give the settings it was started "
            "with, or another --out",
            source=str(folder),
        )


def check_again(folder: Path, before: Mapping[str, Any], experiment: Experiment, seed: int) -> None:
    """Refuse to go on with a comparison on other cases.

    Raises:
        ConfigError: says what differs.
    """
    compare, cases = experiment.compare, experiment.cases
    chosen = make_cases(experiment.model.prompts, 0, compare.cases, seed, cases.repeat)[1]
    now = {"quality": compare.cases, "seed": seed, "sha256": cases_sha256(chosen)}
    found = [
        f"{key} of the cases was {before['cases'][key]}, now {value}"
        for key, value in now.items()
        if before["cases"][key] != value
    ]
    if before["num_steps"] != experiment.model.num_steps:
        found.append(f"model.num_steps was {before['num_steps']}, now {experiment.model.num_steps}")
    if before["cases"]["timed"] and not compare.rounds:
        found.append("it was timed, and compare.rounds is 0 now; rows without timing are added by --rows")
    if found:
        raise ConfigError(
            f"--resume: holds a comparison on something else: {'; '.join(found[:2])}; give the settings it "
            "was started with, or another --out",
            source=str(folder),
        )
