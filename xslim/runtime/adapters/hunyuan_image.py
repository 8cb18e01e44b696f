"""HunyuanImage 2.1, diffusers' HunyuanImageTransformer2DModel. Text stands after the image in attention."""

from __future__ import annotations

from xslim.runtime.adapters.base import BlockAdapter, Rotary, Stack, ada_norm, passed


def _stack(path: str, kind: str) -> Stack:
    return Stack(
        path=path,
        kind=kind,
        text="encoder_hidden_states",
        returns=("image", "text"),
        row_arguments=("temb", "attention_mask"),
        attention=("text-last",),
        rotary=Rotary("image_rotary_emb"),
    )


HUNYUAN_IMAGE = BlockAdapter(
    family="hunyuanimage",
    transformer="HunyuanImageTransformer2DModel",
    stacks=(_stack("transformer_blocks", "double"), _stack("single_transformer_blocks", "single")),
    modulated=ada_norm("norm1"),
    time_embedding=passed("temb"),
)
