"""CogView4, diffusers' CogView4Transformer2DModel. Text stands before the image in attention."""

from __future__ import annotations

from xslim.runtime.adapters.base import BlockAdapter, Rotary, Stack, ada_norm_with_text, passed

COGVIEW4 = BlockAdapter(
    family="cogview4",
    transformer="CogView4Transformer2DModel",
    stacks=(
        Stack(
            path="transformer_blocks",
            kind="double",
            text="encoder_hidden_states",
            returns=("image", "text"),
            row_arguments=("temb", "attention_mask", "attention_kwargs"),
            attention=("text-first",),
            rotary=Rotary("image_rotary_emb"),
        ),
    ),
    modulated=ada_norm_with_text("norm1"),
    time_embedding=passed("temb"),
)
