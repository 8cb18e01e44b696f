"""Whether the library of a peer is installed. Loads none of them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from autotune.compare.recipe import Peer
from xslim.errors import ConfigError

PACKAGES = {"diffusers": "diffusers", "cache-dit": "cache_dit"}
INSTALL = "pip install 'xslim-autotune[compare]'"


def installed_version(peer: Peer) -> str:
    """Version of the peer's library; `none` where it is not installed."""
    try:
        return version(PACKAGES[peer.library])
    except PackageNotFoundError:
        return "none"


def check_installed(peer: Peer) -> None:
    """Refuse a peer whose library is not installed.

    Raises:
        ConfigError: says how to install it.
    """
    if find_spec(PACKAGES[peer.library]) is None:
        raise ConfigError(f"{peer.library} is not installed: {INSTALL}", key="peer.library")
