"""Measuring a peer in a process of its own: some libraries patch classes and do not restore them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from autotune.compare.peers.failure import PeerFailedError
from autotune.compare.peers.installed import check_installed
from autotune.compare.peers.request import PeerRequest, PeerResult
from autotune.scoring.entry import DamagedEntryError

WORKER = "autotune.compare.peers.worker"
MAX_REASON = 300  # characters


def measure_peer(request: PeerRequest, timeout_s: float) -> PeerResult:
    """Measure another library's cache on some cases, in a process of its own.

    Args:
        request: what is measured; references of its cases are drawn when they are not stored.
        timeout_s: seconds until the process is ended.

    Raises:
        ConfigError: the library is not installed, or has no such configuration.
        PeerFailedError: it does not run on this model, broke, or took too long.
    """
    check_installed(request.peer)
    with TemporaryDirectory(prefix="autotune-peer-") as folder:
        asked, result, told = (Path(folder) / name for name in ("request.json", "result", "stderr"))
        asked.write_text(request.to_json())
        status = _run([sys.executable, "-m", WORKER, str(asked), str(result)], told, timeout_s)
        try:
            found = PeerResult.read(result)
        except DamagedEntryError:
            raise PeerFailedError(_crash(status, told)) from None
    if isinstance(found, str):
        raise PeerFailedError(_line(found))
    return found


def _run(command: list[str], told: Path, timeout_s: float) -> int:
    """Run a command to its end and return its status; whatever happens, nothing of it is left running."""
    with told.open("wb") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise PeerFailedError(
                f"ended after {timeout_s:g} s; raise compare.peer_seconds, or give it fewer cases"
            ) from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _crash(status: int, told: Path) -> str:
    """Why a process left no result."""
    lines = told.read_text(errors="replace").strip().splitlines()
    if status < 0:
        return f"its process was ended by {signal.Signals(-status).name}"
    return _line(lines[-1]) if lines else f"its process ended with status {status}"


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_REASON else f"{line[: MAX_REASON - 1]}…"
