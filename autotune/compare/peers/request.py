"""What is asked of a peer's process, as JSON; and what it answers, as an entry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autotune.compare.recipe import Peer
from autotune.scoring.case import Case
from autotune.scoring.entry import DamagedEntryError, Entry, read_entry, write_entry
from autotune.scoring.evaluator import EvaluatorSpec
from autotune.scoring.measurement import Measurement, Pictures
from autotune.scoring.nets.spec import MetricsSpec, NetSpec
from autotune.scoring.pipeline import Memory, ModelSpec
from autotune.search.parts import decode_measurement, encode_measurement

KEY = "peer"  # of a result
NEVER_REUSED = "never reused anything"  # note of a peer that computed everything


@dataclass(frozen=True, slots=True)
class PeerRequest:
    """What is measured.

    Attributes:
        spec: model, metrics and references.
        peer: which cache.
        cases: what is drawn.
        rounds: A B B A rounds; 0 times nothing.
        pictures: how many of the first pictures are wanted.
        calibration: a batch that no quality is measured on, for a library that calibrates itself; empty takes
            the first batch of the cases.
        floor: A/A floor of this machine; None measures it.
        uncached: batch size -> MACs of the uncached transformer's calls; a size that is missing is counted.
    """

    spec: EvaluatorSpec
    peer: Peer
    cases: tuple[Case, ...]
    rounds: int
    pictures: int = 0
    calibration: tuple[Case, ...] = ()
    floor: float | None = None
    uncached: Mapping[int, list[float]] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return text that `of` reads back."""
        return json.dumps({**asdict(self), "peer": self.peer.to_data()})

    @classmethod
    def of(cls, text: str) -> PeerRequest:
        """Read what `to_json` gave."""
        data: dict[str, Any] = json.loads(text)
        spec = data["spec"]
        model = {**spec["model"], "memory": Memory(**spec["model"]["memory"])}
        nets = {role: None if net is None else NetSpec(**net) for role, net in spec["metrics"].items()}
        parts = {"model": ModelSpec(**model), "metrics": MetricsSpec(**nets)}
        return cls(
            spec=EvaluatorSpec(**{**spec, **parts}),
            peer=Peer.parse(data["peer"]),
            cases=tuple(Case(**case) for case in data["cases"]),
            rounds=data["rounds"],
            pictures=data["pictures"],
            calibration=tuple(Case(**case) for case in data["calibration"]),
            floor=data["floor"],
            uncached=_counted(data["uncached"]),
        )


@dataclass(frozen=True, slots=True)
class PeerResult:
    """What was measured of a peer.

    Attributes:
        measurement: as of a policy of ours.
        images: the first pictures [cases, H, W, C], or clips [cases, frames, H, W, C], as uint8; None where
            none were asked for.
        notes: what has to be known of how it was measured.
        uncached: as in a request, with what this one counted.
    """

    measurement: Measurement
    images: Pictures | None = None
    notes: tuple[str, ...] = field(default=())
    uncached: Mapping[int, list[float]] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write it as an entry."""
        entry = encode_measurement(self.measurement)
        pictures = (
            {} if self.images is None else {"images": torch.from_numpy(np.ascontiguousarray(self.images))}
        )
        facts = {
            "measurement": entry.facts,
            "notes": list(self.notes),
            "uncached": {str(size): calls for size, calls in self.uncached.items()},
        }
        write_entry(path, KEY, Entry({**entry.tensors, **pictures}, facts))

    @classmethod
    def read(cls, path: Path) -> PeerResult | str:
        """Read a result, or the reason that `write_failure` left.

        Raises:
            DamagedEntryError: there is none.
        """
        entry = read_entry(path, KEY)
        if entry is None:
            raise DamagedEntryError("there is no result")
        if "failed" in entry.facts:
            return str(entry.facts["failed"])
        images = entry.tensors.get("images")
        return cls(
            decode_measurement(Entry(entry.tensors, entry.facts["measurement"])),
            None if images is None else images.numpy(),
            tuple(entry.facts["notes"]),
            _counted(entry.facts["uncached"]),
        )


def _counted(data: Mapping[str, list[float]]) -> dict[int, list[float]]:
    """What JSON keeps with text for keys."""
    return {int(size): calls for size, calls in data.items()}


def write_failure(path: Path, reason: str) -> None:
    """Write why there is no result."""
    write_entry(path, KEY, Entry({}, {"failed": reason}))
