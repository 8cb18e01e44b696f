"""Preset: a policy with the model it is valid for and the evidence of its quality; YAML on disk."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from xslim.errors import ConfigError, PresetVersionError
from xslim.policy.document import Document, dump_yaml, parse_yaml, read_yaml, suggest
from xslim.policy.policy import Policy
from xslim.policy.prediction import Mlp

SCHEMA_VERSION = 1
Floats = Annotated[tuple[float, ...], Field(strict=False)]


class ModelSignature(Document):
    """What a preset is valid for. A field left out is not checked.

    Attributes:
        family: adapter name, such as `dit`.
        transformer: class name.
        config_sha256: `config_sha256` of the transformer's config.
        scheduler: class name.
        scheduler_sha256: `config_sha256` of the scheduler's config.
        num_steps: denoising steps.
        timesteps: the scheduler's timesteps, one a step.
        sigmas: noise levels, one a step.
        height: height of the latent that enters the transformer.
        width: its width.
        latent_shape: shape of the latent of one sample, whatever its layout; for sequences and videos.
        guidance_scale: guidance of the request it was tuned with; recorded, not seen by the runtime.
        dtype: the transformer's dtype, such as `float32`.
        adapters: names of the adapters (LoRA) loaded.
    """

    family: str
    transformer: str
    config_sha256: str | None = None
    scheduler: str | None = None
    scheduler_sha256: str | None = None
    num_steps: Annotated[int, Field(ge=1, le=10_000)]
    timesteps: Floats | None = None
    sigmas: Floats | None = None
    height: Annotated[int, Field(ge=1)] | None = None
    width: Annotated[int, Field(ge=1)] | None = None
    latent_shape: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False)] | None = None
    guidance_scale: float | None = None
    dtype: str | None = None
    adapters: Annotated[tuple[str, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("timesteps", "sigmas"):
            values = getattr(self, name)
            if values is not None and len(values) != self.num_steps:
                raise ConfigError(
                    f"{len(values)} values; give one for each of {self.num_steps} steps", key=name
                )
        return self


class Quality(Document):
    """Evidence: the bounds a preset holds and the held-out numbers that show it."""

    bounds: dict[str, float] = Field(default_factory=dict)
    holdout: dict[str, Any] = Field(default_factory=dict)
    certified: dict[str, Any] = Field(default_factory=dict)


class Preset(Document):
    """A policy, what it is valid for, and its evidence."""

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION
    name: Annotated[str, Field(min_length=1, max_length=200)]
    model: ModelSignature
    policy: Policy
    quality: Quality = Quality()
    provenance: dict[str, Any] = Field(default_factory=dict)


def config_sha256(config: Mapping[str, object]) -> str:
    """Hash a model's or scheduler's config: canonical JSON, keys that start with `_` left out."""
    public = {key: value for key, value in config.items() if not key.startswith("_")}
    canonical = json.dumps(public, sort_keys=True, separators=(",", ":"), default=list)
    return hashlib.sha256(canonical.encode()).hexdigest()


def shipped_presets() -> tuple[str, ...]:
    """Names of the presets in the package, such as `dit-digits/balanced`."""
    root = resources.files("xslim.policy").joinpath("presets")
    if not root.is_dir():
        return ()
    return tuple(
        sorted(
            f"{folder.name}/{file.name.removesuffix('.yaml')}"
            for folder in root.iterdir()
            if folder.is_dir()
            for file in folder.iterdir()
            if file.name.endswith(".yaml")
        )
    )


def load_preset(name: str | Path) -> Preset:
    """Load a preset from a YAML file, or a shipped one by name.

    Args:
        name: a path, or a name such as `dit-digits/balanced`.

    Raises:
        PresetVersionError: the file was written for a newer schema.
        ConfigError: there is no such preset, or the file is at fault; names file, key and value.
    """
    text = str(name)
    if isinstance(name, str) and text in shipped_presets():
        file = resources.files("xslim.policy").joinpath("presets", *f"{text}.yaml".split("/"))
        data = parse_yaml(file.read_text(encoding="utf-8"), source=text)
        folder = Path(str(file)).parent
    elif isinstance(name, str) and not Path(text).suffix and not os.path.exists(text):
        raise ConfigError(f"no file and no shipped preset; {suggest(text, shipped_presets())}", source=text)
    else:
        data, folder = read_yaml(name), Path(name).parent
    preset = parse_preset(data, source=text)
    return _with_weights(preset, lambda corrector: corrector.beside(folder))


def parse_preset(data: object, source: str | None = None) -> Preset:
    """Build a preset from plain data.

    Raises:
        PresetVersionError, ConfigError: as `load_preset`.
    """
    if isinstance(data, Mapping):
        version = data.get("schema_version", SCHEMA_VERSION)
        if isinstance(version, int) and not isinstance(version, bool) and version > SCHEMA_VERSION:
            raise PresetVersionError(
                f"got {version}; this version reads up to {SCHEMA_VERSION}; upgrade xslim",
                key="schema_version",
                source=source,
            )
    return Preset.parse(data, source)


def _with_weights(preset: Preset, place: Callable[[Mlp], Mlp]) -> Preset:
    """Change where the weights of a learned corrector are looked up."""
    corrector = preset.policy.corrector
    if not isinstance(corrector, Mlp):
        return preset
    policy = preset.policy.model_copy(update={"corrector": place(corrector)})
    return preset.model_copy(update={"policy": policy})


def save_preset(preset: Preset, path: str | Path) -> None:
    """Write a preset as YAML, whole or not at all.

    A learned corrector's weights stay where they are; where they lie beside the preset or below, their path
    is written relative to it.

    Raises:
        ConfigError: the folder cannot be written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                placed = _with_weights(preset, lambda corrector: corrector.seen_from(target.parent))
                file.write(dump_yaml(placed.to_data()))
            os.chmod(part, 0o644)
            os.replace(part, target)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise
    except OSError as error:
        problem = f"cannot write: {error.strerror}; choose another folder"
        raise ConfigError(problem, source=str(path)) from None
