"""What an NVIDIA GPU says of itself through NVML: clocks, power, throttling, other processes.

NVML comes with the optional package `nvidia-ml-py`; without it nothing is read, and the environment says so.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from types import ModuleType
from typing import Any, Protocol

import torch

ABSENT = "absent; `pip install nvidia-ml-py` adds it"
# bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h, nvmlClocksEventReasons)
REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
# a power cap is how large GPUs run under full load, so it is told and does not spoil a sample
SPOILING = ("hardware slowdown", "thermal slowdown", "hardware thermal slowdown", "power brake")


@dataclass(frozen=True, slots=True)
class GpuReading:
    """A GPU at one moment.

    Attributes:
        sm_mhz: clock of the multiprocessors.
        memory_mhz: clock of the memory.
        power_w: power drawn.
        temperature_c: of the chip.
        reasons: why clocks are held down, by the names of `REASONS`.
        thermal_ns: nanoseconds of thermal throttling since the driver was loaded; None where not counted.
        others: processes on the GPU besides this one.
    """

    sm_mhz: float
    memory_mhz: float
    power_w: float
    temperature_c: float
    reasons: tuple[str, ...] = ()
    thermal_ns: int | None = None
    others: int = 0


class Gpu(Protocol):
    """Something that can be read; NVML, or a stand-in in tests."""

    def read(self) -> GpuReading:
        """Read it now."""
        ...


class NvmlGpu:
    """One GPU read through NVML."""

    def __init__(self, nvml: ModuleType, uuid: str) -> None:
        self._nvml: Any = nvml
        self._nvml.nvmlInit()
        self._handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid)

    def read(self) -> GpuReading:
        """Read clocks, power, temperature, throttling and processes."""
        nvml, handle = self._nvml, self._handle
        return GpuReading(
            sm_mhz=float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            memory_mhz=float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            power_w=nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
            temperature_c=float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            reasons=reasons_of(int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))),
            thermal_ns=self._thermal_ns(),
            # in a container process ids differ, so that ours is not found by its number
            others=max(0, len(nvml.nvmlDeviceGetComputeRunningProcesses(handle)) - 1),
        )

    def _thermal_ns(self) -> int | None:
        nvml = self._nvml
        try:
            status = nvml.nvmlDeviceGetViolationStatus(self._handle, nvml.NVML_PERF_POLICY_THERMAL)
        except nvml.NVMLError:  # not every GPU counts it
            return None
        return int(status.violationTime)


def reasons_of(mask: int) -> tuple[str, ...]:
    """Name the bits of a mask of throttle reasons that matter; idle clocks and user settings do not."""
    return tuple(name for bit, name in REASONS.items() if mask & bit)


def spoiled(before: GpuReading | None, after: GpuReading | None) -> str:
    """Say why what ran between two readings is no valid sample; empty when it is one."""
    if before is None or after is None:
        return ""
    found = [name for name in SPOILING if name in (*before.reasons, *after.reasons)]
    if not found and before.thermal_ns is not None and after.thermal_ns is not None:
        found = ["thermal slowdown"] if after.thermal_ns > before.thermal_ns else []
    return f"throttled: {', '.join(found)}" if found else ""


def summarise(readings: Sequence[GpuReading]) -> dict[str, float]:
    """Return medians of the readings and the most co-tenants; empty without readings."""
    if not readings:
        return {}
    names = ("sm_mhz", "memory_mhz", "power_w", "temperature_c")
    found = {name: float(median(getattr(reading, name) for reading in readings)) for name in names}
    found["power_cap_share"] = sum("power cap" in reading.reasons for reading in readings) / len(readings)
    return {**found, "other_processes": float(max(reading.others for reading in readings))}


def nvml_module() -> ModuleType | None:
    """Return NVML's module, or None where the package is not installed."""
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        return None


def open_gpu(device: torch.device) -> Gpu | None:
    """Return the GPU of a device; None on a CPU, or where NVML is absent or refuses any of its questions."""
    nvml = nvml_module() if device.type == "cuda" else None
    if nvml is None:
        return None
    try:
        found = NvmlGpu(nvml, f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        found.read()  # virtual GPUs answer some questions only
        return found
    except nvml.NVMLError:
        return None


def driver_version() -> str:
    """Return the NVIDIA driver's version, or why it is not known."""
    nvml: Any = nvml_module()
    if nvml is None:
        return ABSENT
    try:
        nvml.nvmlInit()
        return str(nvml.nvmlSystemGetDriverVersion())
    except nvml.NVMLError as error:
        return f"absent: {error}"
