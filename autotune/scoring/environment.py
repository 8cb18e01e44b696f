"""What numbers were measured on: the machine, and the settings of PyTorch and diffusers that change them."""

from __future__ import annotations

import platform
from pathlib import Path

import diffusers
import torch
from torch import nn
from torch._dynamo import OptimizedModule
from torch._dynamo.utils import counters

import xslim
from autotune.scoring.environment_gpu import driver_version
from xslim.runtime.model import LiveModel

SDPA = "sdpa"  # of processors that call PyTorch's function without diffusers' dispatch


def environment(
    device: torch.device, transformer: nn.Module | None = None, compile_mode: str | None = None
) -> dict[str, str]:
    """Return what the numbers were measured on; goes into presets.

    Args:
        device: that the model runs on.
        transformer: the model; adds what is compiled and which attention runs.
        compile_mode: mode of `torch.compile` where it was asked for; a module does not tell it.
    """
    found = {
        "device": device_name(device),
        "threads": str(torch.get_num_threads()),
        **versions(),
        "python": platform.python_version(),
    }
    if transformer is not None:
        found["compile"] = compiled(transformer, compile_mode)
        found["attention"] = attention_backend(transformer)
    if device.type == "cuda":
        found |= cuda_settings()
    return found


def versions() -> dict[str, str]:
    """Versions that pictures depend on."""
    return {
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "xslim": xslim.__version__,
    }


def device_name(device: torch.device) -> str:
    """Name of the GPU, or of the processor with its cores."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()


def cuda_settings() -> dict[str, str]:
    """Return what changes speed and rounding on NVIDIA GPUs: precision, cuDNN, CUDA and its driver."""
    cudnn = torch.backends.cudnn
    # torch gives `version` no types
    version: int | None = cudnn.version() if cudnn.is_available() else None  # type: ignore[no-untyped-call]
    return {
        "tf32": f"matmul {_switch(torch.backends.cuda.matmul.allow_tf32)}, cudnn {_switch(cudnn.allow_tf32)}",
        "cudnn": (
            f"{version or 'absent'}, benchmark {_switch(cudnn.benchmark)}, "
            f"deterministic {_switch(cudnn.deterministic)}"
        ),
        "cuda": torch.version.cuda or "absent",
        "driver": driver_version(),
    }


def _switch(on: bool) -> str:
    return "on" if on else "off"


def compiled(transformer: nn.Module, mode: str | None = None) -> str:
    """Say what `torch.compile` covers and how many graphs it made in this process.

    Such as `no`, `model, 2 graphs`, or `8 of 8 blocks, max-autotune, 3 graphs`. Graphs are made at the first
    calls, so a number above the one of a first measurement tells of recompiling.
    """
    whole = _is_compiled(transformer)
    blocks = LiveModel(getattr(transformer, "_orig_mod", transformer)).blocks
    inside = sum(_is_compiled(block) for block in blocks)
    if not whole and not inside:
        return "no"
    part = "model" if whole else f"{inside} of {len(blocks)} blocks"
    graphs = counters["stats"]["unique_graphs"]
    return ", ".join([part, *([mode] if mode else []), f"{graphs} graph{'' if graphs == 1 else 's'}"])


def _is_compiled(module: nn.Module) -> bool:
    return isinstance(module, OptimizedModule) or module._compiled_call_impl is not None


def attention_backend(transformer: nn.Module) -> str:
    """Name the attention kernels: diffusers' backend, set on the model or active for all, or `sdpa`."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    active = _AttentionBackendRegistry.get_active_backend()[0]
    names = set()
    for module in transformer.modules():
        processor = getattr(module, "processor", None)
        if processor is None:
            continue
        own = getattr(processor, "_attention_backend", None) or active
        names.add(_name(own) if hasattr(processor, "_attention_backend") else SDPA)
    return ", ".join(sorted(names)) or SDPA


def _name(backend: object) -> str:
    return str(getattr(backend, "value", backend))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} cores)" if names else platform.machine()
