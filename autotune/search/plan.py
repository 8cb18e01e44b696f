"""What a search would do: what it draws, and an estimate of the hours, before anything is loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autotune.scoring.geometry import Geometry, calls_per_step, flops_per_image, geometry_of
from autotune.scoring.latency import FLOOR_ROUNDS, PATIENCE, STABLE_LOOPS, WARM_UP_LOOPS
from autotune.scoring.pipeline import ModelSpec, check_model_folder
from autotune.scoring.pipeline.loading import quiet
from autotune.scoring.pipeline.request import check_request, check_sizes
from autotune.scoring.sensitivity import probe_steps
from autotune.search.certify import TIER_CANDIDATES
from autotune.search.experiment import Experiment
from autotune.search.metrics import Metrics
from autotune.search.model import Model
from autotune.search.run import SCREENED, model_spec
from xslim.errors import ConfigError

# 10^12 operations a second. 16 bit: published times on an A800 give 146 (FLUX.1-dev, 28 steps in 14.26 s),
# 161 (Wan2.1 1.3B, 81 frames of 832x480 in 175 s); see docs/tune-flux-dev.md
GPU_TFLOPS = {"bfloat16": 150.0, "float16": 150.0, "float32": 12.0}
CPU_THREAD_TFLOPS = 0.04  # float32, as dit-digits runs: benchmarks/results/realised.jsonl
CACHED_TIME = 0.4  # of an uncached picture's time; a search looks from there down to about 0.2
S_PER_HOUR = 3600
AT_LEAST = (
    "the hours on a CPU are the least: in small models and batches the calls cost more than their operations"
)


@dataclass(frozen=True, slots=True)
class Draws:
    """Pictures or clips that are drawn.

    Attributes:
        serial: uncached, by one worker before the trials begin: profile, held-out references, A/A floor.
        uncached: uncached besides: search references, probes of the profile, which hold the residual at one
            step, and every second timed picture.
        cached: under a candidate.
    """

    serial: int
    uncached: int
    cached: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.serial + self.uncached + self.cached


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long a search may take.

    Attributes:
        seconds_per_image: of an uncached picture or clip.
        worker_hours: of all workers together.
        wall_hours: from start to end.
        busy_wall_hours: the same, on workers that are so busy that warm-up and timing take longest.
        worker: `GPU` or `CPU`.
        at_least: the hours are a lower bound.
        assumed: what the numbers rest on, one sentence each.
    """

    seconds_per_image: float
    worker_hours: float
    wall_hours: float
    busy_wall_hours: float
    worker: str
    at_least: bool
    assumed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a search would do.

    Attributes:
        request: model and request in words.
        prompts: how many there are.
        draws: pictures or clips that are drawn on idle workers, at most.
        busy_draws: the same on busy ones.
        transformer_calls: that `draws` take, at most; a cached step is a call too.
        calls_per_image: of them, for one picture.
        unit: `image` or `clip`.
        tflop_per_image: operations of the transformer for one uncached picture, in 10^12; None if unknown.
        estimate: how long it may take; None where nothing is known of the model.
        to_provide: files and folders that are not on this machine.
    """

    experiment: str
    request: str
    prompts: int
    workers: int
    draws: Draws
    busy_draws: Draws
    transformer_calls: int
    calls_per_image: int
    unit: str
    tflop_per_image: float | None
    estimate: Estimate | None
    to_provide: tuple[str, ...]

    def to_data(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def make_plan(experiment: Experiment, workers: int, threads: int) -> Plan:
    """Plan a search without loading a model; configs are read, and the transformer is counted.

    Args:
        experiment: what would be searched.
        workers: how many there would be.
        threads: CPU threads of each.

    Raises:
        ConfigError: the model's folder is none, or the pipeline does not know an argument.
    """
    check_model_folder(experiment.model.path)
    spec = model_spec(experiment)
    geometry = geometry_of(spec.path)
    if geometry is not None:
        _check_call(spec, geometry)
    flops = None if geometry is None else flops_per_image(geometry, spec)
    drawn, busy = draws(experiment, workers), draws(experiment, workers, busy=True)
    calls = spec.num_steps * (1 if geometry is None else calls_per_step(geometry, spec))
    return Plan(
        experiment=experiment.name,
        request=_request(spec, geometry),
        prompts=len(experiment.model.prompts),
        workers=workers,
        draws=drawn,
        busy_draws=busy,
        transformer_calls=drawn.total * calls,
        calls_per_image=calls,
        unit="clip" if _frames(spec, geometry) > 1 else "image",
        tflop_per_image=None if flops is None else flops / 1e12,
        estimate=_estimate(experiment, drawn, busy, flops, workers, threads),
        to_provide=to_provide(experiment.metrics),
    )


def draws(experiment: Experiment, workers: int, busy: bool = False) -> Draws:
    """Count what a search draws at most.

    Args:
        experiment: what would be searched.
        workers: how many there would be.
        busy: count the longest warm-ups, and the most rounds of pairs that disagree.
    """
    warm_up, patience = (WARM_UP_LOOPS, PATIENCE) if busy else (STABLE_LOOPS, 1)
    cases, search = experiment.cases, experiment.search
    batch, held_batch = min(cases.batch, cases.search), min(cases.batch, cases.holdout)
    members = min(search.trials, search.certify + TIER_CANDIDATES * len(experiment.tiers)) or SCREENED
    few = min(cases.sensitivity, batch)
    probes = few * len(probe_steps(experiment.model.num_steps))
    floor = (warm_up + 4 * patience * max(1, search.certify_rounds)) * held_batch  # then A A A A
    # every A B B A round draws two batches uncached and two cached
    rounds = search.trials * search.timing_rounds * batch + members * search.certify_rounds * held_batch
    timed = 2 * patience * rounds
    floors = (warm_up + 4 * patience * FLOOR_ROUNDS) * batch * (workers - 1)
    # where a whole batch is profiled for sensitivity, its reference serves the trials too
    references = cases.search - (few if few == batch else 0) if search.trials else 0
    return Draws(
        serial=2 * batch + cases.holdout + floor,
        uncached=references + few + probes + timed + floors,
        cached=search.trials * cases.search + members * cases.holdout + timed,
    )


def to_provide(metrics: Metrics) -> tuple[str, ...]:
    """Files and folders of the metrics that are not on this machine, with their keys.

    Raises:
        ConfigError: what is there is at fault, such as a file with another checksum.
    """
    absent = []
    for role, net in metrics.spec().roles():
        if Path(net.path).exists():
            net.check(role)
        else:
            absent.append(f"metrics.{role}: {net.path}")
    for key, path in {metrics.reference_file(name) for name in ("fid", "cmmd")}:
        if path is not None and not Path(path).is_file():
            absent.append(f"{key}: {path}")
    return tuple(absent)


def _check_call(spec: ModelSpec, geometry: Geometry) -> None:
    import diffusers

    with quiet():
        pipeline = getattr(diffusers, geometry.pipeline, None)
    if not isinstance(pipeline, type):
        raise ConfigError(f"got a {geometry.pipeline}, which diffusers does not know", key="model.path")
    check_request(spec, pipeline)
    check_sizes(spec, pipeline, geometry.space, geometry.time)


def _request(spec: ModelSpec, geometry: Geometry | None) -> str:
    height = spec.height or (None if geometry is None else geometry.height)
    width = spec.width or (None if geometry is None else geometry.width)
    frames = _frames(spec, geometry)
    parts = [f"{spec.num_steps} steps"]
    if height is not None and width is not None:
        parts.append(f"{width}x{height}")
    if frames > 1:
        parts.append(f"{frames} frames")
    if spec.guidance_scale is not None:
        parts.append(f"guidance {spec.guidance_scale:g}")
    parts += [f"{spec.dtype}, batch {spec.batch}"]
    name = "" if geometry is None else f"{geometry.pipeline}, "
    return name + ", ".join(parts)


def _frames(spec: ModelSpec, geometry: Geometry | None) -> int:
    return spec.num_frames or (1 if geometry is None else geometry.num_frames)


def _estimate(
    experiment: Experiment, drawn: Draws, busy: Draws, flops: float | None, workers: int, threads: int
) -> Estimate | None:
    model = experiment.model
    gpu = model.dtype != "float32" or _on_gpu(model.device)
    if model.seconds_per_image is not None:
        seconds = model.seconds_per_image
        first, beside = f"{seconds:g} s uncached, as model.seconds_per_image gives it", ""
    elif flops is not None:
        known = GPU_TFLOPS[model.dtype] if gpu else CPU_THREAD_TFLOPS * threads
        speed = model.sustained_tflops or known
        seconds = flops / 1e12 / speed
        first = f"{speed:g} TFLOP/s sustained, {_origin(model, gpu, threads)}"
        beside = "text encoders, VAE, "
    else:
        return None
    assumed = [first, f"a candidate takes {CACHED_TIME:g} of the uncached time"]
    assumed.append(f"{beside}metrics and loading are not counted")
    at_least = not gpu and model.seconds_per_image is None
    if at_least:
        assumed.append(AT_LEAST)
    return Estimate(
        seconds_per_image=seconds,
        worker_hours=_hours(drawn, seconds, 1),
        wall_hours=_hours(drawn, seconds, workers),
        busy_wall_hours=_hours(busy, seconds, workers),
        worker="GPU" if gpu else "CPU",
        at_least=at_least,
        assumed=tuple(assumed),
    )


def _hours(drawn: Draws, seconds: float, workers: int) -> float:
    others = drawn.uncached + CACHED_TIME * drawn.cached
    return (drawn.serial + others / workers) * seconds / S_PER_HOUR


def _on_gpu(device: str) -> bool:
    import torch

    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


def _origin(model: Model, gpu: bool, threads: int) -> str:
    if model.sustained_tflops is not None:
        return "as model.sustained_tflops gives it"
    bits = "float32" if model.dtype == "float32" else "16 bit"
    who = "one A100 or A800 does" if gpu else f"{threads} CPU thread{'s' * (threads > 1)} do"
    return f"about what {who} in {bits}; better: --set model.seconds_per_image=S"
