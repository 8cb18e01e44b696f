"""How a search scales: trials a second over ideal, the driver's time and memory a trial.

Workers are real Ray actors, whose measurements sleep; all else is what any search has: driver, study, spool
and MLflow.

    python benchmarks/bench_search_scaling.py [--seconds 20] [--rounds 3] [--workers 1 4 64] [--trials 2000]

Prints one JSON line a row; `--write` puts the rows into `results/search_scaling.json`, in place of those of
the same part, workers and nodes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from simulated import EXPERIMENT, SimulatedFactory, Watched, descendants, memory_mb, search

from autotune.search.executor import LocalExecutor
from autotune.search.process_state import environment
from autotune.search.ray_executor import RayExecutor
from autotune.search.store import RESULTS

RESULT = Path(__file__).resolve().parent / "results" / "search_scaling.json"
MARKS = (100, 250, 500, 1000, 1500, 2000)  # trials at which the driver is looked at
MOST = 100_000  # trials, which no search here reaches
KEY = ("part", "nodes", "workers", "at")
WINDOW = 50  # measured trials before a mark, over which the mean time of an ask and a tell is taken


def scaling(workers: int, seconds: float, rounds: int, address: str | None = None) -> dict[str, Any]:
    """Search with so many workers for `rounds` trials' time; return one row.

    Looks at the time from the first trial's begin on, without the end, where workers have nothing left to
    do; a trial that goes on then counts by the part that lies before.
    """
    executor = Watched(RayExecutor(workers, address, threads_per_worker=1), workers)
    sizes: list[float] = []

    def look() -> None:
        if not sizes and len(executor.results) >= workers:
            pids = descendants(os.getpid(), "ray::Worker")
            sizes.extend(memory_mb(pid, private=True) for pid in pids)

    executor.tick = look
    length = rounds * seconds
    with tempfile.TemporaryDirectory() as folder:
        settings = {"warm_starts": 0, "neighbours": 0.0, "max_seconds": length + seconds / 2}
        search(Path(folder), MOST, executor, SimulatedFactory(seconds), **settings)
    began = min(start for start, _, _ in executor.results)
    inside = sum(max(0.0, min(end, began + length) - start) for start, end, _ in executor.results)
    return {
        "part": "scaling",
        "nodes": 1 if address is None else int(os.environ.get("NODES", "1")),
        "workers": workers,
        "trial_s": seconds,
        "trials": round(inside / seconds, 1),
        "trials_per_s": round(inside / seconds / length, 4),
        "over_ideal": round(inside / length / workers, 4),
        "worker_mb": round(sum(sizes) / len(sizes), 1) if sizes else None,
    }


@contextlib.contextmanager
def nodes(count: int, workers: int) -> Iterator[str]:
    """A Ray cluster of so many nodes on this machine, with room for the workers; gives its address."""
    from ray.cluster_utils import Cluster  # noqa: TID251  (nodes for the benchmark)

    store = 80 * 2**20
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "NODES": str(count)}
    with tempfile.TemporaryDirectory(prefix="xs", dir="/tmp", ignore_cleanup_errors=True) as folder:
        Path(folder, "ray").mkdir()
        with environment({**settings, "RAY_TMPDIR": folder}):
            head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": store}
            cluster = Cluster(initialize_head=True, head_node_args=head)
            for _ in range(count):
                cluster.add_node(num_cpus=-(-workers // count), object_store_memory=store)
            try:
                yield cluster.address
            finally:
                cluster.shutdown()


def driver(trials: int, keep: Callable[[dict[str, Any]], None]) -> None:
    """Measure so many trials that take no time; keep rows of the driver's time and memory a trial."""
    executor = Watched(LocalExecutor(), 1)
    # after each trial: the driver's own seconds, those of its processor, its memory, and trials told
    moments: list[tuple[float, float, float, int]] = []

    def look() -> None:
        if len(executor.results) == len(moments):
            return
        cpu = time.thread_time() - executor.waited_cpu_s
        near = any(len(moments) + 1 in (mark - WINDOW, mark) for mark in MARKS)
        told = sum(1 for _ in results.open("rb")) if near else 0
        moments.append((time.perf_counter() - executor.waited_s, cpu, memory_mb(), told))
        if len(moments) not in MARKS:
            return
        before, after = moments[-1 - WINDOW], moments[-1]
        asked = after[3] - before[3]  # repeated points are asked and told, too, and draw nothing
        keep(
            {
                "part": "driver",
                "at": len(moments),
                "told": after[3],
                "ask_tell_ms": round(1000 * (after[0] - before[0]) / asked, 1),
                "ask_tell_cpu_ms": round(1000 * (after[1] - before[1]) / asked, 1),
                "memory_mb": round(after[2], 1),
            }
        )

    executor.tick = look
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / RESULTS
        settings = {"warm_starts": 0, "neighbours": 0.0, "max_images": trials * EXPERIMENT["cases"]["search"]}
        search(Path(folder), MOST, executor, SimulatedFactory(0.0), **settings)


def main() -> None:
    """Run all parts, or those asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="that a trial takes")
    parser.add_argument("--rounds", type=int, default=3, help="trials for each worker")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 4, 16, 64])
    parser.add_argument("--nodes", type=int, default=4, help="of the cluster; 0 leaves it out")
    parser.add_argument("--cluster-workers", type=int, default=16)
    parser.add_argument("--trials", type=int, default=2000, help="of the driver's part; 0 leaves it out")
    parser.add_argument("--write", action="store_true", help="keep the rows as the result")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []

    command = f"python benchmarks/bench_search_scaling.py {' '.join(sys.argv[1:])}".strip()

    def keep(row: dict[str, Any]) -> None:
        rows.append({**row, "load": round(os.getloadavg()[0], 1), "command": command})
        print(json.dumps(rows[-1]), flush=True)

    for count in given.workers:
        keep(scaling(count, given.seconds, given.rounds))
    if given.nodes:
        with nodes(given.nodes, given.cluster_workers) as address:
            keep(scaling(given.cluster_workers, given.seconds, given.rounds, address))
    if given.trials:
        driver(given.trials, keep)
    if given.write:
        write(rows)


def write(rows: list[dict[str, Any]]) -> None:
    """Put rows into the result, in place of those of the same part, workers, nodes and trials."""
    kept = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    by_key = {tuple(row.get(name) for name in KEY): row for row in [*kept, *rows]}
    ordered = sorted(by_key, key=lambda key: [str(key[0]) == "driver", *(part or 0 for part in key[1:])])
    found = {
        "device": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "rows": [by_key[key] for key in ordered],
    }
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
