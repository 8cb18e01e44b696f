"""Long measurements in parts: each is stored when it is in, so that a resumed run measures what is left."""

from __future__ import annotations

import json
import logging
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autotune.scoring.case import Case
from autotune.scoring.entry import DamagedEntryError, Entry, read_entry, write_entry
from autotune.scoring.measurement import Latency, Measurement, Quality
from autotune.scoring.sampling import REFERENCE, Sampling
from autotune.scoring.scores import joined as joined_values
from autotune.search.dispatch import Dispatcher, last_line
from xslim.policy.policy import Policy
from xslim.policy.preset import Preset

log = logging.getLogger(__name__)
PART_CASES = 16  # between two writes, in whole batches


@dataclass(frozen=True, slots=True)
class Job:
    """A policy that is measured on some cases; timed in so many rounds on the batches of its first part.

    Attributes:
        tag: comes back with the result.
        sampling: where it is not the reference's.
    """

    policy: Policy | Preset
    cases: tuple[Case, ...]
    rounds: int
    tag: Any = None
    sampling: Sampling = REFERENCE


@dataclass(frozen=True, slots=True)
class PartStore:
    """Parts on disk. The key holds all that a part depends on, so a part of something else is never found.

    Attributes:
        folder: where they lie.
        context: what the measurements of this run have in common: model, metrics, versions.
    """

    folder: Path
    context: Mapping[str, Any]

    def get(self, part: Job) -> Measurement | None:
        """Return a stored part; a damaged one is measured again, with a warning."""
        key = self._key(part)
        try:
            entry = read_entry(self._path(key), key)
            return None if entry is None else decode_measurement(entry)
        except DamagedEntryError as error:
            log.warning("%s: damaged: %s; it is measured again", self._path(key), error)
            return None

    def put(self, part: Job, measured: Measurement) -> None:
        """Store a part.

        Raises:
            OSError: the folder cannot be written.
        """
        key = self._key(part)
        write_entry(self._path(key), key, encode_measurement(measured))

    def clear(self) -> None:
        """Remove all parts: what they were kept for is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _key(self, part: Job) -> str:
        data = {
            **self.context,
            **_policy(part.policy),
            **({} if part.sampling == REFERENCE else {"sampling": part.sampling.to_data()}),
            "cases": [asdict(case) for case in part.cases],
            "rounds": part.rounds,
        }
        return sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _policy(policy: Policy | Preset) -> dict[str, Any]:
    """What is measured of a policy, or of a preset: not its name or evidence."""
    if isinstance(policy, Preset):
        return {"policy": policy.policy.to_data(), "signature": policy.model.to_data()}
    return {"policy": policy.to_data()}


@dataclass
class _Open:
    """A job in work: its parts, and what is in of them."""

    job: Job
    parts: list[Job]
    found: dict[int, Measurement] = field(default_factory=dict)
    error: str | None = None


def measure(
    dispatcher: Dispatcher,
    jobs: Sequence[Job],
    batch: int,
    store: PartStore,
    stop: Callable[[], bool],
) -> Iterator[tuple[Job, Measurement | str]]:
    """Measure jobs part by part; yield each when it is whole, or what went wrong.

    When told to stop, what is in flight is finished and stored; jobs that are not whole are not yielded.
    """
    left: deque[tuple[_Open, int]] = deque()
    for job in jobs:
        state = _Open(job, cut(job, batch))
        stored = {i: store.get(part) for i, part in enumerate(state.parts)}
        state.found = {i: part for i, part in stored.items() if part is not None}
        left.extend((state, i) for i in stored if i not in state.found)
        if len(state.found) == len(state.parts):
            yield job, joined([state.found[i] for i in range(len(state.parts))])
    while dispatcher.flying or (left and not stop()):
        while left and dispatcher.free and not stop():
            state, i = left.popleft()
            if state.error is None:
                part = state.parts[i]
                dispatcher.submit(
                    "evaluate", part.cases, (state, i), part.policy, part.rounds, sampling=part.sampling
                )
        for tag, result in dispatcher.wait():
            state, i = tag  # type: ignore[misc]
            if state.error is not None:
                continue
            if not isinstance(result.value, Measurement):
                state.error = last_line(result.error)
                yield state.job, state.error
                continue
            store.put(state.parts[i], result.value)
            state.found[i] = result.value
            if len(state.found) == len(state.parts):
                yield state.job, joined([state.found[i] for i in range(len(state.parts))])


def cut(job: Job, batch: int, least: int = PART_CASES) -> list[Job]:
    """Cut a job into parts; only the first one is timed, and has a batch for each round.

    Args:
        job: what is measured.
        batch: cases of a batch; parts are whole ones.
        least: cases of a part, rounded up.
    """
    size = max(1, -(-least // batch)) * batch
    first = job.rounds * batch or size
    starts = [0, *range(first, len(job.cases), size)]
    return [
        replace(job, cases=job.cases[at:end], rounds=0 if at else job.rounds, tag=None)
        for at, end in zip(starts, [*starts[1:], len(job.cases)], strict=True)
    ]


def joined(parts: Sequence[Measurement]) -> Measurement:
    """One measurement of the cases of several, in their order."""
    qualities = [part.quality for part in parts]
    weights = [len(quality.cases) for quality in qualities]
    quality = replace(
        qualities[0],
        cases=tuple(case for quality in qualities for case in quality.cases),
        rows=joined_values([quality.rows for quality in qualities]),
        features=joined_values([quality.features for quality in qualities]),
        compute_fraction=float(np.average([q.compute_fraction for q in qualities], weights=weights)),
        trace_sha256=sha256("".join(q.trace_sha256 for q in qualities).encode()).hexdigest(),
        held_bytes=max(q.held_bytes for q in qualities),
        wall_s=sum(q.wall_s for q in qualities),
    )
    return replace(parts[0], quality=quality)


def encode_measurement(measured: Measurement) -> Entry:
    """A measurement as an entry: arrays as tensors, everything else as JSON."""
    tensors: dict[str, torch.Tensor] = {}

    def plain(value: Any, path: str) -> Any:
        if isinstance(value, np.ndarray):
            tensors[path] = torch.from_numpy(np.array(value))
            return {"tensor": path}
        if isinstance(value, Mapping):
            return {name: plain(item, f"{path}.{name}") for name, item in value.items()}
        return value

    facts = plain(asdict(measured), "measurement")
    return Entry(tensors, facts)


def decode_measurement(entry: Entry) -> Measurement:
    """Read what `encode_measurement` gave.

    Raises:
        DamagedEntryError: it is of another version.
    """

    def value(data: Any) -> Any:
        if isinstance(data, Mapping):
            if set(data) == {"tensor"}:
                return entry.tensors[data["tensor"]].numpy()
            return {name: value(item) for name, item in data.items()}
        return data

    try:
        data: dict[str, Any] = value(entry.facts)
        quality, latency = data.pop("quality"), data.pop("latency")
        quality["cases"] = tuple(Case(**case) for case in quality["cases"])
        if latency is not None:
            tuples: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in latency.items()}
            latency = Latency(**tuples)
        return Measurement(**data, quality=Quality(**quality), latency=latency)
    except (KeyError, TypeError) as error:
        raise DamagedEntryError(f"written by another version: {error}") from None
