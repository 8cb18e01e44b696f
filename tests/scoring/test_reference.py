"""Reference outputs: drawn once, kept bit for bit, found by what they depend on, never trusted blindly."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from autotune.scoring import fingerprint
from autotune.scoring.case import Case
from autotune.scoring.drawn import Drawn
from autotune.scoring.entry import Entry, read_entry, write_entry
from autotune.scoring.fingerprint import model_folder, model_sha256
from autotune.scoring.locking import file_lock
from autotune.scoring.pipeline import PipelineRunner
from autotune.scoring.reference import ReferenceStore, stored
from tests.scoring.conftest import MODEL, ROOT, SPEC
from xslim.errors import ConfigError

CASES = (Case(3, 11), Case(7, 12), Case(1, 13))


class CountedRunner(PipelineRunner):
    """Counts what is drawn."""

    def __init__(self, runner: PipelineRunner) -> None:
        self.__dict__.update(runner.__dict__)
        self.drawn = 0
        self.delay_s = 0.0

    def draw(self, cases: Sequence[Case]) -> Drawn:
        self.drawn += 1
        time.sleep(self.delay_s)
        return super().draw(cases)


@pytest.fixture
def counted(runner: PipelineRunner) -> CountedRunner:
    return CountedRunner(runner)


def same(one: Drawn, other: Drawn) -> bool:
    return torch.equal(one.images, other.images) and torch.equal(one.latents, other.latents)


def test_a_reference_is_drawn_once_and_kept_bit_for_bit(counted: CountedRunner, tmp_path: Path) -> None:
    store = ReferenceStore(tmp_path, counted)
    first = store.outputs(CASES[:2])
    assert same(store.outputs(CASES[:2]), first)
    assert same(ReferenceStore(tmp_path, counted).outputs(CASES[:2]), first)
    assert counted.drawn == 1
    assert same(counted.draw(CASES[:2]), first)
    assert (first.images.dtype, first.latents.dtype) == (torch.float32, torch.float32)
    (path,) = tmp_path.iterdir()
    assert stored(tmp_path) == (1, path.stat().st_size)
    values = first.images.numel() + first.latents.numel()
    assert 4 * values <= path.stat().st_size < 4 * values + 4096


def test_what_a_killed_writer_left_is_removed(counted: CountedRunner, tmp_path: Path) -> None:
    store = ReferenceStore(tmp_path, counted)
    of = [store.key([case])[:32] for case in CASES[:2]]
    for prefix in of:
        (tmp_path / f".{prefix}.abc.part").write_bytes(b"half an entry")
    store.outputs(CASES[:1])
    assert {path.name for path in tmp_path.glob(".*")} == {f".{of[1]}.abc.part"}


def test_clips_are_kept_too(counted: CountedRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = Drawn(torch.rand(1, 5, 3, 8, 8), torch.randn(1, 4, 2, 2, 2))
    monkeypatch.setattr(CountedRunner, "draw", lambda *_: clip)
    store = ReferenceStore(tmp_path, counted)
    store.outputs(CASES[:1])
    monkeypatch.undo()
    assert same(store.outputs(CASES[:1]), clip)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda raw: raw[: len(raw) // 2],
    "flipped": lambda raw: raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:],
    "empty": lambda raw: b"",
    "text": lambda raw: b"no entry",
    "zeros": lambda raw: bytes(len(raw)),
    "longer": lambda raw: raw + b"x",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_drawn_again_with_one_warning(
    damage: str, counted: CountedRunner, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = ReferenceStore(tmp_path, counted)
    first = [store.outputs([case]) for case in CASES[:2]]
    for path in tmp_path.iterdir():
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert all(same(store.outputs([case]), one) for case, one in zip(CASES, first, strict=False))
    assert counted.drawn == 4
    assert len(caplog.records) == 1
    assert "damaged" in caplog.text
    store.outputs(CASES[:1])
    assert counted.drawn == 4, "the entry is whole again"


def test_an_entry_of_other_cases_is_not_trusted(
    counted: CountedRunner, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = ReferenceStore(tmp_path, counted)
    one, other = store.outputs(CASES[:1]), store.outputs(CASES[1:2])
    paths = [tmp_path / f"{store.key([case])}.safetensors" for case in CASES[:2]]
    shutil.copy(paths[1], paths[0])
    assert same(store.outputs(CASES[:1]), one)
    assert not same(one, other)
    assert "entry of another key" in caplog.text


def test_an_entry_whose_facts_were_altered_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "entry"
    write_entry(path, "key", Entry({"a": torch.arange(3.0)}, {"fact": 1}))
    assert read_entry(path, "key") is not None
    path.write_bytes(path.read_bytes().replace(b'fact\\": 1', b'fact\\": 2'))
    with pytest.raises(Exception, match="checksum"):
        read_entry(path, "key")


def test_the_key_is_of_all_that_changes_a_picture(
    runner: PipelineRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(cases: tuple[Case, ...] = CASES, **changes: object) -> str:
        other = CountedRunner(runner)
        other.spec = replace(SPEC, **changes)  # type: ignore[arg-type]
        return ReferenceStore(tmp_path, other).key(cases)

    keys = [
        key(),
        key(CASES[:2]),  # another batch size
        key(CASES[::-1]),
        key((*CASES[:2], Case(1, 14))),
        key((*CASES[:2], Case("1", 13))),
        key(num_steps=7),
        key(guidance_scale=2.0),
        key(dtype="bfloat16"),
        key(height=16),
        key(num_frames=5),
        key(arguments={"negative_prompt": "blurred"}),
    ]
    scheduler = runner.pipe.scheduler
    runner.pipe.scheduler = type(scheduler).from_config({**scheduler.config, "beta_end": 0.03})
    keys.append(key())
    runner.pipe.scheduler = scheduler
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 7)  # sums of more threads round otherwise
        keys.append(key())
    with monkeypatch.context() as patch:
        patch.setattr(
            "autotune.scoring.reference.code_versions", lambda: {**fingerprint.code_versions(), "torch": "0"}
        )
        keys.append(key())
    assert len(set(keys)) == len(keys)
    # where the model lies, and how many pictures a batch could have, change nothing
    assert key(batch=5) == key(device="auto") == keys[0]


def test_a_model_is_its_files_wherever_they_lie(runner: PipelineRunner, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    known = model_sha256(MODEL)
    assert model_sha256(str(folder)) == known
    (folder / "README.md").write_text("anything")
    assert model_sha256(str(folder)) == known
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    raw = weights.read_bytes()
    weights.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    assert model_sha256(str(folder)) != known, "one bit at the end of the weights"
    weights.write_bytes(raw)
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "beta_end": 0.03}))
    assert model_sha256(str(folder)) != known
    # a hub id is the snapshot that its components were loaded from
    assert model_folder("someone/model", runner.pipe) == Path(MODEL)
    assert model_sha256("someone/model", "main", runner.pipe) == known
    ids = {model_sha256("a/b"), model_sha256("a/c"), model_sha256("a/b", "main")}
    assert len(ids) == 3


def test_large_files_of_the_hubs_cache_are_known_by_their_names(tmp_path: Path) -> None:
    """As huggingface_hub lays them: snapshots/<commit>/<file> links to blobs/<sha256 of the file>."""
    plain, snapshot = tmp_path / "plain", tmp_path / "snapshots" / "c0ffee"
    for folder in (plain, snapshot):
        (folder / "vae").mkdir(parents=True)
        (folder / "model_index.json").write_text("{}")
    (plain / "vae" / "model.safetensors").write_bytes(b"weights")
    blob = tmp_path / "blobs" / fingerprint.sha256(b"weights").hexdigest()
    blob.parent.mkdir()
    blob.write_bytes(b"weights")
    (snapshot / "vae" / "model.safetensors").symlink_to(blob)
    assert model_sha256(str(snapshot)) == model_sha256(str(plain))


def test_workers_that_miss_the_same_draw_it_once(runner: PipelineRunner, tmp_path: Path) -> None:
    workers = [CountedRunner(runner) for _ in range(3)]
    found: list[Drawn] = []
    barrier = threading.Barrier(len(workers))

    def work(worker: CountedRunner) -> None:
        worker.delay_s = 0.3
        store = ReferenceStore(tmp_path, worker)
        barrier.wait()
        found.append(store.outputs(CASES[:1]))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(worker.drawn for worker in workers) == 1
    assert all(same(one, found[0]) for one in found)
    assert len(found) == len(workers)
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"], "no lock is left"


HOLDER = """
import sys, time
from pathlib import Path
from autotune.scoring.locking import file_lock
with file_lock(Path(sys.argv[1]), 5) as held:
    print(held, flush=True)
    time.sleep(60)
"""


def test_a_lock_waits_for_its_owner_but_not_for_a_dead_one(
    counted: CountedRunner, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = ReferenceStore(tmp_path, counted, lock_timeout_s=0.2)
    lock = tmp_path / f"{store.key(CASES[:1])}.lock"
    owner = subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], cwd=ROOT, stdout=subprocess.PIPE)
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"True\n"
    with file_lock(lock, 0.2) as held:
        assert not held
    store.outputs(CASES[:1])  # the owner is too slow: drawn here
    assert counted.drawn == 1
    assert "waited" in caplog.text
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    assert lock.exists()
    with file_lock(lock, 5.0) as held:
        assert held, "a dead owner holds nothing"
    assert not lock.exists()


def test_a_folder_that_cannot_be_written_stops_nothing(
    counted: CountedRunner, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    store = ReferenceStore(tmp_path / "file" / "folder", counted)
    assert same(store.outputs(CASES[:1]), counted.draw(CASES[:1]))
    store.outputs(CASES[1:2])
    assert {record.getMessage().split(": ")[1].split(" (")[0] for record in caplog.records} == {
        "cannot lock",
        "cannot write",
    }
    assert len(caplog.records) == 2


def test_a_model_that_draws_no_numbers_is_refused(
    counted: CountedRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Drawn(torch.full((1, 1, 4, 4), torch.nan), torch.zeros(1, 1, 2, 2))
    monkeypatch.setattr(CountedRunner, "draw", lambda *_: broken)
    with pytest.raises(ConfigError, match=r"model\.dtype: the uncached model draws values .* not finite"):
        ReferenceStore(tmp_path, counted).outputs(CASES[:1])
    assert stored(tmp_path) == (0, 0)
