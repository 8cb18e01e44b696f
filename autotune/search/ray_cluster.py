"""The Ray that workers run on: one of our own on this machine, or a cluster that is joined."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Mapping

from autotune.search.executor import RunBrokenError
from autotune.search.process_state import OwnedFolder, environment, sigterm_kept
from xslim.errors import ConfigError

log = logging.getLogger(__name__)
OBJECT_STORE_BYTES = 128 * 2**20  # rows and features of a few hundred cases; pictures stay on disk
REACH_S = 10.0  # for a first answer; Ray itself tries for minutes
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}  # telemetry


class RayCluster:
    """A connection to Ray. A Ray that is running in this process already is used and left running.

    A Ray of our own keeps its files in a temporary folder, asks for a token that only its processes know, and
    ends with `close`. Ctrl-C in a terminal does not reach its workers (Ray blocks SIGINT in what it starts),
    so the driver can drain; a signal sent to the whole process group does.

    Args:
        address: of a cluster, or None to start Ray here.
        inherited: variables that processes of a Ray of our own get.
    """

    def __init__(self, address: str | None, inherited: Mapping[str, str]) -> None:
        self.address, self._inherited = address, dict(inherited)
        self._folder: OwnedFolder | None = None
        self._connected = False

    @property
    def ours(self) -> bool:
        """Whether Ray was started here, by this object."""
        return self._folder is not None

    def open(self, cpus: int) -> None:
        """Start Ray here with so many CPUs, or join the cluster.

        Raises:
            ConfigError: there is no such cluster, or it wants another token.
        RunBrokenError: Ray does not start here.
        """
        import ray

        if ray.is_initialized():
            return
        self._connected = True
        try:
            if self.address is None:
                self._start(cpus)
            else:
                self._join(self.address)
        except BaseException:
            self.close()
            raise

    def resources(self) -> dict[str, float]:
        """What all nodes have that are there now, such as `CPU` and `GPU`."""
        import ray

        return {name: float(n) for name, n in ray.cluster_resources().items()}  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Disconnect; a Ray of our own ends."""
        if self._connected:
            import ray

            ray.shutdown()
            self._connected = False
        if self._folder is not None:
            self._folder.remove()
            self._folder = None

    def _join(self, address: str) -> None:
        import ray

        check_address(address)
        try:
            with sigterm_kept(), environment(QUIET):
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except ray.exceptions.AuthenticationError as error:
            raise ConfigError(
                f"the cluster at {address} asks for a token ({_first_line(error)}); "
                "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH as its nodes have them",
                key="--ray-address",
            ) from error
        except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise _no_cluster(address, error) from error

    def _start(self, cpus: int) -> None:
        import ray

        self._folder = OwnedFolder()
        _authenticate()
        more = {
            "RAY_worker_niceness": "0",  # Ray's own 15 leaves the measured work behind everything else
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the coming default; silences a warning
        }
        with sigterm_kept(), environment({**QUIET, **more, **self._inherited}):
            try:
                self._start_once(cpus)
            except Exception as error:  # Ray gives itself 30 s, which a very busy machine may not meet
                log.warning("Ray did not start here, trying again: %s", _first_line(error))
                ray.shutdown()
                try:
                    self._start_once(cpus)
                except Exception as again:
                    raise RunBrokenError(f"Ray does not start here: {_first_line(again)}") from again

    def _start_once(self, cpus: int) -> None:
        import ray

        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=str(self._folder.path) if self._folder is not None else None,
        )


def check_address(address: str) -> None:
    """Open and close a connection to HOST:PORT; `auto`, the head that runs on this machine, is left to Ray.

    Raises:
        ConfigError: nothing listens there, or it is no address.
    """
    if address == "auto":
        return
    host, separator, port = address.rpartition("://")[2].rpartition(":")
    try:
        if not separator or not port.isdigit():
            raise ValueError("this is not HOST:PORT")
        socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: BaseException) -> ConfigError:
    return ConfigError(
        f"no Ray cluster at {address} ({_first_line(error)}); give HOST:PORT of a running head, as "
        "`ray start --head` prints it, or leave it out to run here",
        key="--ray-address",
    )


def _authenticate() -> None:
    """Have a token ready for our own Ray, which asks for one unless the user chose otherwise.

    Ray's ports are open to the network. Left to itself it would write a token to the user's home folder. The
    variable stays set, because Ray reads it once in a process. The mode is left to Ray, which turns tokens on
    in `ray.init`: set here, it would come after `import ray` has read it.
    """
    disabled = os.environ.get("RAY_AUTH_MODE", "token").lower() != "token"
    if not disabled and not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
