"""Peers: other libraries' caches, measured live on the same cases, each in a process of its own."""

from autotune.compare.peers.failure import PeerFailedError
from autotune.compare.peers.installed import check_installed, installed_version
from autotune.compare.peers.process import measure_peer
from autotune.compare.peers.request import NEVER_REUSED, PeerRequest, PeerResult

__all__ = [
    "NEVER_REUSED",
    "PeerFailedError",
    "PeerRequest",
    "PeerResult",
    "check_installed",
    "installed_version",
    "measure_peer",
]
