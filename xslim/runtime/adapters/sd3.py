"""Stable Diffusion 3 and 3.5 (arXiv:2403.03206), diffusers' SD3Transformer2DModel. Text follows the image.

Blocks of 3.5 have a second attention over the image alone; the last block returns no text.
"""

from __future__ import annotations

from xslim.runtime.adapters.base import BlockAdapter, Stack, ada_norm, passed

SD3 = BlockAdapter(
    family="sd3",
    transformer="SD3Transformer2DModel",
    stacks=(
        Stack(
            path="transformer_blocks",
            kind="double",
            text="encoder_hidden_states",
            returns=("text", "image"),
            row_arguments=("temb", "joint_attention_kwargs"),
            attention=("text-last", "image"),
        ),
    ),
    modulated=ada_norm("norm1"),
    time_embedding=passed("temb"),
)
