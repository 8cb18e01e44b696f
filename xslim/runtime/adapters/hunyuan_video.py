"""HunyuanVideo, diffusers' HunyuanVideoTransformer3DModel. Text stands after the image in attention."""

from __future__ import annotations

from collections.abc import Mapping

from xslim.runtime.adapters.base import BlockAdapter, Rotary, Stack, ada_norm, passed

_ROWS = ("temb", "attention_mask", "token_replace_emb")


def _no_tokens(config: Mapping[str, object]) -> str | None:
    if config.get("image_condition_type") == "token_replace":
        return "the first frame's tokens are modulated by position"
    return None


HUNYUAN_VIDEO = BlockAdapter(
    family="hunyuanvideo",
    transformer="HunyuanVideoTransformer3DModel",
    stacks=(
        Stack(
            path="transformer_blocks",
            kind="double",
            text="encoder_hidden_states",
            returns=("image", "text"),
            row_arguments=_ROWS,
            attention=("text-last",),
            rotary=Rotary("freqs_cis"),
        ),
        Stack(
            path="single_transformer_blocks",
            kind="single",
            text="encoder_hidden_states",
            returns=("image", "text"),
            row_arguments=_ROWS,
            attention=("text-last",),
            rotary=Rotary("image_rotary_emb"),
        ),
    ),
    modulated=ada_norm("norm1"),
    time_embedding=passed("temb"),
    text_embedder="context_embedder",  # refines the text under the timestep, in blocks of its own
    no_tokens=_no_tokens,
    remark="no token refreshes in image-to-video by token replacement",
)
