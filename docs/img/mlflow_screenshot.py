"""Makes `docs/img/mlflow-compare.png`: two short searches, compared in MLflow's own UI by a real browser.

    python docs/img/mlflow_screenshot.py [--folder runs/mlflow-screenshot]

Needs Chromium (`apt-get install chromium`). Searches that are in the folder already are not run again.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import itertools
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
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

import aiohttp

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
WINDOW = "1600,1620"
CHARTS = "hypervolume|best_"  # typed into the search box of the charts
CURVES, MIN_CURVES, SETTLE_S = ".js-plotly-plot .scatterlayer .trace", 4, 5.0
# what a user would click away
STORED = {
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
}
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
    browser = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if browser is None:
        sys.exit("no Chromium here; apt-get install chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        words += [f"--user-data-dir={profile}", f"--window-size={WINDOW}", "--remote-debugging-port=0"]
        process = subprocess.Popen([*words, "about:blank"], stderr=subprocess.DEVNULL)
        try:
            async with aiohttp.ClientSession() as session:
                port = await _debugging_port(Path(profile))
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    pages = [page for page in await answer.json() if page["type"] == "page"]
                async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    await _photograph(Page(socket), url)
        finally:
            process.terminate()
            process.wait()


async def _debugging_port(profile: Path) -> str:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        with contextlib.suppress(OSError, IndexError):
            return (profile / "DevToolsActivePort").read_text().splitlines()[0]
        await asyncio.sleep(0.2)
    sys.exit("Chromium does not start")


class Page:
    """A page of Chromium, by its DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._ids = socket, itertools.count(1)

    async def do(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method and return its result."""
        number = next(self._ids)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            answer: dict[str, Any] = await self._socket.receive_json(timeout=PATIENCE_S)
            if answer.get("id") == number:
                return dict(answer.get("result", {}))

    async def value(self, expression: str) -> Any:
        """Return what a JavaScript expression gives."""
        found = await self.do("Runtime.evaluate", expression=expression, returnByValue=True)
        return found.get("result", {}).get("value")


async def _photograph(page: Page, url: str) -> None:
    quiet = "".join(f"localStorage.setItem({key!r}, {value!r});" for key, value in STORED.items())
    await page.do("Page.enable")
    await page.do("Page.addScriptToEvaluateOnNewDocument", source=f"try {{{quiet}}} catch (e) {{}}")
    await page.do("Page.navigate", url=url)
    end = time.monotonic() + PATIENCE_S
    while (await page.value(f"document.querySelectorAll('{CURVES}').length") or 0) < MIN_CURVES:
        if time.monotonic() > end:
            sys.exit("the page shows no curves")
        await asyncio.sleep(1.0)
    await page.value("document.querySelector('input[placeholder=\"Search metric charts\"]').focus()")
    await page.do("Input.insertText", text=CHARTS)
    await asyncio.sleep(SETTLE_S)
    # toolbars of charts are shown under a mouse, and always where there is none
    await page.value("document.querySelectorAll('.modebar').forEach(bar => bar.remove())")
    await asyncio.sleep(SETTLE_S)
    shot = await page.do("Page.captureScreenshot", format="png")
    PICTURE.write_bytes(base64.b64decode(shot["data"]))


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
