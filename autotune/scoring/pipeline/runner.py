"""The runner: a loaded pipeline that draws cases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor

from autotune.scoring.case import Case
from autotune.scoring.drawn import Drawn
from autotune.scoring.pipeline.loading import load, transformers
from autotune.scoring.pipeline.request import SIGMAS, RequestPlan
from autotune.scoring.pipeline.schedulers import build_scheduler
from autotune.scoring.pipeline.spec import ModelSpec
from autotune.scoring.pipeline.timer import LoopTimer, timed
from autotune.scoring.pipeline.watching import watched
from autotune.scoring.sampling import Sampling
from xslim.errors import ConfigError

OUTPUTS = ("images", "frames")  # of a pipeline's result: pictures, or clips


class PipelineRunner:
    """A loaded pipeline that draws cases.

    Attributes:
        spec: which model it is, and how a request looks.
        device: that it computes on.
        pipe: the pipeline.
        num_steps: denoising steps of what is drawn; inside `sampled` its own, else the spec's.

    Raises:
        ConfigError: the folder is no pipeline, or a setting does not fit it or this machine.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.pipe, self.device = load(spec)
        self.num_steps = spec.num_steps
        self._sigmas: tuple[float, ...] | None = None
        self._plan = RequestPlan(spec, self.pipe)
        self._own = self.pipe.scheduler
        self._schedulers: dict[str, Any] = {}

    @property
    def guidance_scale(self) -> float | None:
        """The call's `guidance_scale`, as given or by default; None where the call takes none."""
        return self._plan.guidance_scale

    def draw(self, cases: Sequence[Case]) -> Drawn:
        """Draw the cases in one batch.

        Raises:
            ConfigError: a prompt is of the wrong kind, or the pipeline drew another size than asked.
        """
        arguments = self._plan.arguments(cases, self.num_steps, self._sigmas)
        seen: list[Tensor] = []
        asked: dict[str, Any] = {}  # of the scheduler

        def keep(_: Any, result: Any) -> None:
            seen[:] = [result[0] if isinstance(result, tuple) else result.prev_sample]

        with (
            watched(self.pipe.scheduler, "set_timesteps", lambda given, _: asked.update(given)),
            watched(self.pipe.scheduler, "step", keep),
        ):
            result = self.pipe(**arguments)
        self._check_steps()
        self._check_levels(asked)
        images = next((getattr(result, name) for name in OUTPUTS if hasattr(result, name)), None)
        if not isinstance(images, Tensor) or not seen:
            raise ConfigError(
                f"got a {type(self.pipe).__name__}, which draws neither pictures nor clips by its scheduler",
                key="model.path",
            )
        self._check_size(images)
        # DiT's scheduler works on the batch that guidance has doubled: the first half is what is decoded
        latents = seen[-1][: len(cases)]
        return Drawn(images.detach().float().cpu().clamp(0, 1), latents.detach().float().cpu())

    @contextmanager
    def sampled(self, sampling: Sampling) -> Iterator[None]:
        """Draw with another number of steps, other noise levels or another scheduler inside.

        Raises:
            ConfigError: the scheduler cannot take the place of the pipeline's own, or pipeline or scheduler
                do not take the noise levels.
        """
        own, steps, sigmas = self.pipe.scheduler, self.num_steps, self._sigmas
        chosen = sampling.scheduler
        if chosen is not None and str(chosen) not in self._schedulers:
            self._schedulers[str(chosen)] = build_scheduler(own, chosen)
        scheduler = own if chosen is None else self._schedulers[str(chosen)]
        if sampling.sigmas is not None:
            self._plan.check_sigmas(sampling.sigmas, scheduler)
        self.pipe.scheduler, self._sigmas = scheduler, sampling.sigmas
        self.num_steps = sampling.steps(self.spec.num_steps)
        try:
            yield
        finally:
            self.pipe.scheduler, self.num_steps, self._sigmas = own, steps, sigmas

    def _check_steps(self) -> None:
        """Compute and presets of another sampling speak of the steps that are asked for."""
        taken = len(self.pipe.scheduler.timesteps)
        usual = self.pipe.scheduler is self._own and self.num_steps == self.spec.num_steps
        if taken != self.num_steps and not usual:
            raise ConfigError(
                f"got {type(self.pipe.scheduler).__name__}, which takes {taken} steps where "
                f"{self.num_steps} are asked for; choose another",
                key="request.scheduler",
            )

    def _check_levels(self, asked: Mapping[str, Any]) -> None:
        """Some pipelines do not pass noise levels on to a scheduler that can make its own for flows."""
        if self._sigmas is not None and asked.get(SIGMAS) is None:
            raise ConfigError(
                f"got {len(self._sigmas)} noise levels; {type(self.pipe).__name__} does not pass them on to "
                f"{type(self.pipe.scheduler).__name__}, leave them out",
                key=f"request.{SIGMAS}",
            )

    def _check_size(self, images: Tensor) -> None:
        height, width = images.shape[-2:]
        sizes = [("height", height), ("width", width)]
        if images.ndim == 5:
            sizes.append(("num_frames", images.shape[1]))
        for name, drawn in sizes:
            asked = getattr(self.spec, name)
            if asked is not None and asked != drawn:
                raise ConfigError(
                    f"got {asked}; the pipeline drew {drawn}, a multiple of its patches; give {drawn}",
                    key=f"model.{name}",
                )

    def batches(self, cases: Sequence[Case]) -> Iterator[tuple[Case, ...]]:
        """Cut cases into batches of the spec's size."""
        for start in range(0, len(cases), self.spec.batch):
            yield tuple(cases[start : start + self.spec.batch])

    def loop_timer(self) -> AbstractContextManager[LoopTimer]:
        """Time the denoising loop of the calls inside."""
        return timed(transformers(self.pipe), self.device)
