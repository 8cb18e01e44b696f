"""Peers: other libraries' caches, measured live on the same cases, each in a process of its own."""

from autotune.compare.peers.installed import check_installed
from autotune.compare.peers.process import NEVER_REUSED, PeerFailedError, PeerResult, measure_peer

__all__ = ["NEVER_REUSED", "PeerFailedError", "PeerResult", "check_installed", "measure_peer"]
