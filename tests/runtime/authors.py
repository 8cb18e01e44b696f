"""X-Slim as its authors' released code runs it, written out plainly for one sample.

Source: arXiv:2512.12604. Nothing of the runtime under test is used: attention processors keep and
refresh keys and values, and a loop over the model's own blocks does the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor, nn

from tests.tiny.core import mask, text


@dataclass
class Refresh:
    """What the attention processors share: whether to keep keys and values, and the chosen tokens."""

    keep: bool = False
    other: Tensor | None = None  # positions of the recomputed image tokens
    kept: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def whole(self, attn: nn.Module, key: Tensor, value: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values over the whole sequence; `chosen` are the positions of the fresh ones."""
        if self.other is None:
            if self.keep:
                self.kept[id(attn)] = (key.clone(), value.clone())
            return key, value
        for old, new in zip(self.kept[id(attn)], (key, value), strict=True):
            old[:, chosen] = new
        return self.kept[id(attn)]


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax attention. Shapes: [1, tokens, heads, dim] -> [1, tokens, heads * dim]."""
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), value).flatten(2)


def heads(projection: nn.Linear, norm: nn.Module | None, x: Tensor) -> Tensor:
    split = projection(x).unflatten(2, (2, -1))
    return split if norm is None else norm(split)


class FluxProcessor:
    """Text first; keys are kept before the rotation, which is then done anew for all of them."""

    def __init__(self, refresh: Refresh, text_tokens: int) -> None:
        self.refresh, self.text_tokens = refresh, text_tokens

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None,
        attention_mask: Any = None, image_rotary_emb: Any = None,
    ) -> Any:  # fmt: skip
        query = heads(attn.to_q, attn.norm_q, hidden_states)
        key = heads(attn.to_k, attn.norm_k, hidden_states)
        value = heads(attn.to_v, None, hidden_states)
        if encoder_hidden_states is not None:
            query = torch.cat([heads(attn.add_q_proj, attn.norm_added_q, encoder_hidden_states), query], 1)
            key = torch.cat([heads(attn.add_k_proj, attn.norm_added_k, encoder_hidden_states), key], 1)
            value = torch.cat([heads(attn.add_v_proj, None, encoder_hidden_states), value], 1)
        chosen = torch.arange(query.shape[1])
        if self.refresh.other is not None:
            chosen = torch.cat([torch.arange(self.text_tokens), self.refresh.other + self.text_tokens])
        key, value = self.refresh.whole(attn, key, value, chosen)
        query = apply_rotary_emb(query, [table[chosen] for table in image_rotary_emb], sequence_dim=1)
        key = apply_rotary_emb(key, image_rotary_emb, sequence_dim=1)
        out = attention(query, key, value, attention_mask)
        if encoder_hidden_states is None:
            return out
        return attn.to_out[0](out[:, self.text_tokens :]), attn.to_add_out(out[:, : self.text_tokens])


class HunyuanProcessor:
    """Text last; keys are kept after the rotation."""

    def __init__(self, refresh: Refresh, image_tokens: int) -> None:
        self.refresh, self.image_tokens = refresh, image_tokens

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor,
        attention_mask: Any = None, image_rotary_emb: Any = None,
    ) -> Any:  # fmt: skip
        single = attn.add_q_proj is None
        other = self.refresh.other
        image, words = hidden_states.shape[1], encoder_hidden_states.shape[1]
        rotary = image_rotary_emb if other is None else [table[other] for table in image_rotary_emb]

        def joint(image_proj: Any, image_norm: Any, text_proj: Any, text_norm: Any, rotate: bool) -> Tensor:
            first = heads(image_proj, image_norm, hidden_states)
            first = apply_rotary_emb(first, rotary, sequence_dim=1) if rotate else first
            last = (image_proj, image_norm) if single else (text_proj, text_norm)
            return torch.cat([first, heads(*last, encoder_hidden_states)], 1)

        query = joint(attn.to_q, attn.norm_q, attn.add_q_proj, attn.norm_added_q, True)
        key = joint(attn.to_k, attn.norm_k, attn.add_k_proj, attn.norm_added_k, True)
        value = joint(attn.to_v, None, attn.add_v_proj, None, False)
        positions = torch.arange(image) if other is None else other
        chosen = torch.cat([positions, torch.arange(words) + self.image_tokens])
        key, value = self.refresh.whole(attn, key, value, chosen)
        out = attention(query, key, value, attention_mask)
        if single:
            return out[:, :image], out[:, image:]
        return attn.to_out[0](out[:, :image]), attn.to_add_out(out[:, image:])


@dataclass
class Entered:
    """What a model makes of its inputs before the blocks."""

    image: Tensor
    text: Tensor
    temb: Tensor
    run: Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]  # a block -> image, text


def enter_flux(model: Any, latent: Tensor, time: float, row: int, rows: int) -> Entered:
    """Embed one sample as `call_flux` passes it, row `row` of `rows`."""
    side, dtype = int(latent.shape[1] ** 0.5), latent.dtype
    ids = torch.zeros(4 + latent.shape[1], 3)
    places = torch.arange(latent.shape[1])
    ids[4:, 1], ids[4:, 2] = places // side, places % side
    rotary = model.pos_embed(ids)
    pooled = text(rows, 1, 20)[row].to(dtype)
    numbers = [torch.full((1,), value).to(dtype) * 1000 for value in (time, 3.5)]
    temb = model.time_text_embed(*numbers, pooled)

    def run(block: nn.Module, image: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        words, image = block(image, words, temb, rotary)
        return image, words

    words = model.context_embedder(text(rows, 4, 24)[row : row + 1].to(dtype))
    return Entered(model.x_embedder(latent), words, temb, run)


def enter_hunyuan_video(model: Any, latent: Tensor, time: float, row: int, rows: int) -> Entered:
    """Embed one sample as `call_hunyuan_video` passes it, row `row` of `rows`."""
    dtype = latent.dtype
    timestep, guidance = (torch.full((1,), value).to(dtype) for value in (1000 * time, 6000.0))
    seen = mask(rows, 5, torch.float32)[row : row + 1]
    temb, _ = model.time_text_embed(timestep, text(rows, 1, 8)[row].to(dtype), guidance)
    words = model.context_embedder(text(rows, 5, 16)[row : row + 1].to(dtype), timestep, seen)
    image, rotary = model.x_embedder(latent), model.rope(latent)
    visible = torch.cat([torch.ones(1, image.shape[1]), seen], 1).bool()[:, None, None]

    def run(block: nn.Module, image: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = block(image, words, temb, visible, rotary)
        return result

    return Entered(image, words, temb, run)


def first(letter: str, pattern: str, step: int, before: int | None) -> int | None:
    """The first step after `step`, and before another, with a letter."""
    found = pattern.find(letter, step + 1, before)
    return None if found < 0 else found


class Authors:
    """One sample's run of a schedule.

    Attributes:
        outputs: O_s, what left the last block at every step.
        skipped: (kind, index) of the blocks that block refreshes replay, one set a recording step.
        metrics: step -> the two computed steps whose residuals chose the tokens.
    """

    def __init__(
        self, model: Any, enter: Callable[..., Entered], refresh: Refresh, pattern: str, ratio: float,
        thresholds: dict[str, float], start_block: int,
    ) -> None:  # fmt: skip
        self.model, self.enter, self.refresh = model, enter, refresh
        self.pattern, self.ratio = pattern, ratio
        self.thresholds, self.start_block = thresholds, start_block
        self.previous: dict[int, tuple[int, Tensor]] = {}  # -1, -2 -> step, residual
        self.residuals: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
        self.next_block: int | None = None
        self.next_token: int | None = None
        self.last: Tensor | None = None
        self.outputs: list[Tensor] = []
        self.skipped: list[set[tuple[str, int]]] = []
        self.metrics: dict[int, tuple[int, int]] = {}
        self.blocks = [("double", i, block) for i, block in enumerate(model.transformer_blocks)]
        self.blocks += [("single", i, block) for i, block in enumerate(model.single_transformer_blocks)]

    def step(self, step: int, latent: Tensor, time: float, row: int, rows: int) -> Tensor:
        """What the stack gives at one step, after the output layers."""
        seen = self.enter(self.model, latent, time, row, rows)
        skip = self.pattern[step] == "."
        out = seen.image + self.previous[-1][1] if skip else self._compute(step, seen)
        if self.next_token is not None:
            self.last = out
        self.outputs.append(out)
        return self.model.proj_out(self.model.norm_out(out, seen.temb))

    def _compute(self, step: int, seen: Entered) -> Tensor:
        letter = self.pattern[step]
        next_full = first("F", self.pattern, step, None)
        self.next_block = first("B", self.pattern, step, next_full)
        self.next_token = first("T", self.pattern, step, next_full)
        self.refresh.keep, self.refresh.other = self.next_token is not None, None
        image = seen.image
        if letter == "T":
            other = self.refresh.other = self._choose(step)
            image = image[:, other]
        if letter == "F":
            self.residuals.clear()
        out = self._run_blocks(letter, image, seen)
        if letter == "T":
            fresh, out = out, self.last.clone()
            out[:, other] = fresh
        if -1 in self.previous:
            self.previous[-2] = self.previous[-1]
        self.previous[-1] = (step, out - seen.image)
        return out

    def _run_blocks(self, letter: str, image: Tensor, seen: Entered) -> Tensor:
        words, total = seen.text, 0.0
        for kind, index, block in self.blocks:
            if letter == "B" and (kind, index) in self.residuals:
                image = image + self.residuals[kind, index][0]
                words = words + self.residuals[kind, index][1]
                continue
            new_image, new_words = seen.run(block, image, words)
            if letter == "F" and self.next_block is not None:
                total += float((new_image - image).abs().mean())
                if total < self.thresholds[kind] and index > self.start_block:
                    self.residuals[kind, index] = (new_image - image, new_words - words)
                else:
                    total = 0.0
            image, words = new_image, new_words
        if letter == "F" and self.next_block is not None:
            self.skipped.append(set(self.residuals))
        return image

    def _choose(self, step: int) -> Tensor:
        (newer, new), (older, old) = self.previous[-1], self.previous[-2]
        self.metrics[step] = (newer, older)
        order = (new - old).abs().mean(-1)[0].argsort()
        return order[int((1 - self.ratio) * len(order)) :]
