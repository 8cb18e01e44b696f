"""The recipe of docs/cluster.md: a search submitted with `ray job submit` to a head of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).parent / "ray")
TINY = (
    "model.num_steps=6",
    "search.trials=4",
    "search.certify=1",
    "search.certify_rounds=1",
    "cases.search=2",
    "cases.holdout=2",
    "cases.batch=2",
    "cases.sensitivity=1",
    "executor.workers=1",
    "bounds={}",
    "tiers={}",
    "tracking.kind=none",
)
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Head:
    """`ray start --head` with a token and its dashboard, in a home folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        token = folder / "token"
        token.write_text("0" * 64)
        self.dashboard = f"http://127.0.0.1:{free_port()}"
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
            "HOME": str(self.home),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
        }
        self.temporary = f"/tmp/xsj{os.getpid()}"
        port = self.dashboard.rpartition(":")[2]
        words = ["start", "--head", "--block", f"--port={free_port()}", "--node-ip-address=127.0.0.1"]
        words += ["--num-cpus=2", "--object-store-memory=80000000", f"--temp-dir={self.temporary}"]
        words += ["--include-dashboard=true", f"--dashboard-port={port}"]
        self.process = subprocess.Popen(
            [RAY, *words], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def ray(self, *words: str, timeout_s: float = 400) -> subprocess.CompletedProcess[str]:
        """Run `ray` as a user does."""
        environment = {**self.environment, "RAY_API_SERVER_ADDRESS": self.dashboard}
        return subprocess.run(
            [RAY, *words], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s
        )

    def wait(self) -> None:
        end = time.monotonic() + 120
        while self.ray("job", "list").returncode != 0:
            assert self.process.poll() is None, self.process.communicate()[0].decode()[-2000:]
            assert time.monotonic() < end, "no dashboard"
            time.sleep(1)

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=60)
        subprocess.run(["rm", "-rf", self.temporary], check=True)


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    found = Head(tmp_path)
    try:
        found.wait()
        yield found
    finally:
        found.stop()


def test_a_search_as_a_ray_job(head: Head, tmp_path: Path) -> None:
    out = tmp_path / "run"
    autotune = [sys.executable, "-m", "autotune.cli.main"]
    search = ["search", str(ROOT / "experiments/dit-digits.yaml"), "--out", str(out), "--ray-address", "auto"]
    keys = [word for each in TINY for word in ("--set", each)]
    models = ROOT / "experiments/models"
    keys += ["--set", f"model.path={models}/dit-digits", "--set", f"metrics.net={models}/digits-classifier"]
    keys += ["--set", f"metrics.reference_stats={models}/dit-digits-stats.npz"]
    done = head.ray("job", "submit", "--submission-id", "tiny", "--", *autotune, *search, *keys)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "succeeded" in done.stdout
    assert json.loads((out / "summary.json").read_text())["trials"]["complete"] == 4
    bad = head.ray("job", "submit", "--", *autotune, *search, "--resume", "--set", "executor.workers=0")
    assert bad.returncode != 0
    assert "executor.workers: got 0" in bad.stdout
    assert not (head.home / ".ray").exists(), "Ray writes nothing to the home folder"
