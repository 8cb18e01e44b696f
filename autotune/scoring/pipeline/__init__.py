"""The pipeline under test: any diffusers pipeline around a transformer, loaded, called and timed."""

from autotune.scoring.pipeline.runner import PipelineRunner
from autotune.scoring.pipeline.spec import Memory, ModelSpec, check_model_folder
from autotune.scoring.pipeline.timer import LoopTimer

__all__ = ["LoopTimer", "Memory", "ModelSpec", "PipelineRunner", "check_model_folder"]
