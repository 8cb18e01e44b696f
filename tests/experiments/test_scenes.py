"""The prompts' scenes and clips are what they say, and every word of a prompt is a token."""

from __future__ import annotations

import pytest
import torch

from experiments.training import canvas, clips, flux, text
from experiments.training.digits import training_images


def test_every_word_is_one_token_in_every_tokenizer() -> None:
    for tokenizer in (text.clip_tokenizer(), text.t5_tokenizer(), text.llama_tokenizer()):
        assert {word: len(tokenizer.tokenize(word)) for word in text.WORDS} == dict.fromkeys(text.WORDS, 1)


def test_prompts_fit_and_differ_in_every_tokenizer() -> None:
    prompts = [scene.prompt for scene in canvas.all_scenes()] + [m.prompt for m in clips.all_motions()]
    assert len(set(prompts)) == 410 + 40
    for tokenizer in (text.clip_tokenizer(), text.t5_tokenizer(), text.llama_tokenizer()):
        ids = [tuple(tokenizer(prompt).input_ids) for prompt in prompts]
        assert len(set(ids)) == len(prompts)
        assert max(map(len, ids)) <= text.MAX_TOKENS + 2  # CLIP has a start token too


@pytest.mark.parametrize("relation", canvas.RELATIONS)
def test_pairs_stand_where_the_prompt_says(relation: str) -> None:
    scene = canvas.pair(4, relation, 9)
    (top, left), (other_top, other_left) = scene.corners
    assert {
        "left of": left < other_left, "right of": left > other_left,
        "above": top < other_top, "below": top > other_top,
    }[relation]  # fmt: skip
    assert scene.prompt == f"a four {relation} a nine"


def test_crops_give_back_the_digits_that_were_drawn() -> None:
    torch.manual_seed(0)
    canvases = canvas.Canvases()
    scenes = [canvas.single(3), canvas.pair(8, "above", 1)]
    digits, labels = canvas.crops(canvases.draw(scenes), scenes)
    assert labels.tolist() == [3, 8, 1]
    images, truth = training_images()
    for digit, label in zip(digits, labels, strict=True):
        same = (images == digit).flatten(1).all(1)
        assert truth[same].tolist() == [int(label)] * int(same.sum())
        assert same.any()


def test_articles() -> None:
    assert canvas.pair(8, "left of", 1).prompt == "an eight left of a one"


@pytest.mark.parametrize("direction", clips.DIRECTIONS)
def test_clips_move_as_the_prompt_says(direction: str) -> None:
    torch.manual_seed(0)
    source = clips.Clips()
    motions = [clips.Motion(digit, direction) for digit in range(10)]
    drawn = source.draw(motions) / 2 + 0.5
    assert clips.directions(drawn) == [direction] * 10
    path = clips.centres(drawn)
    moved = (path[:, -1] - path[:, 0]).abs().max(1).values
    torch.testing.assert_close(
        moved, torch.full((10,), float(clips.STEP * (clips.FRAMES - 1))), atol=0.2, rtol=0
    )


def test_the_cut_out_digit_does_not_move_in_its_box() -> None:
    torch.manual_seed(0)
    drawn = clips.Clips().draw([clips.Motion(5, "left")]) / 2 + 0.5
    first, last = clips.crops(drawn, 0), clips.crops(drawn, clips.FRAMES - 1)
    assert (first - last).abs().max() < 1e-6


@pytest.mark.parametrize(
    "scene", [canvas.single(1), canvas.pair(4, "left of", 9), canvas.pair(8, "below", 1)]
)
def test_every_digits_token_knows_its_place(scene: canvas.Scene) -> None:
    words = scene.prompt.split()
    found = flux.digit_places(scene)
    assert [words[token] for token, _ in found] == [text.DIGITS[digit] for digit in scene.digits]
    corner_of = {0: canvas.CENTRE, **{1 + i: canvas.PLACES[r][0] for i, r in enumerate(canvas.RELATIONS)}}
    assert [corner_of[place] for _, place in found] == list(scene.corners)
