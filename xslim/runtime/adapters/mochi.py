"""Mochi 1, diffusers' MochiTransformer3DModel. Text stands after the image; timesteps rise from 0."""

from __future__ import annotations

from collections.abc import Mapping

from xslim.runtime.adapters.base import BlockAdapter, Stack, Timestep, ada_norm, passed


def _no_tokens(config: Mapping[str, object]) -> str | None:
    return "attention runs sample by sample, over text of different lengths"


MOCHI = BlockAdapter(
    family="mochi",
    transformer="MochiTransformer3DModel",
    stacks=(
        Stack(
            path="transformer_blocks",
            kind="double",
            text="encoder_hidden_states",
            returns=("image", "text"),
            row_arguments=("temb", "encoder_attention_mask"),
            attention=(),
        ),
    ),
    modulated=ada_norm("norm1"),
    time_embedding=passed("temb"),
    timestep=Timestep(rising=True),
    no_tokens=_no_tokens,
)
