"""CogVideoX (arXiv:2408.06072), diffusers' CogVideoXTransformer3DModel. Text stands before the image."""

from __future__ import annotations

from xslim.runtime.adapters.base import BlockAdapter, Rotary, Stack, ada_norm_with_text, passed

COGVIDEOX = BlockAdapter(
    family="cogvideox",
    transformer="CogVideoXTransformer3DModel",
    stacks=(
        Stack(
            path="transformer_blocks",
            kind="double",
            text="encoder_hidden_states",
            returns=("image", "text"),
            row_arguments=("temb", "attention_kwargs"),
            attention=("text-first",),
            rotary=Rotary("image_rotary_emb"),
        ),
    ),
    modulated=ada_norm_with_text("norm1"),
    time_embedding=passed("temb"),
)
