"""Put the trained parts together as a DiTPipeline folder, fp16 safetensors, that diffusers loads by itself.

python -m experiments.training.assemble --vae runs/train/vae --dit runs/train/dit/ema \
    --out experiments/models/dit-digits
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DiTPipeline, DiTTransformer2DModel

from experiments.training.dit import scheduler

MAX_BYTES = 8 * 2**20  # the repository's limit for one file of weights


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--dit", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    pipe = DiTPipeline(
        transformer=DiTTransformer2DModel.from_pretrained(args.dit),
        vae=AutoencoderKL.from_pretrained(args.vae),
        scheduler=scheduler(),
    )
    pipe.to(torch.float16).save_pretrained(args.out)
    for file in sorted(args.out.rglob("*.safetensors")):
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise SystemExit(f"{file} has {size} bytes, more than {MAX_BYTES}")
        print(f"{file}: {size} bytes")


if __name__ == "__main__":
    main()
