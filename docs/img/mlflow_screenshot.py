"""Makes `docs/img/mlflow-compare.png`: two short searches, compared in MLflow's own UI by a real browser.

    python -m docs.img.mlflow_screenshot [--folder runs/mlflow-screenshot]

Needs Chromium (`apt-get install chromium`). Searches that are in the folder already are not run again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from tests.report.browser import browser, chromium

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
WINDOW = 1600, 1620
CHARTS = "hypervolume|best_"  # typed into the search box of the charts
CURVES, MIN_CURVES, SETTLE_S = ".js-plotly-plot .scatterlayer .trace", 4, 5.0
# what a user would click away
STORED = {
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
}
PATIENCE_S = 300.0


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
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = folder / "server.log"
    with log.open("w") as file:
        process = subprocess.Popen(words, env={**os.environ, **quiet}, cwd=folder, stdout=file, stderr=file)
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
    """The address of the page that draws the parent runs' curves into one chart each."""
    experiments = ask(address, "experiments/search", {"max_results": 10})["experiments"]
    (number,) = [e["experiment_id"] for e in experiments if e["name"].startswith("dit-digits,")]
    parents = "tags.`autotune.search` != ''"
    runs = ask(address, "runs/search", {"experiment_ids": [number], "filter": parents})["runs"]
    if len(runs) != len(SEARCHES):
        sys.exit(f"found {len(runs)} searches in the store, not {len(SEARCHES)}")
    query = urlencode({"compareRunsMode": "CHART", "searchFilter": parents}, quote_via=quote)
    return f"{address}/#/experiments/{number}/runs?{query}"


async def photograph(url: str) -> None:
    """Let Chromium draw the page, and take its picture once the curves are there."""
    if chromium() is None:
        sys.exit("no Chromium here; apt-get install chromium")
    async with browser() as page:
        width, height = WINDOW
        await page.do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        quiet = "".join(f"localStorage.setItem({key!r}, {value!r});" for key, value in STORED.items())
        await page.do("Page.enable")
        await page.do("Page.addScriptToEvaluateOnNewDocument", source=f"try {{{quiet}}} catch (e) {{}}")
        await page.do("Page.navigate", url=url)
        await page.until(f"document.querySelectorAll('{CURVES}').length >= {MIN_CURVES}", PATIENCE_S)
        await page.value("document.querySelector('input[placeholder=\"Search metric charts\"]').focus()")
        await page.do("Input.insertText", text=CHARTS)
        await asyncio.sleep(SETTLE_S)
        # toolbars of charts are shown under a mouse, and always where there is none
        await page.value("document.querySelectorAll('.modebar').forEach(bar => bar.remove())")
        await asyncio.sleep(SETTLE_S)
        await page.screenshot(PICTURE, whole=False)


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
        asyncio.run(photograph(url))


if __name__ == "__main__":
    main()
