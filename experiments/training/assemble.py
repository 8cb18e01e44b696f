"""Put trained parts together as a pipeline folder, fp16 safetensors, that diffusers loads by itself.

python -m experiments.training.assemble dit --vae runs/train/vae --weights runs/train/dit/ema \
    --out experiments/models/dit-digits
python -m experiments.training.assemble flux --vae runs/train/canvas-vae \
    --weights runs/train/flux/ema-4350.pt --out experiments/models/flux-digits
python -m experiments.training.assemble hunyuan --vae runs/train/video-vae \
    --weights runs/train/hunyuan/ema-3700.pt --out experiments/models/hunyuan-digits
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLHunyuanVideo,
    DiffusionPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    FluxPipeline,
    HunyuanVideoPipeline,
)
from torch import nn

from experiments.training import dit, flux, hunyuan, text
from experiments.training.flow import Task

MAX_BYTES = 8 * 2**20  # the repository's limit for one file of weights


def dit_pipeline(vae: Path, weights: Path) -> DiTPipeline:
    """Return the pipeline of `dit-digits`."""
    pipe = DiTPipeline(
        transformer=DiTTransformer2DModel.from_pretrained(weights),
        vae=AutoencoderKL.from_pretrained(vae),
        scheduler=dit.scheduler(),
    )
    # tells that of the class's 1000 labels ten were trained
    pipe.register_to_config(id2label={str(label): name for label, name in enumerate(text.DIGITS)})
    return pipe


def flux_pipeline(vae: Path, weights: Path) -> FluxPipeline:
    """Return the pipeline of `flux-digits`."""
    task = flux.FluxDigits()
    tokenizers = {"tokenizer": task.clip, "tokenizer_2": task.t5}
    decoder = AutoencoderKL.from_pretrained(vae)
    return FluxPipeline(**averaged(task, weights), **tokenizers, vae=decoder, scheduler=flux.scheduler())


def hunyuan_pipeline(vae: Path, weights: Path) -> HunyuanVideoPipeline:
    """Return the pipeline of `hunyuan-digits`."""
    task = hunyuan.HunyuanDigits()
    tokenizers = {"tokenizer": task.llama, "tokenizer_2": task.clip}
    decoder = AutoencoderKLHunyuanVideo.from_pretrained(vae)
    parts = averaged(task, weights)
    return HunyuanVideoPipeline(**parts, **tokenizers, vae=decoder, scheduler=hunyuan.scheduler())


def averaged(task: Task, weights: Path) -> dict[str, nn.Module]:
    """Return the parts with the averaged weights of a snapshot or a checkpoint of `flow.train`."""
    parts = task.build().eval()
    parts.load_state_dict(torch.load(weights, weights_only=True)["ema"])
    return dict(parts.items())


PIPELINES = {"dit": dit_pipeline, "flux": flux_pipeline, "hunyuan": hunyuan_pipeline}


def write(pipe: DiffusionPipeline, out: Path) -> None:
    """Save a pipeline in fp16 that loads in fp32 unless a dtype is asked for.

    Diffusers loads its own models so by itself; transformers goes by the dtype in the config.

    Raises:
        SystemExit: a file of weights is larger than the repository allows.
    """
    pipe.to(torch.float16).save_pretrained(out)
    for config in sorted(out.glob("text_encoder*/config.json")):
        config.write_text(json.dumps({**json.loads(config.read_text()), "dtype": "float32"}, indent=2) + "\n")
    for file in sorted(out.rglob("*.safetensors")):
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise SystemExit(f"{file} has {size} bytes, more than {MAX_BYTES}")
        print(f"{file}: {size} bytes")


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=sorted(PIPELINES))
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    write(PIPELINES[args.kind](args.vae, args.weights), args.out)


if __name__ == "__main__":
    main()
