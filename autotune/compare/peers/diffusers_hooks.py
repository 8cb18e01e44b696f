"""diffusers' own caches, switched on by `enable_cache` and off by `disable_cache`."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import fields
from typing import Any

import torch

from autotune.compare.peers.cache import Enabled
from autotune.compare.peers.failure import PeerFailedError
from autotune.compare.recipe import Peer
from autotune.scoring.case import Case
from autotune.scoring.pipeline import PipelineRunner
from autotune.scoring.pipeline.loading import transformers

CONSTANT = "_weight_callback"  # ending of arguments that take a function; a recipe gives its one value


class DiffusersHooks:
    """A cache of diffusers on the loaded pipeline itself.

    Args:
        peer: configuration and arguments, as its class takes them; a dtype by its name, and for a function of
            weights the one value that it gives. Steps, the time callback, whether guidance is distilled, and
            MagCache's ratios are filled in.
        runner: the pipeline.
        batch: what MagCache is calibrated on.

    Raises:
        PeerFailedError: the model takes no such cache.
    """

    def __init__(self, peer: Peer, runner: PipelineRunner, batch: Sequence[Case]) -> None:
        from diffusers import CacheMixin

        for transformer in transformers(runner.pipe):
            if not isinstance(transformer, CacheMixin):
                name = type(transformer).__name__
                raise PeerFailedError(f"{name} is no CacheMixin: diffusers' hooks do not attach to it")
        self._peer, self._runner = peer, runner
        self._ratios: list[float] | None = None
        if peer.config == "MagCacheConfig" and "mag_ratios" not in peer.arguments:
            self._ratios = self._calibrated(batch)

    @property
    def notes(self) -> tuple[str, ...]:
        """Whether it was calibrated."""
        return () if self._ratios is None else ("ratios calibrated on one batch",)

    @contextmanager
    def enabled(self, runner: PipelineRunner) -> Iterator[Enabled]:
        """Switch it on inside.

        Raises:
            PeerFailedError: it hooks no module, or leaves hooks behind.
        """
        given = {} if self._ratios is None else {"mag_ratios": list(self._ratios)}
        with self._on(self._config(**given)) as hooks:
            yield Enabled(runner, tuple(hooks))

    @contextmanager
    def _on(self, config: Any) -> Iterator[list[object]]:
        models = transformers(self._runner.pipe)
        before = _hooks(models)
        try:
            for model in models:
                model.enable_cache(config)
            found = [hook for key, hook in _hooks(models).items() if key not in before]
            if not found:
                names = ", ".join(type(model).__name__ for model in models)
                raise PeerFailedError(f"{self._peer.config} finds nothing to hook in {names}")
            yield found
        finally:
            for model in models:
                if model.is_cache_enabled:
                    model.disable_cache()
        if _hooks(models).keys() != before.keys():
            raise PeerFailedError(f"{self._peer.config} leaves hooks behind when it is switched off")

    def _config(self, **more: Any) -> Any:
        import diffusers.hooks

        kind: Any = getattr(diffusers.hooks, self._peer.config)
        known = {item.name for item in fields(kind)}
        pipe = self._runner.pipe
        filled = {
            "num_inference_steps": self._runner.num_steps,
            "current_timestep_callback": lambda: pipe.current_timestep,
            "is_guidance_distilled": any(
                bool(getattr(model.config, "guidance_embeds", False)) for model in transformers(pipe)
            ),
        }
        given = {name: _value(name, value) for name, value in self._peer.arguments.items()}
        return kind(**{**{name: value for name, value in filled.items() if name in known}, **given, **more})

    def _calibrated(self, batch: Sequence[Case]) -> list[float]:
        """MagCache's ratios, which its calibration prints; the first ones are the conditional branch's."""
        printed = io.StringIO()
        with redirect_stdout(printed), self._on(self._config(calibrate=True)):
            self._runner.draw(batch)
        for line in printed.getvalue().splitlines():
            if line.startswith("[") and line.endswith("]") and not line.startswith("[MagCache"):
                return [float(ratio) for ratio in json.loads(line)]
        raise PeerFailedError("MagCache's calibration gave no ratios")


def _value(name: str, value: Any) -> Any:
    if name.endswith("_dtype") and isinstance(value, str):
        return getattr(torch, value)
    if name.endswith(CONSTANT):
        return lambda _: value
    return tuple(value) if isinstance(value, list) else value


def _hooks(models: Sequence[Any]) -> dict[tuple[int, str], object]:
    """(module, name) -> hook, of all of diffusers' hooks on the models."""
    return {
        (id(module), name): hook
        for model in models
        for module in model.modules()
        for name, hook in getattr(getattr(module, "_diffusers_hook", None), "hooks", {}).items()
    }
