"""The run folder: who may write to it, what was measured, and Optuna's study. Results are durable first."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from autotune.search.experiment import Experiment
from xslim.errors import ConfigError
from xslim.policy.document import dump_yaml

SUMMARY_VERSION = 1  # of summary.json
# keys that may differ between a search and its resumption
FREE_KEYS = ("executor", "tracking", "references")
FREE_SEARCH_KEYS = ("trials", "max_seconds", "certify", "certify_rounds")
MIN_FREE_BYTES = 64 * 2**20  # references, study and presets of a small search


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One measured trial, as it stands in `results.jsonl`.

    Attributes:
        trial: Optuna's number.
        family: family of the search space.
        params: the point, by dotted policy key.
        policy: the policy as data.
        scalars: what `Scorer.scalars` gave.
        actions: letters of the first sample.
        trace_sha256: hash of all samples' letters.
        duplicate_of: trial whose result was taken over, or None.
        wall_s: seconds of drawing.
    """

    trial: int
    family: str
    params: dict[str, Any]
    policy: dict[str, Any]
    scalars: dict[str, float]
    actions: str
    trace_sha256: str
    duplicate_of: int | None = None
    wall_s: float = 0.0


@dataclass
class RunFolder:
    """An output folder held by one search at a time.

    Raises:
        ConfigError: another search holds the folder, it cannot be written, or its disk is full.
    """

    path: Path
    _lock: IO[str] | None = field(default=None, repr=False)

    def acquire(self) -> None:
        """Create the folder and take the operating system's lock; a killed driver leaves none behind."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise ConfigError(
                f"cannot write: {error.strerror}; choose another --out", source=str(self.path)
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise ConfigError(
                "a running search writes here; wait for it or choose another --out", source=str(self.path)
            ) from None
        self._lock = lock
        free = shutil.disk_usage(self.path).free
        if free < MIN_FREE_BYTES:
            self.release()
            raise ConfigError(
                f"{free // 2**20} MiB free, at least {MIN_FREE_BYTES // 2**20} are needed; "
                "free some space or choose another --out",
                source=str(self.path),
            )

    def release(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def presets(self) -> Path:
        """Folder of the exported presets."""
        return self.path / "presets"

    def claim(self, experiment: Experiment, space: Mapping[str, Any], resume: bool) -> None:
        """Tie the folder to an experiment, or check that it is the same one.

        Raises:
            ConfigError: the folder holds a search and `resume` is off, or another experiment's.
        """
        manifest = self.path / "manifest.json"
        fingerprint = _fingerprint(experiment, space)
        if manifest.exists():
            old = json.loads(manifest.read_text())
            if not resume:
                raise ConfigError(
                    "holds a search already; go on with --resume or choose another --out",
                    source=str(self.path),
                )
            if old["sha256"] != fingerprint:
                raise ConfigError(
                    f"--resume: holds a search of another experiment ({old['experiment']!r}, or other "
                    "settings); choose another --out, or give the settings it was started with",
                    source=str(self.path),
                )
        self.write("experiment.yaml", dump_yaml(experiment.to_data()))
        self.write("manifest.json", json.dumps({"experiment": experiment.name, "sha256": fingerprint}) + "\n")

    def write(self, name: str, text: str) -> Path:
        """Write a file whole or not at all."""
        target = self.path / name
        part = target.with_name(f".{target.name}.part")
        part.write_text(text, encoding="utf-8")
        os.replace(part, target)
        return target

    def append(self, row: TrialRow) -> None:
        """Append a result with a checksum, and wait until it is on the disk."""
        text = json.dumps(asdict(row), sort_keys=True)
        line = json.dumps({"row": text, "sha256": hashlib.sha256(text.encode()).hexdigest()})
        with (self.path / "results.jsonl").open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a crash cut the last line off
                    file.write(b"\n")
            file.write(f"{line}\n".encode())
            file.flush()
            os.fsync(file.fileno())

    def rows(self) -> list[TrialRow]:
        """Read the results; a line torn by a crash is left out."""
        path = self.path / "results.jsonl"
        if not path.exists():
            return []
        found = []
        for line in path.read_bytes().splitlines():
            try:
                entry = json.loads(line)
                text = str(entry["row"])
                if hashlib.sha256(text.encode()).hexdigest() == entry["sha256"]:
                    found.append(TrialRow(**json.loads(text)))
            except (ValueError, KeyError, TypeError):
                continue
        return found


def _fingerprint(experiment: Experiment, space: Mapping[str, Any]) -> str:
    data = experiment.to_data()
    for key in FREE_KEYS:
        data.pop(key, None)
    for key in FREE_SEARCH_KEYS:
        data.get("search", {}).pop(key, None)
    text = json.dumps({"experiment": data, "space": dict(space)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
