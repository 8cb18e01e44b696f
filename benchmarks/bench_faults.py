"""What a search loses while workers are killed, its driver is killed twice, and MLflow is down for a third.

    python benchmarks/bench_faults.py [--only simulated|real] [--write]

Runs the driver in a process of its own, and an MLflow server; kills with SIGKILL. Then counts: a point is
lost when it has no result, and counted twice when two rows, two told trials or two MLflow runs are of it.
Prints one JSON line a row; `--write` replaces `results/faults.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulated import SimulatedFactory, descendants, search

ROOT = Path(__file__).resolve().parent.parent
RESULT = Path(__file__).resolve().parent / "results" / "faults.json"
RESUMABLE = (75, -signal.SIGKILL)
LIMIT_S = 3600.0
NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


@dataclass(frozen=True)
class Kind:
    """One search that is disturbed.

    Attributes:
        name: `simulated` or `real`.
        trials: to be told.
        workers: at work.
        kill_every_s: seconds between two kills of the worker that has lived longest.
        trial_s: seconds that a simulated trial takes.
    """

    name: str
    trials: int
    workers: int
    kill_every_s: float
    trial_s: float = 0.0


KINDS = (Kind("simulated", 50, 4, 6.0, 3.0), Kind("real", 10, 2, 30.0))
REAL = (
    "model.num_steps=10",
    "cases.search=2",
    "cases.holdout=2",
    "cases.batch=2",
    "cases.sensitivity=1",
    "search.certify=1",
    "search.certify_rounds=1",
    "bounds={}",
    "tiers={}",
)


def drive(kind: Kind, out: Path, resume: bool) -> int:
    """Run the search in this process, as the command line does; return the exit status."""
    if kind.name == "simulated":
        from autotune.search.ray_executor import RayExecutor

        executor = RayExecutor(kind.workers, threads_per_worker=1)
        done = search(out, kind.trials, executor, SimulatedFactory(kind.trial_s), resume, warm_starts=10)
        return 75 if done.interrupted else 0
    sets = (*REAL, f"search.trials={kind.trials}", f"executor.workers={kind.workers}")
    words = ["search", str(ROOT / "experiments/dit-digits.yaml"), "--out", str(out)]
    words += [word for each in sets for word in ("--set", each)] + (["--resume"] if resume else [])
    from autotune.cli.main import main

    sys.argv = ["autotune", *words]
    main()
    return 0


class Server:
    """An MLflow server that can be taken down.

    Args:
        folder: of its data.
    """

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.process = folder, None  # type: ignore[var-annotated]
        self.uri = f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        """Start it; does not wait."""
        folder = self.folder
        words = ["server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        words += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
        words += ["--artifacts-destination", str(folder / "artifacts")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", **NO_JOBS},
        )

    def wait(self) -> None:
        """Wait until it answers."""
        end = time.monotonic() + 300
        while time.monotonic() < end:
            with suppress(OSError):
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            time.sleep(0.5)
        raise RuntimeError("the MLflow server does not start")

    def down(self) -> None:
        """Kill it, all its processes."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


class Disturbance:
    """Kills workers and the driver, takes MLflow down and up, by the clock and by the rows that are written.

    Args:
        kind: what is disturbed.
        out: the run folder.
        server: MLflow.
    """

    def __init__(self, kind: Kind, out: Path, server: Server) -> None:
        self.kind, self.out, self.server = kind, out, server
        self.workers = self.drivers = 0
        self.down_between: list[int] = []
        self._last = time.monotonic()

    def turn(self, driver: subprocess.Popen[bytes]) -> None:
        """Do what is due."""
        third, rows = self.kind.trials / 3, len(lines(self.out))
        if not self.down_between and rows >= third:
            self.server.down()
            self.down_between.append(rows)
        if len(self.down_between) == 1 and rows >= 2 * third:
            self.server.up()
            self.down_between.append(rows)
        if self.drivers < 2 and rows >= (self.drivers + 1) * third:
            driver.kill()
            driver.wait()
            self.drivers += 1
            return
        if time.monotonic() - self._last >= self.kind.kill_every_s and lines(self.out):
            found = descendants(driver.pid, "ray::Worker")
            if found:
                with suppress(ProcessLookupError):
                    os.kill(found[0], signal.SIGKILL)
                    self.workers += 1
                self._last = time.monotonic()


def disturbed(kind: Kind, folder: Path) -> dict[str, Any]:
    """Run one search under all disturbances; return its row."""
    out, server = folder / "run", Server(folder)
    server.up()
    server.wait()
    disturbance = Disturbance(kind, out, server)
    began, runs, status = time.monotonic(), 0, -signal.SIGKILL
    try:
        while status in RESUMABLE:
            words = [str(Path(__file__).resolve()), "--drive", kind.name, "--out", str(out)]
            driver = subprocess.Popen(
                [sys.executable, *words, *(["--resume"] if (out / "manifest.json").exists() else [])],
                cwd=ROOT,
                env={**os.environ, "MLFLOW_TRACKING_URI": server.uri, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"},
            )
            runs += 1
            while driver.poll() is None:
                if time.monotonic() - began > LIMIT_S:
                    driver.kill()
                    raise RuntimeError(f"{kind.name}: it does not end")
                disturbance.turn(driver)
                time.sleep(0.2)
            status = driver.returncode
        server.wait()
        counted = count(kind, out, server.uri)
    finally:
        server.down()
    return {
        "workers": kind.name,
        "trials": kind.trials,
        "at_work": kind.workers,
        "exit_status": status,
        "drivers_killed": disturbance.drivers,
        "driver_runs": runs,
        "workers_killed": disturbance.workers,
        "mlflow_down_between_trials": disturbance.down_between,
        "wall_s": round(time.monotonic() - began, 1),
        **counted,
    }


def lines(out: Path) -> list[dict[str, Any]]:
    """The rows of `results.jsonl`, read without the search's own code."""
    try:
        text = (out / "results.jsonl").read_text()
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        with suppress(ValueError, KeyError):
            found.append(json.loads(json.loads(line)["row"]))
    return found


def count(kind: Kind, out: Path, uri: str) -> dict[str, int]:
    """Count points that were lost or counted twice, in rows, study and MLflow."""
    import mlflow  # noqa: TID251  (reads what the search has logged)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(study_name="autotune", storage=f"sqlite:///{out / 'study.db'}")
    trials = {trial.number: trial for trial in study.get_trials()}

    def origin(number: int) -> int:
        """The point's first trial."""
        while (before := trials[number].user_attrs.get("retry_of")) is not None:
            number = before
        return number

    done = [t.number for t in trials.values() if t.state.name in ("COMPLETE", "PRUNED")]
    failed = {origin(t.number) for t in trials.values() if t.state.name == "FAIL"}
    points = Counter(map(origin, done))
    rows = Counter(row["trial"] for row in lines(out))
    client = mlflow.MlflowClient(uri)
    found = [run for each in client.search_experiments() for run in client.search_runs([each.experiment_id])]
    runs = Counter(int(n) for run in found if (n := run.data.tags.get("autotune.trial")) is not None)
    twice = [sum(n > 1 for n in each.values()) for each in (points, rows, runs)]
    return {
        "told": len(points),
        "lost": max(0, kind.trials - len(points)) + len(failed - points.keys()),
        "told_without_row": len(set(done) - rows.keys()),
        "lost_in_mlflow": len(rows.keys() - runs.keys()),
        "counted_twice": sum(twice),
    }


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = [kind.name for kind in KINDS]
    parser.add_argument("--only", choices=names, help="one of the searches")
    parser.add_argument("--write", action="store_true", help="keep the rows as the result")
    parser.add_argument("--drive", choices=names, help="be the driver")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args()
    if given.drive:
        kind = next(kind for kind in KINDS if kind.name == given.drive)
        sys.exit(drive(kind, given.out, given.resume))
    rows = []
    for kind in KINDS:
        if given.only in (None, kind.name):
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                rows.append({**disturbed(kind, Path(folder)), "load": round(os.getloadavg()[0], 1)})
            print(json.dumps(rows[-1]), flush=True)
    if given.write:
        found = {
            "device": f"{os.cpu_count()} CPU cores, {platform.machine()}",
            "command": f"python benchmarks/bench_faults.py {' '.join(sys.argv[1:])}".strip(),
            "rows": rows,
        }
        RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
