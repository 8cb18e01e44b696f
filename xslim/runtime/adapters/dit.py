"""DiT (arXiv:2212.09748), diffusers' DiTTransformer2DModel."""

from __future__ import annotations

from xslim.runtime.adapters.base import BlockAdapter, ModuleCall, Stack

DIT = BlockAdapter(
    family="dit",
    transformer="DiTTransformer2DModel",
    stacks=(Stack(path="transformer_blocks", kind="double"),),
    row_arguments=("timestep", "class_labels"),
    modulation=ModuleCall(
        path="norm1",
        arguments=(("x", "hidden_states"), ("timestep", "timestep"), ("class_labels", "class_labels")),
        dtype_argument="hidden_dtype",
    ),
)
