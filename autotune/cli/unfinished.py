"""A search's folder without a summary: whether it still runs, how far it is, and how it goes on."""

from __future__ import annotations

import fcntl
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autotune.search.experiment import Experiment, load_experiment
from autotune.search.store import RunFolder
from xslim.errors import ConfigError

UNKNOWN = "EXPERIMENT.yaml"  # where the file that a search was started from is not found


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
        resume=_resume(folder, kept),
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


def _resume(folder: Path, kept: Experiment) -> str:
    """The command, with a file that says what the search was started with.

    The copy in the folder serves where it finds its search space from there.
    """
    found = next(filter(lambda path: _same(path, kept), _files(folder, kept)), None)
    path = UNKNOWN if found is None else str(found)
    return shlex.join(["autotune", "search", path, "--out", str(folder), "--resume"])


def _files(folder: Path, kept: Experiment) -> tuple[Path, ...]:
    return (folder / "experiment.yaml", Path("experiments") / f"{kept.name}.yaml", Path(f"{kept.name}.yaml"))


def _same(path: Path, kept: Experiment) -> bool:
    try:
        loaded = load_experiment(path)
        loaded.space(path)
    except ConfigError:
        return False
    return loaded == kept
