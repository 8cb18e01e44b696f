"""FLUX.1, diffusers' FluxTransformer2DModel. Text stands before the image in attention."""

from __future__ import annotations

from xslim.runtime.adapters.base import BlockAdapter, Rotary, Stack, Timestep, ada_norm, passed

_ROTARY = Rotary("image_rotary_emb", text_first=True)
_ROWS = ("temb", "joint_attention_kwargs")

FLUX = BlockAdapter(
    family="flux",
    transformer="FluxTransformer2DModel",
    stacks=(
        Stack(
            path="transformer_blocks",
            kind="double",
            text="encoder_hidden_states",
            returns=("text", "image"),
            row_arguments=_ROWS,
            attention=("text-first",),
            rotary=_ROTARY,
        ),
        Stack(
            path="single_transformer_blocks",
            kind="single",
            text="encoder_hidden_states",
            returns=("text", "image"),
            row_arguments=_ROWS,
            attention=("text-first",),
            rotary=_ROTARY,
        ),
    ),
    modulated=ada_norm("norm1"),
    time_embedding=passed("temb"),
    timestep=Timestep(scale=1000.0),
)
