"""What the tiny models share: their description, conditioning, and a sampler without a scheduler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xslim.runtime.model import LiveModel

# parts of the names of parameters that make the embedding of time matter
LOUD = (
    ".norm1",
    ".norm.",
    "_mod.",
    "modulation",
    "scale_shift_table",
    "time_proj",
    "single.linear",
    "pos_freq",
)


@dataclass(frozen=True)
class Tiny:
    """How to build and call the tiny model of one adapter.

    Attributes:
        transformer: its class name.
        variant: a way to call it that is not the usual one.
        build: returns the seeded model.
        latent: returns the starting noise of a batch, [batch, ...].
        call: (model, latent, time from 1 down to 0) -> output, shaped as the latent.
        tokens: image tokens of a sample.
        attention: submodule of each block that runs exactly when the block runs, on the modulated input.
    """

    transformer: str
    build: Callable[[], nn.Module]
    latent: Callable[[int, torch.Generator], Tensor]
    call: Callable[[nn.Module, Tensor, float], Tensor]
    tokens: int
    attention: str = "attn"
    variant: str = ""

    @property
    def name(self) -> str:
        """Name of the transformer's class, and of the variant."""
        return f"{self.transformer}-{self.variant}" if self.variant else self.transformer

    def attentions(self, model: nn.Module) -> list[nn.Module]:
        """The submodule `attention` of all blocks."""
        return [block.get_submodule(self.attention) for block in LiveModel(model).blocks]


def loud(model: nn.Module) -> nn.Module:
    """Make modulation matter: a freshly initialised one hardly depends on time."""
    for name, parameter in model.named_parameters():
        if any(part in name for part in LOUD):
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def text(batch: int, tokens: int, width: int) -> Tensor:
    """Conditioning, different for every sample, the same at every call."""
    rows = [torch.randn(tokens, width, generator=torch.Generator().manual_seed(77 + i)) for i in range(batch)]
    return torch.stack(rows)


def text_like(latent: Tensor, tokens: int, width: int) -> Tensor:
    """Conditioning for a latent, in its precision."""
    return text(len(latent), tokens, width).to(latent.dtype)


def mask(batch: int, tokens: int, dtype: torch.dtype = torch.bool) -> Tensor:
    """Text masks: the last two tokens are padding, and one more in every other sample."""
    rows = torch.ones(batch, tokens)
    rows[:, -2:] = 0
    rows[1::2, -3] = 0
    return rows.to(dtype)


def times(latent: Tensor, time: float, scale: float = 1.0) -> Tensor:
    """One time a sample, in the latent's precision."""
    return torch.full((len(latent),), scale * time).to(latent.dtype)


def noise(tiny: Tiny, batch: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Starting noise; row i depends on seed + i only."""
    rows = [tiny.latent(1, torch.Generator().manual_seed(seed + i)) for i in range(batch)]
    return torch.cat(rows).to(dtype)


def gaussian(*shape: int) -> Callable[[int, torch.Generator], Tensor]:
    """Noise of a shape, for `Tiny.latent`."""
    return lambda batch, generator: torch.randn(batch, *shape, generator=generator)


@torch.no_grad()
def sample(
    tiny: Tiny,
    model: nn.Module,
    steps: int,
    latent: Tensor,
    before: Callable[[int, Tensor], Tensor] = lambda step, x: x,
) -> Tensor:
    """A plain Euler loop; `before` may change the latent that enters a step. Returns the last latent."""
    x = latent
    for step in range(steps):
        x = before(step, x)
        x = x - tiny.call(model, x, 1 - step / steps) / steps
    return x
