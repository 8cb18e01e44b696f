"""Where calls stand in a scheduler's timesteps, whatever their dtype leaves of them."""

from __future__ import annotations

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from xslim.runtime.adapters.flux import FLUX
from xslim.runtime.arrival import Arrival, Time
from xslim.runtime.calls import Call
from xslim.runtime.timetable import Timetable


def told(timestep: torch.Tensor, dtype: torch.dtype) -> Time:
    """The time of a call of a FLUX pipeline: rounded, divided by 1000, rounded again."""
    argument = timestep.expand(2).to(dtype) / 1000
    latent = torch.zeros(2, 16, 4, dtype=dtype)
    return Arrival.of(Call((), (), {"hidden_states": latent, "timestep": argument}), FLUX, None).time


@given(
    st.integers(1, 120),
    st.floats(0.5, 8.0),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    st.floats(0.0, 1.0),
    st.booleans(),
)
def test_a_walk_through_the_table(
    steps: int, shift: float, dtype: torch.dtype, start: float, begins: bool
) -> None:
    """From the start or from the middle; without a begin index it may lag at first, but never run ahead."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    first = min(int(start * steps), steps - 1)
    if begins:
        scheduler.set_begin_index(first)
    table = Timetable(scheduler)
    times = [told(timestep, dtype) for timestep in scheduler.timesteps]
    found = table.first(times[first])
    assert found is not None
    walk = [found]
    for time in times[first + 1 :]:
        later = table.after(walk[-1], time)
        assert later is not None
        walk.append(later)
    expected = list(range(first, steps))
    if begins or first == 0 or dtype is torch.float32:
        assert walk == expected
    assert all(at <= true for at, true in zip(walk, expected, strict=True))
    assert table.after(steps - 1, times[-1]) is None


def test_without_a_scheduler_the_table_is_empty() -> None:
    table = Timetable(None)
    assert len(table) == 0
    assert table.first(Time(1.0, 0.1)) is None
    assert table.after(0, Time(1.0, 0.1)) is None
    assert table.sigma(0) is None
