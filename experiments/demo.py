"""The demo: search on a shipped model, then one found preset on seeds that no search saw.

python -m experiments.demo dit-digits

Writes everything into `runs/demo/` (another model: `runs/demo-<model>/`): the search, and `side_by_side.png`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

import xslim
from autotune.scoring.case import Case
from autotune.scoring.latency import paired
from autotune.scoring.metrics import psnr
from autotune.scoring.pipeline import PipelineRunner
from autotune.search.experiment import load_experiment
from autotune.search.run import model_spec
from experiments.training.quality import film

OUT = Path("runs/demo")
DEFAULT = "dit-digits"
SEARCH_SECONDS = 100  # with profile and certification the search stays within six minutes on two cores
SETTINGS = (
    f"search.max_seconds={SEARCH_SECONDS}",
    "search.trials=24",
    "search.certify=4",
    "search.certify_rounds=1",
    "cases.search=8",
    "cases.holdout=16",
)
FIRST_SEED = 900_000_000_000  # beyond the range that search and held-out seeds are drawn from
SHOWN = 8
ROUNDS = 3
SCALE = 3
MARGIN = 96
GAP = 6


def main() -> None:
    """Command line entry."""
    model = sys.argv[1] if len(sys.argv) > 1 else DEFAULT
    out = OUT if model == DEFAULT else OUT.with_name(f"{OUT.name}-{model}")
    experiment = Path("experiments") / f"{model}.yaml"
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    command = [sys.executable, "-m", "autotune.cli.main", "search", str(experiment), "--out", str(out)]
    resume = ["--resume"] if (out / "manifest.json").exists() else []
    done = subprocess.run([*command, *resume, *sets], check=False)
    if done.returncode:
        sys.exit(done.returncode)
    summary = json.loads((out / "summary.json").read_text())
    chosen = summary["tiers"].get("balanced") or summary["front"][0]
    preset = xslim.load_preset(out / chosen["preset"])
    loaded = load_experiment(experiment)
    runner = PipelineRunner(replace(model_spec(loaded), batch=SHOWN))
    prompts = loaded.model.prompts
    cases = tuple(Case(prompts[i % len(prompts)], FIRST_SEED + i) for i in range(SHOWN))
    uncached = runner.draw(cases).images
    with xslim.attach(runner.pipe, preset) as session:
        cached = runner.draw(cases).images
    latency = paired(runner, cases, preset.policy, ROUNDS, 0.0)
    quality = quality_of(cached, uncached)
    picture = out / "side_by_side.png"
    side_by_side(uncached, cached, latency.speedup).save(picture)
    print(f"\n{preset.name} on {SHOWN} unseen seeds")
    print(f"  actions           {session.trace.actions}")
    print(f"  compute fraction  {session.trace.compute_fraction:.3f} of the uncached MACs")
    pairs = len(latency.log_ratios)
    print(f"  measured speedup  {latency.speedup:.2f}x, median of {pairs} interleaved pairs")
    print(f"  PSNR to uncached  {float(quality.mean()):.1f} dB mean, {float(quality.min()):.1f} dB worst")
    print(f"\nside by side  {picture}")
    if uncached.ndim == 5:
        film(torch.cat([uncached, cached]), picture.with_suffix(".gif"), columns=SHOWN)
        print(f"as clips      {picture.with_suffix('.gif')}, uncached above")
    print(f"plot          {out / 'pareto.png'}")
    print(f"presets       {out / 'presets'}")
    print(f"MLflow store  {out / 'mlflow.db'}")
    store = f"sqlite:///{(out / 'mlflow.db').resolve()}"
    print(f"MLflow UI     .venv/bin/mlflow ui --backend-store-uri {store}")
    print(f"the table     .venv/bin/autotune show {out}")
    print("\nA bound such as psnr_p5 is the 5th percentile of many pictures; single ones may lie below.")


def quality_of(cached: Tensor, uncached: Tensor) -> Tensor:
    """PSNR of each picture, of a clip the mean over its frames.

    Shapes: [n, c, h, w] or [n, t, c, h, w] -> [n].
    """
    if uncached.ndim == 4:
        return psnr(cached, uncached)
    frames = psnr(cached.flatten(0, 1), uncached.flatten(0, 1))
    return frames.unflatten(0, uncached.shape[:2]).mean(1)


def side_by_side(uncached: Tensor, cached: Tensor, speedup: float) -> Image.Image:
    """Three rows: uncached, cached, and their difference times ten.

    Shapes: pictures [n, c, h, w], or clips [n, t, c, h, w] of which the first is shown frame by frame; values
    in [0, 1].
    """
    if uncached.ndim == 5:
        uncached, cached = uncached[0], cached[0]
    rows = [uncached, cached, ((cached - uncached).abs() * 10).clamp(0, 1)]
    names = ["uncached", f"preset, {speedup:.1f}x", "difference x10"]
    side = (uncached.shape[-1] * SCALE, uncached.shape[-2] * SCALE)
    width, height = side[0] + GAP, side[1] + GAP
    sheet = Image.new("L", (MARGIN + width * len(uncached), height * len(rows)), 255)
    pen = ImageDraw.Draw(sheet)
    for y, (images, name) in enumerate(zip(rows, names, strict=True)):
        pen.text((4, y * height + height // 2 - 6), name, fill=0)
        for x, image in enumerate(images):
            grey = (image.mean(0).numpy() * 255).round().astype(np.uint8)
            tile = Image.fromarray(grey).resize(side, Image.Resampling.NEAREST)
            sheet.paste(tile, (MARGIN + x * width, y * height))
    return sheet


if __name__ == "__main__":
    main()
