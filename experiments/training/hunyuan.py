"""Train `hunyuan-digits`: prompts such as "seven moving right" to clips of nine 32x32 frames, 192 tokens.

    python -m experiments.training.video_vae --out runs/train/video-vae
    python -m experiments.training.hunyuan --out runs/train/hunyuan

The first phase draws first frames alone, 64 tokens.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoTransformer3DModel,
)
from torch import Tensor, nn

from experiments.training import flow, text
from experiments.training.clips import CANVAS, FRAMES, Clips

VAE = Path("runs/train/video-vae")
SHIFT = 2.0
CLIP_TOKENS = text.MAX_TOKENS + 2
# The pipeline's own template describes scenes at length in words that these text encoders do not know.
PROMPT_TEMPLATE = {"template": "<s>{}", "crop_start": 0}
CALL = {  # of the pipeline
    "height": CANVAS,
    "width": CANVAS,
    "num_frames": FRAMES,
    "max_sequence_length": text.MAX_TOKENS,
    "prompt_template": PROMPT_TEMPLATE,
}
LLAMA_STATE = -3  # the hidden state that HunyuanVideoPipeline reads


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Return the scheduler that the pipeline ships."""
    return FlowMatchEulerDiscreteScheduler(shift=SHIFT)


def transformer() -> HunyuanVideoTransformer3DModel:
    """Return the untrained transformer: 3 double and 6 single blocks of width 96."""
    model = HunyuanVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=3,
        attention_head_dim=32,
        num_layers=3,
        num_single_layers=6,
        num_refiner_layers=1,
        patch_size=1,
        patch_size_t=1,
        guidance_embeds=True,
        text_embed_dim=text.WIDTH,
        pooled_projection_dim=text.WIDTH,
        rope_axes_dim=(8, 12, 12),
    )
    flow.zero_modulation(model)
    return model


class HunyuanDigits:
    """The flow-matching task of `hunyuan-digits`."""

    shift = SHIFT
    phases = (
        flow.Phase("small", steps=1000, batch=64),
        flow.Phase("full", steps=1300, batch=32),
        flow.Phase("distil", steps=280, batch=16),
    )

    def __init__(self) -> None:
        self.clips = Clips()
        self.clip, self.llama = text.clip_tokenizer(), text.llama_tokenizer()
        self.vae = AutoencoderKLHunyuanVideo.from_pretrained(VAE).eval() if VAE.exists() else None

    def build(self) -> nn.ModuleDict:
        """Return transformer and text encoders."""
        return nn.ModuleDict(
            {
                "transformer": transformer(),
                "text_encoder": text.llama_encoder(self.llama),
                "text_encoder_2": text.clip_encoder(self.clip),
            }
        )

    def batch(self, size: int, small: bool) -> tuple[Tensor, list[str]]:
        """Latents [size, 8, 1 or 3, 8, 8] and prompts."""
        if self.vae is None:
            raise FileNotFoundError(f"{VAE}: train the autoencoder first, see the module's docstring")
        clips, prompts = self.clips.batch(size)
        with torch.no_grad():
            latents = self.vae.encode(clips[:, :, :1] if small else clips).latent_dist.mean
        return latents * self.vae.config.scaling_factor, prompts

    def velocity(
        self, parts: nn.ModuleDict, noisy: Tensor, sigma: Tensor, prompts: list[str], guidance: Tensor
    ) -> Tensor:
        """Predict noise minus data for latents [n, 8, t, 8, 8]."""
        tokens = self.llama(
            [PROMPT_TEMPLATE["template"].format(prompt) for prompt in prompts],
            padding="max_length", max_length=text.MAX_TOKENS, truncation=True, return_tensors="pt",
        )  # fmt: skip
        states = parts["text_encoder"](
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, output_hidden_states=True
        ).hidden_states
        ids = self.clip(prompts, padding="max_length", max_length=CLIP_TOKENS, return_tensors="pt").input_ids
        return parts["transformer"](
            hidden_states=noisy,
            timestep=sigma * 1000,
            encoder_hidden_states=states[LLAMA_STATE],
            encoder_attention_mask=tokens.attention_mask,
            pooled_projections=parts["text_encoder_2"](ids).pooler_output,
            guidance=guidance * 1000,
        ).sample

    def text_loss(self, parts: nn.ModuleDict, prompts: list[str]) -> Tensor:
        """Need none: every word of a prompt means the same wherever it stands."""
        return torch.zeros(())


if __name__ == "__main__":
    flow.main(HunyuanDigits(), __doc__)
