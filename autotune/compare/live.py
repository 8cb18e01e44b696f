"""Peers in a comparison: measured one after the other, each result kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from autotune.compare.entrants import Entrant
from autotune.compare.peers import (
    PeerFailedError,
    PeerRequest,
    PeerResult,
    check_installed,
    installed_version,
    measure_peer,
)
from autotune.compare.recipe import Peer
from autotune.scoring.case import Case
from autotune.scoring.entry import DamagedEntryError
from autotune.scoring.evaluator import EvaluatorSpec
from xslim.errors import ConfigError


@dataclass(frozen=True)
class Live:
    """Measures peers.

    Attributes:
        spec: model, metrics and references, as the workers have them.
        folder: where results are kept.
        context: what all measurements of this run have in common.
        cases: held-out ones.
        calibration: a batch of the search's cases.
        floor: the A/A floor of the run.
        rounds: of timing.
        seconds: that one may take.
        pictures: how many are kept.
        stop: whether to end early.
    """

    spec: EvaluatorSpec
    folder: Path
    context: Mapping[str, Any]
    cases: tuple[Case, ...]
    calibration: tuple[Case, ...]
    floor: float | None
    rounds: int
    seconds: float
    pictures: int
    stop: Callable[[], bool]
    _uncached: dict[int, list[float]] = field(default_factory=dict)

    def measured(self, entrants: Sequence[Entrant]) -> Iterator[tuple[Entrant, PeerResult | str]]:
        """Measure each one; yield its result, or why there is none."""
        for entrant in entrants:
            if self.stop():
                return
            if entrant.peer is not None:
                yield entrant, self._result(entrant.peer)

    def _result(self, peer: Peer) -> PeerResult | str:
        path = self._path(peer)
        kept = _kept(path)
        if kept is not None:
            self._uncached.update(kept.uncached)
            return kept
        request = PeerRequest(
            self.spec,
            peer,
            self.cases,
            self.rounds,
            self.pictures,
            self.calibration,
            self.floor,
            self._uncached,
        )
        try:
            check_installed(peer)
            found = measure_peer(request, self.seconds)
        except (PeerFailedError, ConfigError) as error:
            return str(error)
        self._uncached.update(found.uncached)
        path.parent.mkdir(parents=True, exist_ok=True)
        found.write(path)
        return found

    def _path(self, peer: Peer) -> Path:
        facts = {
            **self.context,
            "peer": peer.to_data(),
            "version": installed_version(peer),
            "cases": [asdict(case) for case in self.cases],
            "calibration": [asdict(case) for case in self.calibration],
            "rounds": self.rounds,
            "pictures": self.pictures,
        }
        key = sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{key}.safetensors"


def _kept(path: Path) -> PeerResult | None:
    """A result of an earlier run; a damaged one is measured again."""
    try:
        found = PeerResult.read(path)
    except DamagedEntryError:
        return None
    return found if isinstance(found, PeerResult) else None
