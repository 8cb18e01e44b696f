"""PixArt alpha and sigma (arXiv:2310.00426), diffusers' PixArtTransformer2DModel: text by cross attention."""

from __future__ import annotations

from torch import Tensor, nn

from xslim.runtime.adapters.base import Arguments, BlockAdapter, Stack, passed, shift_and_scale


def modulated(block: nn.Module, arguments: Arguments) -> Tensor:
    """Input of the first block after its norm; shape [batch, tokens, dim]."""
    shift, scale = shift_and_scale(block, arguments.tensor("timestep"))
    normed: Tensor = block.get_submodule("norm1")(arguments.tensor("hidden_states"))
    return normed * (1 + scale) + shift


PIXART = BlockAdapter(
    family="pixart",
    transformer="PixArtTransformer2DModel",
    stacks=(
        Stack(
            path="transformer_blocks",
            kind="double",
            row_arguments=(
                "attention_mask",
                "encoder_hidden_states",
                "encoder_attention_mask",
                "timestep",
                "cross_attention_kwargs",
            ),
            attention=("image", "cross"),
        ),
    ),
    modulated=modulated,
    time_embedding=passed("timestep"),
)
