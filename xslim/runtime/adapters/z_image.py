"""Z-Image (arXiv:2511.22699), diffusers' ZImageTransformer2DModel: image and text are one stream of tokens.

The refiner blocks before the stack, which see image or text alone, run at every step.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from xslim.runtime.adapters.base import Arguments, BlockAdapter, Stack, Timestep

_ROWS = ("attn_mask", "freqs_cis", "adaln_input", "noise_mask", "adaln_noisy", "adaln_clean")


def _embedding(arguments: Arguments) -> str:
    return "adaln_input" if arguments.get("noise_mask") is None else "adaln_noisy"


def modulated(block: nn.Module, arguments: Arguments) -> Tensor:
    """Input of the first block after its norm; shape [batch, tokens, dim].

    Where `noise_mask` [batch, tokens] is given, it tells noisy tokens (1) from clean ones, which have an
    embedding of their own.
    """
    hidden, mask = arguments.tensor("x"), arguments.get("noise_mask")
    modulation = block.get_submodule("adaLN_modulation")
    scale = modulation(arguments.tensor(_embedding(arguments)))[:, None, : hidden.shape[-1]]
    if isinstance(mask, Tensor):
        clean = modulation(arguments.tensor("adaln_clean"))[:, None, : hidden.shape[-1]]
        scale = torch.where(mask[..., None] == 1, scale, clean)
    result: Tensor = block.get_submodule("attention_norm1")(hidden) * (1 + scale)
    return result


def time_embedding(block: nn.Module, arguments: Arguments) -> Tensor:
    """Embedding of the step's time; shape [batch, dim]."""
    return arguments.tensor(_embedding(arguments))


def _no_tokens(config: Mapping[str, object]) -> str | None:
    return "image and text are one padded sequence, in which image tokens cannot be told apart"


Z_IMAGE = BlockAdapter(
    family="z-image",
    transformer="ZImageTransformer2DModel",
    stacks=(Stack(path="layers", kind="single", image="x", row_arguments=_ROWS, attention=()),),
    modulated=modulated,
    time_embedding=time_embedding,
    latent="x",
    conditioning="cap_feats",
    timestep=Timestep(argument="t", scale=-1000.0, offset=1000.0),
    no_tokens=_no_tokens,
    remark="the latent is a list of samples",
)
