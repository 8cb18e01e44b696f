"""First-Block Cache as a policy: step by step what the hook of diffusers does, on tiny FLUX."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from diffusers.hooks import FirstBlockCacheConfig, apply_first_block_cache
from torch import Tensor, nn

import xslim
from tests.tiny import TINY, noise, sample
from xslim import Policy
from xslim.runtime.model import LiveModel

FLUX = TINY["FluxTransformer2DModel"]
STEPS = 24


@dataclass
class Watched:
    """What a request did: both streams behind every block, and which blocks' attention ran, step by step."""

    streams: list[list[tuple[Tensor, Tensor]]] = field(default_factory=list)  # [steps][blocks](text, image)
    ran: list[list[int]] = field(default_factory=list)  # [steps], blocks

    @property
    def actions(self) -> str:
        """F where all blocks ran, B where some did."""
        blocks = len(self.streams[0])
        return "".join("F" if len(ran) == blocks else "B" for ran in self.ran)


def watched(model: nn.Module, start: Tensor) -> tuple[Tensor, Watched]:
    """Run a request with hooks on all blocks."""
    seen, handles = Watched(), []
    for index, block in enumerate(LiveModel(model).blocks):
        handles += [
            block.attn.register_forward_hook(lambda *_, i=index: seen.ran[-1].append(i)),
            block.register_forward_hook(
                lambda _, args, out: seen.streams[-1].append((out[0].clone(), out[1].clone()))
            ),
        ]

    def begin(step: int, latent: Tensor) -> Tensor:
        seen.streams.append([])
        seen.ran.append([])
        return latent

    with model.cache_context("only"):
        latent = sample(FLUX, model, STEPS, start, before=begin)
    for handle in handles:
        handle.remove()
    return latent, seen


def first_block_cache(threshold: float, **block: int) -> Policy:
    return Policy.parse(
        {
            "controller": {
                "kind": "dual-threshold",
                "critical": threshold,
                "warning_fraction": 0.0,
                "warmup": 1,
                "cooldown": 0,
                "polish": ["block"],
            },
            "indicator": {"signals": {"first_block": 1.0}, "compare": "computed", "accumulate": "latest"},
            "block": block or {"first": 1},
        }
    )


@pytest.mark.parametrize("threshold", [0.3, 0.4, 0.6, 0.8])
def test_it_is_that_of_diffusers(threshold: float) -> None:
    """The same computed steps, the same two streams behind the last block, the same latent."""
    start, model, other = noise(FLUX, 1), FLUX.build(), FLUX.build()
    apply_first_block_cache(other, FirstBlockCacheConfig(threshold=threshold))
    theirs, expected = watched(other, start)
    with xslim.attach(model, first_block_cache(threshold), num_steps=STEPS) as session:
        ours, found = watched(model, start)
    assert expected.actions == found.actions == session.trace.actions
    assert {"F", "B"} == set(found.actions), "the threshold tells steps apart"
    assert found.ran == expected.ran
    for mine, their in zip(found.streams, expected.streams, strict=True):
        torch.testing.assert_close(mine[-1], their[-1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_ends_of_the_stack_run_and_both_streams_of_the_rest_are_replayed() -> None:
    """DBCache's F2B1: by hand from the streams of the last full step; the whole batch, sample by sample."""
    start, model = noise(FLUX, 3), FLUX.build()
    with xslim.attach(model, first_block_cache(0.5, first=2, last=1), num_steps=STEPS) as session:
        _, seen = watched(model, start)
    blocks = len(seen.streams[0])
    rows = [session.trace.actions_of("only", row) for row in range(3)]
    assert len(set(rows)) > 1, "samples are decided one by one"
    for row, actions in enumerate(rows):
        for step in (s for s, action in enumerate(actions) if action == "B"):
            full, now = (seen.streams[s] for s in (actions.rfind("F", 0, step), step))
            for stream in (0, 1):
                for block in range(2, blocks - 1):
                    added = full[block][stream][row] - full[block - 1][stream][row]
                    replayed = now[block - 1][stream][row] + added
                    torch.testing.assert_close(now[block][stream][row], replayed, rtol=1e-5, atol=1e-5)
                behind = now[blocks - 1][stream][row] - now[blocks - 2][stream][row]
                old = full[blocks - 1][stream][row] - full[blocks - 2][stream][row]
                assert not torch.allclose(behind, old, rtol=1e-4, atol=1e-5), "the last block ran"
    for step, ran in enumerate(seen.ran):
        middle = any(actions[step] == "F" for actions in rows)
        assert ran == (list(range(blocks)) if middle else [0, 1, blocks - 1])
