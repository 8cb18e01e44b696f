"""What says that a peer does not run."""

from __future__ import annotations

from xslim.errors import XSlimError


class PeerFailedError(XSlimError):
    """A peer could not be measured on this model; the text is one line that says why."""
