"""Makes `docs/img/mlflow-compare.png`: two short searches, compared in MLflow's own UI by a real browser.

    python docs/img/mlflow_screenshot.py [--folder runs/mlflow-screenshot]

Needs Chromium (`apt-get install chromium`). Searches that are in the folder already are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

ROOT = Path(__file__).resolve().parents[2]
PICTURE = Path(__file__).with_name("mlflow-compare.png")
# short, and without timing, so that a busy machine draws the same picture
SHORT = {
    "model.num_steps": "12",
    "search.trials": "12",
    "cases.search": "4",
    "cases.holdout": "4",
    "cases.batch": "4",
    "search.certify": "2",
    "search.certify_rounds": "1",
    "search.timing_rounds": "0",
    "executor.kind": "local",
    "objectives": "[compute_fraction, lpips]",
}
SEARCHES = {
    "autotune": {},
    "random": {
        "search.sampler": "random",
        "search.warm_starts": "0",
        "search.screening": "false",
        "search.neighbours": "0",
    },
}
WINDOW = "1600,1150"
PATIENCE_S = 300.0
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def search(folder: Path, store: str) -> None:
    """Run the two searches into one store."""
    for name, settings in SEARCHES.items():
        out = folder / name
        if (out / "summary.json").exists():
            continue
        words = [
            sys.executable,
            "-m",
            "autotune.cli.main",
            "search",
            str(ROOT / "experiments/dit-digits.yaml"),
        ]
        words += ["--out", str(out), *(["--resume"] if out.exists() else [])]
        words += [
            word for key, value in {**SHORT, **settings}.items() for word in ("--set", f"{key}={value}")
        ]
        found = subprocess.run(words, cwd=ROOT, env={**os.environ, "MLFLOW_TRACKING_URI": store}, check=False)
        if found.returncode not in (0, 1):  # 1: no preset holds its bounds, which so short a search may give
            sys.exit(f"the search {name} ended with status {found.returncode}")


@contextmanager
def server(folder: Path, store: str) -> Iterator[str]:
    """Serve MLflow's UI on this machine; give its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--workers", "1"]
    words += ["--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    log = folder / "server.log"
    with log.open("w") as file:
        process = subprocess.Popen(words, env=environment, cwd=folder, stdout=file, stderr=file)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(f"{address}/health", process)
            yield address
        finally:
            process.terminate()
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and process.poll() is None:
        try:
            urlopen(url, timeout=5).close()
            return
        except (URLError, OSError):
            time.sleep(0.5)
    sys.exit("MLflow's server does not answer; see server.log")


def ask(address: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Ask MLflow's REST interface."""
    request = Request(f"{address}/api/2.0/mlflow/{path}", json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    with urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def compared(address: str) -> str:
    """The address of the page that compares the parent runs."""
    experiments = ask(address, "experiments/search", {"max_results": 10})["experiments"]
    (number,) = [e["experiment_id"] for e in experiments if e["name"].startswith("dit-digits,")]
    query = {"experiment_ids": [number], "filter": "tags.`autotune.search` != ''"}
    runs = [run["info"]["run_id"] for run in ask(address, "runs/search", query)["runs"]]
    if len(runs) != len(SEARCHES):
        sys.exit(f"found {len(runs)} searches in the store, not {len(SEARCHES)}")
    return (
        f"{address}/#/compare-runs?runs={quote(json.dumps(runs))}&experiments={quote(json.dumps([number]))}"
    )


def photograph(url: str) -> None:
    """Let Chromium draw the page."""
    browser = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if browser is None:
        sys.exit("no Chromium here; apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile:
        words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        words += [f"--user-data-dir={profile}", f"--window-size={WINDOW}", "--virtual-time-budget=60000"]
        subprocess.run([*words, f"--screenshot={PICTURE}", url], check=True, timeout=PATIENCE_S)


def main() -> None:
    """Search, serve, photograph."""
    parser = argparse.ArgumentParser(description="Photographs two searches compared in MLflow")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "mlflow-screenshot")
    folder: Path = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    store = f"sqlite:///{folder / 'mlflow.db'}"
    search(folder, store)
    with server(folder, store) as address:
        url = compared(address)
        photograph(url)


if __name__ == "__main__":
    main()
