"""The process that measures one peer: `python -m autotune.compare.peers.worker REQUEST RESULT`."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import numpy as np

from autotune.compare.peers.cache import Library, PeerCache
from autotune.compare.peers.failure import PeerFailedError
from autotune.compare.peers.request import NEVER_REUSED, PeerRequest, PeerResult, write_failure
from autotune.compare.recipe import Peer
from autotune.scoring.case import Case
from autotune.scoring.drawn import Drawn, as_pictures
from autotune.scoring.evaluator import PipelineEvaluator
from autotune.scoring.measurement import Pictures
from autotune.scoring.pipeline import PipelineRunner
from xslim.errors import XSlimError

ALL = 1 - 1e-6  # compute fraction from which everything was computed


def library_of(peer: Peer, runner: PipelineRunner, batch: tuple[Case, ...]) -> Library:
    """Prepare a peer's library for a pipeline.

    Raises:
        PeerFailedError: it does not run on this model.
    """
    if peer.library == "diffusers":
        from autotune.compare.peers.diffusers_hooks import DiffusersHooks

        return DiffusersHooks(peer, runner, batch)
    from autotune.compare.peers.cache_dit_library import CacheDit

    return CacheDit(peer, runner)


def measure(request: PeerRequest, evaluator: PipelineEvaluator | None = None) -> PeerResult:
    """Measure a peer in this process; it may leave classes patched.

    Args:
        request: what is measured.
        evaluator: of the request's spec; None builds it.

    Raises:
        PeerFailedError: it does not run on this model.
    """
    evaluator = evaluator or PipelineEvaluator(request.spec)
    batch = next(evaluator.runner.batches(request.calibration or request.cases))
    library = library_of(request.peer, evaluator.runner, batch)
    kept: list[Pictures] = []

    def keep(drawn: Drawn) -> None:
        if sum(len(images) for images in kept) < request.pictures:
            kept.append(as_pictures(drawn.images))

    cache = PeerCache(request.peer, library, dict(request.uncached))
    measured = evaluator.measure(cache, request.cases, request.rounds, seen=keep, floor=request.floor)
    images = np.concatenate(kept)[: request.pictures] if kept else None
    idle = (NEVER_REUSED,) if measured.quality.compute_fraction >= ALL else ()
    return PeerResult(measured, images, (*library.notes, *idle), cache.uncached)


def main(request: Path, result: Path) -> int:
    """Measure what a file asks for; write what was found, or why it failed."""
    try:
        measure(PeerRequest.of(request.read_text())).write(result)
        return 0
    except (PeerFailedError, XSlimError) as error:
        write_failure(result, str(error))
    except Exception as error:
        traceback.print_exc()
        write_failure(result, " ".join(traceback.format_exception_only(error)[-1].split()))
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
