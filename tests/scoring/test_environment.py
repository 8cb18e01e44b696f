"""What a measurement ran on: GPU readings, libraries, attention backend, compiled blocks."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from autotune.scoring.environment import attention_backend, compiled, environment
from autotune.scoring.environment_gpu import GpuReading, NvmlGpu, open_gpu, reasons_of, spoiled, summarise
from autotune.scoring.latency import paired
from autotune.scoring.pipeline import PipelineRunner
from tests.scoring.conftest import CASES, HALF
from tests.tiny import dit
from tests.tiny.flux import flux

COOL = GpuReading(1980, 2619, 650.0, 60, ("power cap",), thermal_ns=10)


@pytest.mark.gpu
def test_a_gpu_is_read_and_its_peak_is_counted(runner: PipelineRunner) -> None:
    gpu = open_gpu(torch.device("cuda"))
    assert gpu is not None, "pip install nvidia-ml-py"
    reading = gpu.read()
    assert reading.sm_mhz > 0
    assert reading.power_w > 0
    cuda = PipelineRunner(replace(runner.spec, device="cuda"))
    found = paired(cuda, CASES[:2], HALF, 1, 0.0)
    assert found.peak_bytes > 0
    assert found.baseline_peak_bytes > 0
    assert found.gpu["sm_mhz"] > 0
    assert environment(cuda.device, cuda.pipe.transformer)["driver"][0].isdigit()


def test_throttling_is_read_from_reasons_and_from_the_counter() -> None:
    hot = GpuReading(900, 2619, 650.0, 88, ("thermal slowdown",), thermal_ns=10)
    assert spoiled(COOL, COOL) == "", "a power cap is how a large GPU runs under load"
    assert spoiled(COOL, hot) == spoiled(hot, COOL) == "throttled: thermal slowdown"
    between = GpuReading(1980, 2619, 650.0, 60, thermal_ns=5_000_000)
    assert spoiled(COOL, between) == "throttled: thermal slowdown", "it was over when the loop ended"
    assert spoiled(None, hot) == ""
    assert summarise([COOL, hot]) == {
        "sm_mhz": 1440, "memory_mhz": 2619, "power_w": 650, "temperature_c": 74,
        "power_cap_share": 0.5, "other_processes": 0,
    }  # fmt: skip
    assert summarise([]) == {}


def test_masks_of_reasons_are_named() -> None:
    assert reasons_of(0x1 | 0x2) == ()  # idle, and a user's setting
    assert reasons_of(0x4 | 0x20 | 0x100) == ("power cap", "thermal slowdown")
    assert reasons_of(0x8 | 0x40 | 0x80) == ("hardware slowdown", "hardware thermal slowdown", "power brake")


class NotSupportedError(Exception):
    pass


def nvml(**changes: object) -> SimpleNamespace:
    """NVML's functions as `nvidia-ml-py` has them, with fixed answers."""
    answers = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlDeviceGetClockInfo": lambda handle, kind: {0: 1980, 1: 2619}[kind],
        "nvmlDeviceGetPowerUsage": lambda handle: 650_500,
        "nvmlDeviceGetTemperature": lambda handle, kind: 61,
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda handle: 0x4,
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [1, 2, 3],
        "nvmlDeviceGetViolationStatus": lambda handle, policy: SimpleNamespace(violationTime=7),
        "NVML_CLOCK_SM": 0, "NVML_CLOCK_MEM": 1, "NVML_TEMPERATURE_GPU": 0, "NVML_PERF_POLICY_THERMAL": 1,
        "NVMLError": NotSupportedError,
    }  # fmt: skip
    return SimpleNamespace(**{**answers, **changes})


def test_nvml_is_read_in_plain_units() -> None:
    assert NvmlGpu(nvml(), "GPU-1").read() == GpuReading(1980, 2619, 650.5, 61, ("power cap",), 7, 2)

    def refuses(handle: object, policy: int) -> object:
        raise NotSupportedError

    reading = NvmlGpu(nvml(nvmlDeviceGetViolationStatus=refuses), "GPU-1").read()
    assert reading.thermal_ns is None


def test_the_environment_names_what_runs() -> None:
    found = environment(torch.device("cpu"), flux())
    assert found["compile"] == "no"
    assert found["attention"] == "native"
    assert {"device", "threads", "torch", "diffusers", "xslim", "python"} <= set(found)
    assert all(isinstance(value, str) for value in found.values())
    assert set(environment(torch.device("cpu"))) == set(found) - {"compile", "attention"}


def test_the_attention_backend_is_the_models_own() -> None:
    model = flux()
    model.set_attention_backend("_native_math")
    assert attention_backend(model) == "_native_math"
    assert attention_backend(dit()) == "sdpa", "its processor calls PyTorch's function"


def test_compiled_blocks_are_counted() -> None:
    model = flux()
    blocks: list[nn.Module] = [*model.transformer_blocks, *model.single_transformer_blocks]
    blocks[0].compile(backend="eager")
    assert compiled(model).startswith("1 of 6 blocks, ")
    assert compiled(model, "max-autotune").startswith("1 of 6 blocks, max-autotune, ")
    for block in blocks:
        block.compile(backend="eager")
    assert compiled(model).startswith("6 of 6 blocks, ")
    assert compiled(torch.compile(flux(), backend="eager")).startswith("model, ")
