"""A search's folder without a summary: whether it still runs, how far it is, and how it goes on."""

from __future__ import annotations

import fcntl
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autotune.search.experiment import load_experiment
from autotune.search.store import RunFolder

STARTED = "started.json"
UNKNOWN = "EXPERIMENT.yaml"  # where it is not known what a search was started from


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A search that has written no summary yet.

    Attributes:
        state: `running` while a process holds the folder, else `interrupted`.
        trials: measured so far.
        wanted: trials that were asked for.
        resume: the command that goes on with it.
    """

    state: Literal["running", "interrupted"]
    trials: int
    wanted: int
    resume: str

    def to_data(self) -> dict[str, Any]:
        """Return plain data; what goes on does not say how to resume it."""
        data = {"state": self.state, "trials": self.trials, "of": self.wanted}
        return data if self.state == "running" else {**data, "resume": self.resume}

    def __str__(self) -> str:
        so_far = f"the search is {self.state}, {self.trials} of {self.wanted} trials are in"
        if self.state == "running":
            return f"{so_far}; show it again when it has ended"
        return f"{so_far}; resume it with: {self.resume}"


def unfinished(folder: Path) -> Unfinished | None:
    """Look for a search without a summary; None where there is none.

    Raises:
        ConfigError: the experiment kept in the folder is at fault.
    """
    if (folder / "summary.json").exists() or not (folder / "manifest.json").exists():
        return None
    kept = load_experiment(folder / "experiment.yaml")
    return Unfinished(
        state="running" if _held(folder / ".lock") else "interrupted",
        trials=len(RunFolder(folder).rows()),
        wanted=kept.search.trials,
        resume=resume_command(folder, *_kept_start(folder)),
    )


def _held(lock: Path) -> bool:
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def start_command(folder: Path) -> str:
    """Return the command that starts the search of a folder anew, with the settings it was started with."""
    return resume_command(folder, *_kept_start(folder)).replace(" --resume", "", 1)


def resume_command(folder: Path, experiment: str, overrides: Sequence[str], address: str | None) -> str:
    """Return the command that goes on with a search, with the settings it was started with."""
    words = ["autotune", "search", experiment, "--out", str(folder), "--resume"]
    words += [word for override in overrides for word in ("--set", override)]
    words += [] if address is None else ["--ray-address", address]
    return shlex.join(words)


def keep_start(folder: RunFolder, experiment: Path, overrides: Sequence[str], address: str | None) -> None:
    """Keep in the folder what the search was started with."""
    data = {"experiment": str(experiment.resolve()), "overrides": list(overrides), "address": address}
    folder.write(STARTED, json.dumps(data) + "\n")


def _kept_start(folder: Path) -> tuple[str, list[str], str | None]:
    try:
        data = json.loads((folder / STARTED).read_text())
        return str(data["experiment"]), [str(word) for word in data["overrides"]], data["address"]
    except (OSError, ValueError, KeyError, TypeError):
        return UNKNOWN, [], None
