"""What is asked of a peer's process, as JSON; and what it answers, as an entry."""

from __future__ import annotations

import json
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
    """

    spec: EvaluatorSpec
    peer: Peer
    cases: tuple[Case, ...]
    rounds: int
    pictures: int = 0

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
        )


@dataclass(frozen=True, slots=True)
class PeerResult:
    """What was measured of a peer.

    Attributes:
        measurement: as of a policy of ours.
        images: the first pictures [cases, H, W, C], or clips [cases, frames, H, W, C], as uint8; None where
            none were asked for.
        notes: what has to be known of how it was measured.
    """

    measurement: Measurement
    images: Pictures | None = None
    notes: tuple[str, ...] = field(default=())

    def write(self, path: Path) -> None:
        """Write it as an entry."""
        entry = encode_measurement(self.measurement)
        pictures = (
            {} if self.images is None else {"images": torch.from_numpy(np.ascontiguousarray(self.images))}
        )
        facts = {"measurement": entry.facts, "notes": list(self.notes)}
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
        )


def write_failure(path: Path, reason: str) -> None:
    """Write why there is no result."""
    write_entry(path, KEY, Entry({}, {"failed": reason}))
