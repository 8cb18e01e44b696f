"""Wan (arXiv:2503.20314), diffusers' WanTransformer3DModel: text by cross attention."""

from __future__ import annotations

from torch import Tensor, nn

from xslim.runtime.adapters.base import Arguments, BlockAdapter, Rotary, Stack, passed, shift_and_scale


def modulated(block: nn.Module, arguments: Arguments) -> Tensor:
    """Input of the first block after its norm, in 32 bits as in the block; shape [batch, tokens, dim]."""
    hidden = arguments.tensor("hidden_states")
    shift, scale = shift_and_scale(block, arguments.tensor("temb").float())
    normed: Tensor = block.get_submodule("norm1")(hidden.float())
    return (normed * (1 + scale) + shift).type_as(hidden)


WAN = BlockAdapter(
    family="wan",
    transformer="WanTransformer3DModel",
    stacks=(
        Stack(
            path="blocks",
            kind="double",
            row_arguments=("encoder_hidden_states", "temb"),
            attention=("image", "cross"),
            rotary=Rotary("rotary_emb", axis=1, batched=True),
            token_arguments=("temb",),  # Wan 2.2 TI2V gives every token its own time
        ),
    ),
    modulated=modulated,
    time_embedding=passed("temb"),
    remark="of a pipeline with two transformers (Wan 2.2 A14B) the first is cached",
)
