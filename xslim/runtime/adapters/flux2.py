"""FLUX.2, diffusers' Flux2Transformer2DModel. Text stands before the image; single blocks get both joined."""

from __future__ import annotations

from torch import Tensor, nn

from xslim.runtime.adapters.base import Arguments, BlockAdapter, Rotary, Stack, Timestep, passed

_ROTARY = Rotary("image_rotary_emb", text_first=True)


def modulated(block: nn.Module, arguments: Arguments) -> Tensor:
    """Input of the first block after its norm; shape [batch, tokens, dim]."""
    hidden, modulation = arguments.tensor("hidden_states"), arguments.tensor("temb_mod_img")
    shift, scale = modulation.reshape(len(modulation), -1, 6, hidden.shape[-1]).unbind(2)[:2]
    normed: Tensor = block.get_submodule("norm1")(hidden)
    return (1 + scale) * normed + shift


FLUX2 = BlockAdapter(
    family="flux2",
    transformer="Flux2Transformer2DModel",
    stacks=(
        Stack(
            path="transformer_blocks",
            kind="double",
            text="encoder_hidden_states",
            returns=("text", "image"),
            row_arguments=("temb_mod_img", "temb_mod_txt", "joint_attention_kwargs"),
            attention=("text-first",),
            rotary=_ROTARY,
        ),
        Stack(
            path="single_transformer_blocks",
            kind="single",
            joined=True,
            row_arguments=("temb_mod", "joint_attention_kwargs"),
            attention=("text-first",),
            rotary=_ROTARY,
        ),
    ),
    modulated=modulated,
    time_embedding=passed("temb_mod_img"),
    timestep=Timestep(scale=1000.0),
    remark="not with cached reference images (`kv_cache`)",
)
