"""The shipped models load offline with diffusers alone, are small, and keep their quality floors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from experiments import generate
from experiments.training import flux, hunyuan, quality, text
from experiments.training.canvas import Scene, crops, pair, single
from experiments.training.clips import Motion, directions
from experiments.training.clips import crops as frame_crops

MODELS = Path("experiments/models")
NAMES = ("dit-digits", "flux-digits", "hunyuan-digits")
MAX_BYTES = 8 * 2**20


def card(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((MODELS / name / "card.json").read_text())
    return content


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_half_precision_safetensors_of_at_most_8_mib(name: str) -> None:
    files = sorted((MODELS / name).rglob("*.safetensors"))
    assert files
    assert {file.name: file.stat().st_size for file in files if file.stat().st_size > MAX_BYTES} == {}
    assert not list((MODELS / name).rglob("*.bin"))


@pytest.mark.parametrize("name", NAMES)
def test_the_card_shows_pictures_and_says_how_to_load(name: str) -> None:
    text = (MODELS / name / "README.md").read_text()
    assert "from_pretrained" in text
    assert "10.24432/C50P49" in text
    assert (MODELS / name / "samples.png").stat().st_size > 1000


def test_floors_of_the_cards() -> None:
    dit, flux_card, clip = card("dit-digits"), card("flux-digits"), card("hunyuan-digits")
    for numbers in (dit, flux_card["single"]):
        assert numbers["recognised_by_classifier"] >= 0.95
        assert numbers["recognised_by_svm"] >= 0.90
    assert flux_card["pair_digits"]["recognised_by_classifier"] >= 0.90
    assert clip["direction_right"] >= 0.90
    for numbers in clip["frames"].values():
        assert numbers["recognised_by_classifier"] >= 0.95
        assert numbers["recognised_by_svm"] >= 0.90


@pytest.mark.parametrize("name", ["flux-digits", "hunyuan-digits"])
def test_they_have_what_their_families_have(name: str) -> None:
    pipe = DiffusionPipeline.from_pretrained(MODELS / name)
    config = pipe.transformer.config
    assert config.guidance_embeds
    assert config.num_layers >= 2
    assert config.num_single_layers >= 2
    kinds = {"flux-digits": "FluxPipeline", "hunyuan-digits": "HunyuanVideoPipeline"}
    assert type(pipe).__name__ == kinds[name]


@pytest.mark.parametrize(("name", "call"), [("flux-digits", flux.CALL), ("hunyuan-digits", hunyuan.CALL)])
def test_the_experiment_calls_the_model_as_its_card_was_measured(name: str, call: dict[str, Any]) -> None:
    spec = generate.load_experiment(generate.EXPERIMENTS / f"{name}.yaml").model
    sizes = {key: getattr(spec, key) for key in ("height", "width", "num_frames") if getattr(spec, key)}
    assert {**spec.arguments, **sizes} == call
    measured = (card(name)["guidance_scale"], card(name)["num_inference_steps"])
    assert (spec.guidance_scale, spec.num_steps) == measured


def test_flux_digits_draws_what_the_prompts_say() -> None:
    scenes: list[Scene] = [single(3), single(8), pair(4, "left of", 9), pair(7, "above", 2)]
    drawn = generate.load("flux-digits").draw([scene.prompt for scene in scenes], 0)
    assert drawn.images.shape == (4, 1, 64, 64)
    digits, labels = crops(drawn.images, scenes)
    hits = quality.Readers().by_net(digits) == labels
    assert hits.sum() >= 5, hits.tolist()  # of six


def test_hunyuan_digits_moves_as_the_prompts_say() -> None:
    motions = [Motion(7, "right"), Motion(2, "up"), Motion(0, "left"), Motion(4, "down")]
    drawn = generate.load("hunyuan-digits").draw([motion.prompt for motion in motions], 0)
    assert drawn.images.shape == (4, 9, 1, 32, 32)
    clips = drawn.images.transpose(1, 2)
    assert directions(clips) == [motion.direction for motion in motions]
    hits = quality.Readers().by_net(frame_crops(clips, 4)) == torch.tensor([m.digit for m in motions])
    assert hits.sum() >= 3, hits.tolist()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (
            ["dit-digits", "10"],
            "got 10; this DiTPipeline takes class labels, whole numbers below 10, or their",
        ),
        (["dit-digits", "eleven"], "such as 'zero'"),
        (["dit-digits", "3", "--preset", "dit-digits/nope"], "no file and no shipped preset"),
        (["flux-digits", "three", "a red four"], "'red' is unknown; allowed words: zero, one, two"),
        (["hunyuan-digits", "Seven moving right"], "'Seven' is unknown"),
        (["flux-digits", " ".join(["three"] * 8)], "got 8 words; allowed are 7"),
    ],
)
def test_generate_says_what_is_wrong_in_one_line(
    arguments: list[str],
    part: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["generate", *arguments, "--out", str(tmp_path / "x.png")])
    with pytest.raises(SystemExit) as stopped:
        generate.main()
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("generate: ")]
    assert part in line
    assert not (tmp_path / "x.png").exists()


def test_dit_digits_takes_the_names_of_its_labels() -> None:
    model = generate.load("dit-digits")
    assert model.pipe.labels == {name: label for label, name in enumerate(text.DIGITS)}
    assert torch.equal(model.draw(["three"], 1).images, model.draw([3], 1).images)


def test_the_text_encoders_know_every_word_of_the_experiments() -> None:
    for name in ("flux-digits", "hunyuan-digits"):
        for prompt in generate.load_experiment(generate.EXPERIMENTS / f"{name}.yaml").model.prompts:
            generate.check_words(str(prompt))
