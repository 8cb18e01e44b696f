"""Whether the newest residuals are finite, known without making the host wait for a GPU."""

from __future__ import annotations

import torch
from torch import Tensor


class Health:
    """One flag a sample: 0 while its residuals are finite, else NaN.

    On CUDA the flags are copied to pinned memory behind the step's own work and looked at when they have
    arrived. Late is early enough: a residual with NaN comes from a step whose output was NaN already.
    Flags that nobody has read are added to the next ones, so that none is lost.
    """

    def __init__(self) -> None:
        self._flags: Tensor | None = None  # [batch]
        self._copy: Tensor | None = None  # the same in pinned memory
        self._arrived: torch.cuda.Event | None = None
        self._read = False

    def note(self, residual: Tensor | None) -> None:
        """Look at residuals [batch, ...]; None when they were not kept."""
        unread = None if self._read else self._flags
        self._flags, self._copy, self._arrived, self._read = None, None, None, False
        if residual is None:
            return
        flags = torch.where(torch.isfinite(residual).flatten(1).all(1), 0.0, torch.nan)
        self._flags = flags if unread is None else flags + unread
        if self._flags.is_cuda:
            self._copy = torch.empty(self._flags.shape, dtype=self._flags.dtype, pin_memory=True)
            self._copy.copy_(self._flags, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record(torch.cuda.current_stream(self._flags.device))

    def flags(self, waits: bool) -> Tensor | None:
        """The flags [batch]; None when there are none, or when they are still on their way.

        Args:
            waits: the caller waits for the device anyway: it gets the flags there, at once.
        """
        if self._copy is None or self._arrived is None or waits:
            self._read = self._flags is not None
            return self._flags
        if not self._arrived.query():  # type: ignore[no-untyped-call]
            return None
        self._read = True
        return self._copy

    def tensors(self) -> list[Tensor]:
        """What is held on the device."""
        return [] if self._flags is None else [self._flags]
