"""The run folder: who may write to it, what was measured, and Optuna's study. Results are durable first."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from autotune.search.experiment import Experiment
from autotune.search.files import write_text
from autotune.search.manifest import Manifest
from autotune.search.trial_row import TrialRow
from xslim.errors import ConfigError
from xslim.policy.document import dump_yaml

if TYPE_CHECKING:
    import optuna
    from optuna.storages import RDBStorage

    from autotune.search.storage import StudyLock

log = logging.getLogger(__name__)
SUMMARY_VERSION = 1  # of summary.json
ROW_VERSION = 2  # of a line of results.jsonl; 2 has `sampling`, and lines without it are of 1
MANIFEST = "manifest.json"
RESULTS = "results.jsonl"
SEARCH = "search"  # user attribute of a study: whose it is
MIN_FREE_BYTES = 64 * 2**20  # references, study and presets of a small search


@dataclass
class RunFolder:
    """An output folder held by one search at a time.

    Raises:
        ConfigError: another search holds the folder, it cannot be written, or its disk is full.
    """

    path: Path
    _lock: IO[str] | None = field(default=None, repr=False)
    _study_lock: StudyLock | None = field(default=None, repr=False)
    _storage: RDBStorage | None = field(default=None, repr=False)
    _new: bool = field(default=False, repr=False)

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
        """Give the locks back."""
        self._close_study()
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
        path = self.path / MANIFEST
        now = Manifest.of(experiment, space)
        self._new = not path.exists()
        if not self._new:
            if not resume:
                raise ConfigError(
                    "holds a search already; go on with --resume or choose another --out",
                    source=str(self.path),
                )
            then = Manifest.read(path)
            then.check(now, str(self.path))
            now = now.model_copy(update={"search": then.search})
        self.write("experiment.yaml", dump_yaml(experiment.to_data()))
        self.write(MANIFEST, json.dumps(now.to_data(), indent=1) + "\n")

    def open_study(self, experiment: Experiment) -> optuna.Study:
        """Open the study of a claimed folder, for this driver alone until `release`.

        Raises:
            ConfigError: the storage cannot be opened, another driver has the study, or it is the study of
                another search.
        """
        from autotune.search.optuna_study import open_study
        from autotune.search.storage import StudyLock, open_storage

        url, name = experiment.search.storage, experiment.search.study or experiment.name
        try:
            if url is None:  # the folder's lock holds the study, too
                self._storage = open_storage(f"sqlite:///{self.path / 'study.db'}")
                study = open_study(self._storage, experiment.objectives)
            else:
                self._storage = open_storage(url)
                self._study_lock = StudyLock(self._storage, name)
                self._study_lock.acquire()
                study = open_study(self._storage, experiment.objectives, name)
            self._check_study(study, url, name)
        except ConfigError:
            self._close_study()
            if self._new:  # nothing was started: the next try needs no --resume
                (self.path / MANIFEST).unlink(missing_ok=True)
            raise
        return study

    def _close_study(self) -> None:
        if self._study_lock is not None:
            self._study_lock.release()
            self._study_lock = None
        if self._storage is not None:
            self._storage.remove_session()
            self._storage.engine.dispose()
            self._storage = None

    def check_study(self) -> bool:
        """Make sure that the study is still ours; whether its lock had to be taken again.

        Raises:
            StudyLostError: it is not.
        """
        return self._study_lock is not None and self._study_lock.check()

    def _check_study(self, study: optuna.Study, url: str | None, name: str) -> None:
        search = Manifest.read(self.path / MANIFEST).search
        owner = study.user_attrs.get(SEARCH)
        trials = study.get_trials(deepcopy=False)
        if owner not in (None, search) or (owner is None and trials and url is not None):
            raise ConfigError(
                f"got {name!r}, a study of another search in this storage; give a new name, or resume it "
                "with its own --out",
                key="search.study",
            )
        rows = self.rows()
        if rows and max(row.trial for row in rows) >= len(trials):
            raise ConfigError(
                f"holds results of trials that the study {'study.db' if url is None else repr(name)} does "
                "not have; restore the study, or choose another --out",
                source=str(self.path / RESULTS),
            )
        lost = {t.number for t in trials if t.state.name == "COMPLETE"} - {row.trial for row in rows}
        if lost:
            log.warning(
                "%d told trials have no row in %s: they are left out of the front", len(lost), RESULTS
            )
        if owner is None:
            study.set_user_attr(SEARCH, search)

    def write(self, name: str, text: str) -> Path:
        """Write a file whole or not at all."""
        target = self.path / name
        write_text(target, text)
        return target

    def append(self, row: TrialRow) -> None:
        """Append a result with a checksum, and wait until it is on the disk; it is written whole or not."""
        data, version = asdict(row), ROW_VERSION
        if not row.sampling:
            del data["sampling"]
            version = 1
        text = json.dumps(data, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        line = json.dumps({"version": version, "row": text, "sha256": digest}).encode() + b"\n"
        with (self.path / RESULTS).open("ab+", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a crash cut the last line off
                    line = b"\n" + line
            try:
                _write_all(file, line)
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise

    def rows(self) -> list[TrialRow]:
        """Read the results; a line torn by a crash is left out.

        Raises:
            ConfigError: a line is of a newer version.
        """
        path = self.path / RESULTS
        if not path.exists():
            return []
        found = [_row(line, f"{path}:{i}") for i, line in enumerate(path.read_bytes().splitlines(), 1)]
        return [row for row in found if row is not None]


def _write_all(file: IO[bytes], data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _row(line: bytes, source: str) -> TrialRow | None:
    """Read a line; None where it is torn or changed."""
    try:
        entry = json.loads(line)
        text = str(entry["row"])
        if hashlib.sha256(text.encode()).hexdigest() != entry["sha256"]:
            return None
        version, data = entry.get("version", 1), json.loads(text)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    try:
        if version > ROW_VERSION:
            raise TypeError
        return TrialRow(**data)
    except TypeError:
        raise ConfigError(
            f"a result of version {version!r}, allowed is {ROW_VERSION}; read it with the version of "
            "autotune that wrote it, or choose another --out",
            source=source,
        ) from None
