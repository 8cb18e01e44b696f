"""Train `flux-digits`: prompts such as "three" or "a four left of a nine" to 64x64 pictures, 256 tokens.

    python -m experiments.training.vae --pictures canvas --out runs/train/canvas-vae --steps 1500 --batch 24
    python -m experiments.training.flux --out runs/train/flux

T5 first learns which digit of a prompt stands where. Then the same scenes are drawn at half the side, the 64
tokens spread over the positions of the 256, before the full size follows.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn
from transformers import CLIPTokenizer, T5Tokenizer

from experiments.training import flow, text
from experiments.training.canvas import CANVAS, RELATIONS, Canvases, Scene, all_scenes, halved

VAE = Path("runs/train/canvas-vae")
SHIFT = 0.5  # the log of the shift that FLUX uses at 256 tokens
CLIP_TOKENS = text.MAX_TOKENS + 2
TEXT_LOSS = 0.1  # weight
CALL = {"height": CANVAS, "width": CANVAS, "max_sequence_length": text.MAX_TOKENS}  # of the pipeline


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Return the scheduler that the pipeline ships: FLUX.1-dev's."""
    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, shift=3.0, base_shift=SHIFT, max_shift=1.15,
        base_image_seq_len=256, max_image_seq_len=4096,
    )  # fmt: skip


def transformer() -> FluxTransformer2DModel:
    """Return the untrained transformer: 3 double and 6 single blocks of width 96."""
    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=3,
        num_single_layers=6,
        attention_head_dim=32,
        num_attention_heads=3,
        joint_attention_dim=text.WIDTH,
        pooled_projection_dim=text.WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )
    flow.zero_modulation(model)
    return model


class FluxDigits:
    """The flow-matching task of `flux-digits`."""

    shift = math.exp(SHIFT)
    phases = (
        flow.Phase("text", steps=300, batch=64),
        flow.Phase("small", steps=2300, batch=64),
        flow.Phase("full", steps=800, batch=32),
        flow.Phase("distil", steps=280, batch=16),
    )

    def __init__(self) -> None:
        self.canvases = Canvases()
        self.places = {scene.prompt: digit_places(scene) for scene in all_scenes()}
        self.clip, self.t5 = text.clip_tokenizer(), text.t5_tokenizer()
        self.vae = AutoencoderKL.from_pretrained(VAE).eval() if VAE.exists() else None

    def build(self) -> nn.ModuleDict:
        """Return transformer and text encoders."""
        return nn.ModuleDict(
            {
                "transformer": transformer(),
                "text_encoder": text.clip_encoder(self.clip),
                "text_encoder_2": text.t5_encoder(self.t5),
            }
        )

    def batch(self, size: int, small: bool) -> tuple[Tensor, list[str]]:
        """Packed latents [size, 64 or 256, 4] and prompts."""
        if self.vae is None:
            raise FileNotFoundError(f"{VAE}: train the autoencoder first, see the module's docstring")
        pictures, prompts = self.canvases.batch(size)
        with torch.no_grad():
            latents = self.vae.encode(halved(pictures) if small else pictures).latent_dist.mean
        latents = (latents - self.vae.config.shift_factor) * self.vae.config.scaling_factor
        side = latents.shape[-1]
        return FluxPipeline._pack_latents(latents, size, 1, side, side), prompts

    def velocity(
        self, parts: nn.ModuleDict, noisy: Tensor, sigma: Tensor, prompts: list[str], guidance: Tensor
    ) -> Tensor:
        """Predict noise minus data for packed latents [n, tokens, 4]."""
        pooled = parts["text_encoder"](_ids(self.clip, prompts, CLIP_TOKENS)).pooler_output
        embeds = parts["text_encoder_2"](_ids(self.t5, prompts, text.MAX_TOKENS))[0]
        return parts["transformer"](
            hidden_states=noisy,
            encoder_hidden_states=embeds,
            pooled_projections=pooled,
            timestep=sigma,
            guidance=guidance,
            img_ids=positions(noisy.shape[1]),
            txt_ids=torch.zeros(embeds.shape[1], 3),
        ).sample

    def text_loss(self, parts: nn.ModuleDict, prompts: list[str]) -> Tensor:
        """Ask T5 where each digit of a prompt stands: the first numbers of the digit's token are the logits.

        Without it the digits of pairs were still mixed up after 1,200 steps (docs/log.md).
        """
        embeds = parts["text_encoder_2"](_ids(self.t5, prompts, text.MAX_TOKENS))[0]
        found = [(row, *place) for row, prompt in enumerate(prompts) for place in self.places[prompt]]
        rows, tokens, places = torch.tensor(found).T
        return TEXT_LOSS * F.cross_entropy(embeds[rows, tokens, : len(RELATIONS) + 1], places)


def digit_places(scene: Scene) -> list[tuple[int, int]]:
    """Token of each digit in the prompt, and its place: 0 centre, else 1 + the relation that holds for it."""
    words = scene.prompt.split()
    tokens = [i for i, word in enumerate(words) if word in text.DIGITS]
    if len(tokens) == 1:
        return [(tokens[0], 0)]
    first = RELATIONS.index(" ".join(words[tokens[0] + 1 : tokens[1] - 1]))
    return [(tokens[0], 1 + first), (tokens[1], 1 + (first ^ 1))]  # relations stand in opposite pairs


def positions(tokens: int) -> Tensor:
    """Where the tokens lie on the full canvas of 16x16. Shape [tokens, 3]: (0, row, column)."""
    side = math.isqrt(tokens)
    stride = 16 / side
    places = (torch.arange(side) + 0.5) * stride - 0.5
    rows, columns = torch.meshgrid(places, places, indexing="ij")
    return torch.stack([torch.zeros(tokens), rows.flatten(), columns.flatten()], -1)


def _ids(tokenizer: CLIPTokenizer | T5Tokenizer, prompts: list[str], length: int) -> Tensor:
    """Token numbers [n, length], padded as the pipelines pad them."""
    ids: Tensor = tokenizer(
        prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids
    return ids


if __name__ == "__main__":
    flow.main(FluxDigits(), __doc__)
