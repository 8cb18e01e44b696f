"""DiT (arXiv:2212.09748), diffusers' DiTTransformer2DModel."""

from __future__ import annotations

from torch import Tensor, nn

from xslim.runtime.adapters.base import Arguments, BlockAdapter, Stack


def modulated(block: nn.Module, arguments: Arguments) -> Tensor:
    """Input of the first block after adaLN-zero; shape [batch, tokens, dim]."""
    hidden = arguments.tensor("hidden_states")
    time, labels = arguments.get("timestep"), arguments.get("class_labels")
    result: Tensor = block.get_submodule("norm1")(hidden, time, labels, hidden_dtype=hidden.dtype)[0]
    return result


def time_embedding(block: nn.Module, arguments: Arguments) -> Tensor:
    """Embedding of time and class of the first block; shape [batch, dim]."""
    embed = block.get_submodule("norm1.emb")
    dtype = arguments.tensor("hidden_states").dtype
    result: Tensor = embed(arguments.get("timestep"), arguments.get("class_labels"), hidden_dtype=dtype)
    return result


DIT = BlockAdapter(
    family="dit",
    transformer="DiTTransformer2DModel",
    stacks=(
        Stack(
            path="transformer_blocks",
            kind="double",
            row_arguments=("timestep", "class_labels"),
            attention=("image",),
        ),
    ),
    modulated=modulated,
    time_embedding=time_embedding,
    conditioning="class_labels",
)
