"""xslim: cache features of diffusion transformers between denoising steps, under a tuned policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xslim.errors import XSlimError
from xslim.policy.policy import Policy
from xslim.policy.preset import Preset, load_preset, save_preset

if TYPE_CHECKING:
    from xslim.runtime.attach import attach
    from xslim.runtime.session import Session

__version__ = "0.1.0"
__all__ = ["Policy", "Preset", "Session", "XSlimError", "attach", "load_preset", "save_preset"]


def __getattr__(name: str) -> Any:
    """Load the runtime, and with it torch, only when it is asked for (PEP 562)."""
    if name == "attach":
        from xslim.runtime.attach import attach

        return attach
    if name == "Session":
        from xslim.runtime.session import Session

        return Session
    raise AttributeError(f"module 'xslim' has no attribute {name!r}")
