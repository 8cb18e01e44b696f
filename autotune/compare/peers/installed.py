"""Which peers there are, and whether their library is installed. Loads none of them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from autotune.compare.recipe import Peer
from xslim.errors import ConfigError
from xslim.policy.document import suggest

# library -> (package, the configurations that are known of it)
LIBRARIES = {
    "diffusers": (
        "diffusers",
        (
            "FasterCacheConfig",
            "FirstBlockCacheConfig",
            "MagCacheConfig",
            "PyramidAttentionBroadcastConfig",
            "SeaCacheConfig",
            "TaylorSeerCacheConfig",
        ),
    ),
    "cache-dit": ("cache_dit", ("DBCacheConfig", "DBPruneConfig")),
}
INSTALL = "pip install 'xslim-autotune[compare]'"


def installed_version(peer: Peer) -> str:
    """Version of the peer's library; `none` where it is not installed."""
    try:
        return version(LIBRARIES[peer.library][0])
    except PackageNotFoundError:
        return "none"


def check_installed(peer: Peer) -> None:
    """Refuse a peer that is not known, or whose library is not installed.

    Raises:
        ConfigError: says how to install it, or which configurations are known.
    """
    package, configs = LIBRARIES[peer.library]
    if peer.config not in configs:
        raise ConfigError(f"got {peer.config!r}; {suggest(peer.config, configs)}", key="peer.config")
    if find_spec(package) is None:
        raise ConfigError(f"{peer.library} is not installed: {INSTALL}", key="peer.library")
