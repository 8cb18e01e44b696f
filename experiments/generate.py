"""Draw with a reference model: its prompts and seeds in, pictures or a clip out.

    python -m experiments.generate flux-digits "a four left of a nine" three --out runs/pictures.png
    python -m experiments.generate hunyuan-digits "seven moving right" --out runs/clip.gif
    python -m experiments.generate dit-digits three --preset dit-digits/fast --out runs/three.png

The folders under `experiments/models/` load with `DiffusionPipeline.from_pretrained` like any other. Their
text encoders know few words and short prompts, so size, prompt length and prompt template have to be given
with every call; `load` does that, from the model's experiment.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xslim
from autotune.scoring.case import Case
from autotune.scoring.drawn import Drawn
from autotune.scoring.pipeline import PipelineRunner
from autotune.search.experiment import load_experiment
from autotune.search.run import model_spec
from experiments.training import text
from xslim.errors import ConfigError

EXPERIMENTS = Path(__file__).resolve().parent
MODELS = ("dit-digits", "flux-digits", "hunyuan-digits")


@dataclass(frozen=True)
class ReferenceModel:
    """A loaded reference model.

    Attributes:
        pipe: the diffusers pipeline, to attach presets to.
        draw: prompts (for dit-digits labels or names of digits) and first seed -> what was drawn, one seed a
            prompt. Refuses prompts with words that the text encoders do not know.
    """

    pipe: Any
    draw: Callable[[Sequence[int | str], int], Drawn]


def load(name: str) -> ReferenceModel:
    """Load a model by the name of its experiment, with the call arguments written there.

    Raises:
        ConfigError: there is no such experiment, or its model cannot be loaded.
    """
    experiment = load_experiment(EXPERIMENTS / f"{name}.yaml")
    runner = PipelineRunner(model_spec(experiment))
    reads = "text_encoder" in runner.pipe.components

    def draw(prompts: Sequence[int | str], seed: int = 0) -> Drawn:
        for prompt in prompts:
            if reads and isinstance(prompt, str):
                check_words(prompt)
        return runner.draw([Case(prompt, seed + i) for i, prompt in enumerate(prompts)])

    return ReferenceModel(runner.pipe, draw)


def check_words(prompt: str) -> None:
    """Refuse a prompt that the text encoders cannot read; the model would draw something all the same.

    Raises:
        ConfigError: names the unknown word and those that are known, or the prompt is too long.
    """
    words = prompt.split()
    for word in words:
        if word not in text.WORDS:
            raise ConfigError(
                f"got {prompt!r}, where {word!r} is unknown; allowed words: {', '.join(text.WORDS)}",
                key="prompt",
            )
    if len(words) >= text.MAX_TOKENS:
        raise ConfigError(
            f"got {len(words)} words; allowed are {text.MAX_TOKENS - 1}, the rest would be cut off",
            key="prompt",
        )


def save(drawn: Drawn, path: Path) -> None:
    """Write pictures side by side as PNG, clips side by side as GIF (or a contact sheet, by the suffix)."""
    from experiments.training.quality import film, grid

    path.parent.mkdir(parents=True, exist_ok=True)
    if not drawn.is_video:
        grid(drawn.images, len(drawn.images)).save(path)
    elif path.suffix == ".gif":
        film(drawn.images, path)
    else:
        grid(drawn.images.flatten(0, 1), drawn.images.shape[1]).save(path)


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("prompts", nargs="+", help="prompts; for dit-digits 0 to 9 or zero to nine")
    parser.add_argument("--seed", type=int, default=0, help="of the first picture")
    parser.add_argument("--preset", help="a preset's path or shipped name")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        run(args)
    except xslim.XSlimError as error:
        print(f"generate: {error}", file=sys.stderr)
        sys.exit(2)


def run(args: argparse.Namespace) -> None:
    """Draw and save; with a preset, print what it did."""
    preset = None if args.preset is None else xslim.load_preset(args.preset)
    model = load(args.model)
    prompts = [int(p) if p.isdecimal() else p for p in args.prompts]
    if preset is None:
        save(model.draw(prompts, args.seed), args.out)
        return
    with xslim.attach(model.pipe, preset) as session:
        save(model.draw(prompts, args.seed), args.out)
    print(f"{session.trace.actions}  compute fraction {session.trace.compute_fraction:.3f}")


if __name__ == "__main__":
    main()
