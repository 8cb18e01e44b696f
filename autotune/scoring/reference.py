"""Reference outputs: what the uncached model draws, kept by content hash for all workers and searches."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from autotune.scoring.case import Case
from autotune.scoring.drawn import Drawn
from autotune.scoring.entry import DamagedEntryError, Entry, read_entry, remove_parts, write_entry
from autotune.scoring.fingerprint import code_versions, model_sha256, numerics
from autotune.scoring.locking import file_lock
from autotune.scoring.pipeline import PipelineRunner
from xslim.errors import ConfigError
from xslim.policy.preset import config_sha256

log = logging.getLogger(__name__)
FORMAT = 2  # of an entry; rises when what it holds changes
SUFFIX = ".safetensors"
LOCK_TIMEOUT_S = 3600.0  # a batch of clips may take this long; then it is drawn twice
# fields of a spec that say where a model lies and runs; what it is and how it rounds is hashed by itself
ELSEWHERE = ("path", "revision", "device", "batch")


class ReferenceStore:
    """Uncached outputs of batches, each drawn once.

    A batch that two workers miss at once is drawn by one of them, the other waits for it. An entry that is
    cut, altered or of another key is drawn again, and the first such is warned of.

    Args:
        folder: any number of workers and searches may share it.
        runner: draws what is missing; its model must be detached then.
        lock_timeout_s: how long to wait for another worker's drawing.
    """

    def __init__(self, folder: Path, runner: PipelineRunner, lock_timeout_s: float = LOCK_TIMEOUT_S) -> None:
        self._folder = folder
        self._runner = runner
        self._timeout_s = lock_timeout_s
        self._warned: set[str] = set()
        scheduler = runner.pipe.scheduler
        self._identity = {
            "format": FORMAT,
            "model": model_sha256(runner.spec.path, runner.spec.revision, runner.pipe),
            "pipeline": type(runner.pipe).__name__,
            "scheduler": [type(scheduler).__name__, config_sha256(scheduler.config)],
            "request": {k: v for k, v in asdict(runner.spec).items() if k not in ELSEWHERE},
            "code": code_versions(),
            "numerics": numerics(runner.device),
        }

    def key(self, batch: Sequence[Case]) -> str:
        """Content hash of one batch; all its cases are part of it, because kernels round by batch size."""
        entry = {**self._identity, "cases": [asdict(case) for case in batch]}
        return sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()

    def outputs(self, batch: Sequence[Case]) -> Drawn:
        """Return what the uncached model draws for one batch; it is drawn when it is not stored.

        Raises:
            ConfigError: the uncached model draws values that are not finite.
        """
        key = self.key(batch)
        found = self._read(key)
        if found is not None:
            return found
        with self._lock(key):
            found = self._read(key)  # another worker may have drawn it in the meantime
            if found is None:
                found = self._draw(batch)
                self._write(key, batch, found)
        return found

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{SUFFIX}"

    @contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        """Keep other workers from drawing the same; goes on without when that cannot be had."""
        with ExitStack() as stack:
            try:
                if stack.enter_context(file_lock(self._folder / f"{key}.lock", self._timeout_s)):
                    remove_parts(self._path(key))
                else:
                    log.warning("waited %.0f s for a reference of another worker", self._timeout_s)
            except OSError as error:
                self._warn("lock", f"{self._folder}: cannot lock ({error.strerror}); some may be drawn twice")
            yield

    def _draw(self, batch: Sequence[Case]) -> Drawn:
        drawn = self._runner.draw(batch)
        if not (drawn.images.isfinite().all() and drawn.latents.isfinite().all()):
            raise ConfigError(
                f"the uncached model draws values that are not finite in {self._runner.spec.dtype}; "
                "give another dtype, such as bfloat16 or float32",
                key="model.dtype",
            )
        return drawn

    def _read(self, key: str) -> Drawn | None:
        path = self._path(key)
        try:
            entry = read_entry(path, key)
            return None if entry is None else Drawn(entry.tensors["images"], entry.tensors["latents"])
        except DamagedEntryError as error:
            self._warn("damaged", f"{path}: damaged: {error}; such references are drawn again")
            return None

    def _write(self, key: str, batch: Sequence[Case], drawn: Drawn) -> None:
        facts = {**self._identity, "cases": [asdict(case) for case in batch]}
        entry = Entry({"images": drawn.images, "latents": drawn.latents}, facts)
        try:
            write_entry(self._path(key), key, entry)
        except OSError as error:
            self._warn("write", f"{self._folder}: cannot write ({error}); references are drawn every time")

    def _warn(self, kind: str, text: str) -> None:
        """Warn of the first of its kind."""
        if kind not in self._warned:
            self._warned.add(kind)
            log.warning("%s", text)


def stored(folder: Path) -> tuple[int, int]:
    """Return how many batches are stored in a folder, and their bytes."""
    sizes = [path.stat().st_size for path in folder.glob(f"*{SUFFIX}")]
    return len(sizes), sum(sizes)
