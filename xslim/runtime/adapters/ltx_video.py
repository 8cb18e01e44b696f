"""LTX-Video (arXiv:2501.00103), diffusers' LTXVideoTransformer3DModel: text by cross attention."""

from __future__ import annotations

from torch import Tensor, nn

from xslim.runtime.adapters.base import Arguments, BlockAdapter, Rotary, Stack, passed, shift_and_scale


def modulated(block: nn.Module, arguments: Arguments) -> Tensor:
    """Input of the first block after its norm; shape [batch, tokens, dim]."""
    shift, scale = shift_and_scale(block, arguments.tensor("temb"))
    normed: Tensor = block.get_submodule("norm1")(arguments.tensor("hidden_states"))
    return normed * (1 + scale) + shift


LTX_VIDEO = BlockAdapter(
    family="ltx-video",
    transformer="LTXVideoTransformer3DModel",
    stacks=(
        Stack(
            path="transformer_blocks",
            kind="double",
            row_arguments=("encoder_hidden_states", "temb", "image_rotary_emb", "encoder_attention_mask"),
            attention=("image", "cross"),
            rotary=Rotary("image_rotary_emb", axis=1, batched=True),
            token_arguments=("temb",),  # image-to-video gives every token its own time
        ),
    ),
    modulated=modulated,
    time_embedding=passed("temb"),
)
