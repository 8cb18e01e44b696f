"""How large a model and a request are: known from a folder's configs or from a table, without weights."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field

from xslim.errors import ConfigError
from xslim.policy.document import Document, parse_yaml

if TYPE_CHECKING:
    from autotune.scoring.pipeline.spec import ModelSpec


class Guidance(Document):
    """When a pipeline guides, and what it costs.

    Attributes:
        argument: of the call; above 1 it guides.
        default: its default.
        by: more `rows` in one call, or more `calls` a step.
        needs_negative: guides only with a negative prompt.
    """

    argument: str
    default: float
    by: Literal["rows", "calls"] = "calls"
    needs_negative: bool = False


TRUE_GUIDANCE = Guidance(argument="true_cfg_scale", default=1.0, needs_negative=True)
# pipelines whose requests can be counted
GUIDANCE = {
    "DiTPipeline": Guidance(argument="guidance_scale", default=4.0, by="rows"),
    "FluxPipeline": TRUE_GUIDANCE,
    "HunyuanVideoPipeline": TRUE_GUIDANCE,
    "WanPipeline": Guidance(argument="guidance_scale", default=5.0),
    "QwenImagePipeline": TRUE_GUIDANCE.model_copy(update={"default": 4.0}),
}
# of pipelines whose prompts are padded to a fixed length
TEXT_TOKENS = {"FluxPipeline": 512, "HunyuanVideoPipeline": 256, "WanPipeline": 512}
DEPTHS = ("num_layers", "num_single_layers")  # how many blocks of a kind a transformer has


class Geometry(Document):
    """A transformer and the sizes of its pipeline's requests.

    Attributes:
        pipeline: class name.
        transformer: class name.
        config: arguments of the transformer's class, where they are not its defaults.
        space: pixels of a side to a latent.
        time: frames to a latent frame.
        height: of a picture, where the request does not say.
        width: as height.
        num_frames: as height.
        text: tokens of a prompt.
    """

    pipeline: str
    transformer: str
    config: dict[str, Any] = Field(default_factory=dict)
    space: int = 8
    time: int = 1
    height: int | None = None
    width: int | None = None
    num_frames: int = 1
    text: int = 0

    @classmethod
    def of_folder(cls, folder: Path) -> Self:
        """Read a pipeline folder's configs.

        Raises:
            ConfigError: a config is missing or unreadable.
        """
        try:
            index = _read(folder / "model_index.json")
            config = _read(folder / "transformer" / "config.json")
            vae = _read(folder / "vae" / "config.json")
            pipeline, transformer = str(index["_class_name"]), str(index["transformer"][1])
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            raise ConfigError(
                f"got {str(folder)!r}, where the configs of transformer and vae cannot be read",
                key="model.path",
            ) from None
        space, time = _compression(vae)
        side = config.get("sample_size") if pipeline == "DiTPipeline" else None
        return cls(
            pipeline=pipeline,
            transformer=transformer,
            config={name: value for name, value in config.items() if not name.startswith("_")},
            space=space,
            time=time,
            height=None if side is None else side * space,
            width=None if side is None else side * space,
            text=TEXT_TOKENS.get(pipeline, 64),
        )


def _compression(vae: Mapping[str, Any]) -> tuple[int, int]:
    """Pixels of a side and frames to a latent, as the classes of autoencoders name them in their configs."""
    space = vae.get("spatial_compression_ratio") or vae.get("scale_factor_spatial")
    time = vae.get("temporal_compression_ratio") or vae.get("scale_factor_temporal")
    widths = vae.get("block_out_channels") or vae.get("dim_mult") or (0,) * 4
    return space or 2 ** (len(widths) - 1), time or 2 ** sum(vae.get("temperal_downsample", ()))


def _read(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    if not isinstance(content, dict):
        raise TypeError(path)
    return content


@cache
def known_geometries() -> Mapping[str, Geometry]:
    """Public models, by hub id."""
    file = resources.files("autotune.scoring").joinpath("geometries.yaml")
    data = parse_yaml(file.read_text(encoding="utf-8"), source=file.name)
    if not isinstance(data, dict):
        raise ConfigError("not a mapping of models", source=file.name)
    return {name: Geometry.parse(entry, f"{file.name}: {name}") for name, entry in data.items()}


def geometry_of(path: str) -> Geometry | None:
    """The geometry of a local folder or of a known public model; None of another hub id.

    Raises:
        ConfigError: the folder's configs cannot be read.
    """
    return Geometry.of_folder(Path(path)) if Path(path).is_dir() else known_geometries().get(path)


def flops_per_image(geometry: Geometry, spec: ModelSpec) -> float | None:
    """Floating-point operations of the transformer for one uncached picture or clip, all its steps.

    The class is built on the meta device, small; text encoders and VAE are not counted. None for
    a class whose call is not known here.
    """
    guidance = GUIDANCE.get(geometry.pipeline)
    height, width = spec.height or geometry.height, spec.width or geometry.width
    if guidance is None or geometry.transformer not in ARGUMENTS or height is None or width is None:
        return None
    frames = spec.num_frames or geometry.num_frames
    text = int(spec.arguments.get("max_sequence_length", geometry.text))
    text = min(text, geometry.text) if geometry.pipeline == "QwenImagePipeline" else text
    sizes = Sizes(
        rows=2 if guided(guidance, spec) and guidance.by == "rows" else 1,
        frames=(frames - 1) // geometry.time + 1,
        height=height // geometry.space,
        width=width // geometry.space,
        text=text,
    )
    calls = calls_per_step(geometry, spec) * spec.num_steps
    return calls * _flops(geometry.transformer, geometry.config, sizes)


def guided(guidance: Guidance, spec: ModelSpec) -> bool:
    """Whether a request is guided by a second prediction."""
    own = spec.guidance_scale if guidance.argument == "guidance_scale" else None
    scale = spec.arguments.get(guidance.argument, guidance.default) if own is None else own
    return scale > 1 and (not guidance.needs_negative or "negative_prompt" in spec.arguments)


def calls_per_step(geometry: Geometry, spec: ModelSpec) -> int:
    """Transformer calls at every step."""
    guidance = GUIDANCE.get(geometry.pipeline)
    return 2 if guidance is not None and guidance.by == "calls" and guided(guidance, spec) else 1


class Sizes(Document):
    """Sizes of one call: samples, latent frames, latent height and width, text tokens."""

    rows: int
    frames: int
    height: int
    width: int
    text: int


def _flops(transformer: str, config: Mapping[str, Any], sizes: Sizes) -> float:
    """Operations of one call. Blocks of a kind cost the same, so one and two of each kind tell of all."""
    import diffusers

    defaults = inspect.signature(getattr(diffusers, transformer)).parameters
    depths = {name: config.get(name, defaults[name].default) for name in DEPTHS if name in defaults}
    shallow = {**config, **dict.fromkeys(depths, 1)}
    one = _count(transformer, json.dumps(shallow, sort_keys=True), sizes)
    total = one
    for name, depth in depths.items():
        two = _count(transformer, json.dumps({**shallow, name: 2}, sort_keys=True), sizes)
        total += (depth - 1) * (two - one)
    return total


@cache
def _count(transformer: str, config: str, sizes: Sizes) -> float:
    import diffusers
    import torch

    from xslim.runtime.macs import FLOPS_PER_MAC, count

    with torch.device("meta"), torch.no_grad():
        model = getattr(diffusers, transformer)(**json.loads(config)).eval()
        arguments = ARGUMENTS[transformer](model.config, sizes)
        return FLOPS_PER_MAC * count(lambda: model(**arguments))


def _zeros(*shape: int) -> Any:
    import torch

    return torch.zeros(*shape)


def _dit(config: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
    rows = sizes.rows
    return {
        "hidden_states": _zeros(rows, config["in_channels"], sizes.height, sizes.width),
        "timestep": _zeros(rows).long(),
        "class_labels": _zeros(rows).long(),
    }


def _flux(config: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
    tokens = (sizes.height // 2) * (sizes.width // 2)
    return {
        "hidden_states": _zeros(1, tokens, config["in_channels"]),
        "encoder_hidden_states": _zeros(1, sizes.text, config["joint_attention_dim"]),
        "pooled_projections": _zeros(1, config["pooled_projection_dim"]),
        "timestep": _zeros(1),
        "guidance": _zeros(1),
        "img_ids": _zeros(tokens, 3),
        "txt_ids": _zeros(sizes.text, 3),
    }


def _clip(config: Mapping[str, Any], sizes: Sizes, text_width: int) -> dict[str, Any]:
    latent = (1, config["in_channels"], sizes.frames, sizes.height, sizes.width)
    return {
        "hidden_states": _zeros(*latent),
        "timestep": _zeros(1),
        "encoder_hidden_states": _zeros(1, sizes.text, text_width),
    }


def _hunyuan_video(config: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
    return {
        **_clip(config, sizes, config["text_embed_dim"]),
        "encoder_attention_mask": _zeros(1, sizes.text) + 1,
        "pooled_projections": _zeros(1, config["pooled_projection_dim"]),
        "guidance": _zeros(1),
    }


def _wan(config: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
    return _clip(config, sizes, config["text_dim"])


def _qwen_image(config: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
    height, width = sizes.height // 2, sizes.width // 2
    return {
        "hidden_states": _zeros(1, height * width, config["in_channels"]),
        "encoder_hidden_states": _zeros(1, sizes.text, config["joint_attention_dim"]),
        "encoder_hidden_states_mask": _zeros(1, sizes.text) + 1,
        "timestep": _zeros(1),
        "img_shapes": [[(1, height, width)]],
    }


# transformer class -> the arguments of its call, as its pipeline gives them
ARGUMENTS: dict[str, Callable[[Mapping[str, Any], Sizes], dict[str, Any]]] = {
    "DiTTransformer2DModel": _dit,
    "FluxTransformer2DModel": _flux,
    "HunyuanVideoTransformer3DModel": _hunyuan_video,
    "WanTransformer3DModel": _wan,
    "QwenImageTransformer2DModel": _qwen_image,
}
