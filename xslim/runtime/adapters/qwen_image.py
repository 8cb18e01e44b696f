"""Qwen-Image (arXiv:2508.02324), diffusers' QwenImageTransformer2DModel. Text stands before the image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xslim.runtime.adapters.base import Arguments, BlockAdapter, Rotary, Stack, Timestep


def modulated(block: nn.Module, arguments: Arguments) -> Tensor:
    """Input of the first block after its norm; shape [batch, tokens, dim].

    Where `modulate_index` [batch, tokens] is given, the embedding holds the batch twice, at the step's time
    and at time 0, and the index picks one for every token.
    """
    hidden, index = arguments.tensor("hidden_states"), arguments.get("modulate_index")
    shift, scale = block.get_submodule("img_mod")(arguments.tensor("temb"))[:, None].chunk(6, dim=-1)[:2]
    if isinstance(index, Tensor):
        shift, scale = (torch.where(index[..., None] == 0, *part.chunk(2)) for part in (shift, scale))
    result: Tensor = block.get_submodule("img_norm1")(hidden) * (1 + scale) + shift
    return result


def time_embedding(block: nn.Module, arguments: Arguments) -> Tensor:
    """Embedding of the step's time; shape [batch, dim]."""
    return arguments.tensor("temb")[: len(arguments.tensor("hidden_states"))]


QWEN_IMAGE = BlockAdapter(
    family="qwen-image",
    transformer="QwenImageTransformer2DModel",
    stacks=(
        Stack(
            path="transformer_blocks",
            kind="double",
            text="encoder_hidden_states",
            returns=("text", "image"),
            row_arguments=("encoder_hidden_states_mask", "temb", "joint_attention_kwargs", "modulate_index"),
            attention=("text-first",),
            rotary=Rotary("image_rotary_emb", members=(0,)),
            token_arguments=("modulate_index",),
        ),
    ),
    modulated=modulated,
    time_embedding=time_embedding,
    timestep=Timestep(scale=1000.0),
)
