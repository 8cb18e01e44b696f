"""What a picture depends on besides its request: the model's files, this code, the libraries, the device."""

from __future__ import annotations

from collections.abc import Set
from functools import cache
from hashlib import file_digest, sha256
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import autotune.scoring.pipeline
import xslim
from autotune.scoring.environment import device_name

LIBRARIES = ("torch", "diffusers", "transformers")
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".md")  # of a model card


def model_folder(path: str, pipe: Any = None) -> Path | None:
    """Return the folder that a pipeline was loaded from: a hub id's snapshot, found from its components."""
    if Path(path).is_dir():
        return Path(path)
    for part in getattr(pipe, "components", {}).values():
        loaded = getattr(getattr(part, "config", None), "_name_or_path", None)
        if isinstance(loaded, str) and (Path(loaded).parent / "model_index.json").is_file():
            return Path(loaded).parent
    return None


def model_sha256(path: str, revision: str | None = None, pipe: Any = None) -> str:
    """Hash the configs, weights and vocabularies of a pipeline's folder; two copies hash the same.

    Args:
        path: the folder, or a hub id.
        revision: of the hub id.
        pipe: the loaded pipeline, which knows a hub id's folder; without it the id stands for itself.
    """
    folder = model_folder(path, pipe)
    if folder is None:
        return sha256(f"{path}@{revision}".encode()).hexdigest()
    cards = {file for file in folder.iterdir() if file.is_file() and file.name != "model_index.json"}
    return folder_sha256(folder, cards)


def folder_sha256(folder: Path, without: Set[Path] = frozenset()) -> str:
    """Hash the files of a folder, but for hidden ones and pictures; two copies hash the same."""
    digest = sha256()
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if not hidden and file not in without and file.suffix not in PICTURES and file.is_file():
            digest.update(f"{name.as_posix()} {_file_sha256(file)}\n".encode())
    return digest.hexdigest()


def _file_sha256(file: Path) -> str:
    """Hash a file; the hub's cache has named large ones by their hash."""
    blob = file.resolve().name
    if file.is_symlink() and len(blob) == 64 and set(blob) <= set("0123456789abcdef"):
        return blob
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


@cache
def code_versions() -> dict[str, str]:
    """Versions of what draws: the libraries, ours, and a hash of the modules that call the pipeline."""
    digest = sha256()
    for file in sorted(Path(autotune.scoring.pipeline.__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    found = {"xslim": xslim.__version__, "pipeline": digest.hexdigest()}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            found[library] = "none"
    return found


@cache
def code_sha256() -> str:
    """Hash all code that a measurement runs: the runtime's and the scoring's."""
    digest = sha256()
    for package in (xslim, autotune.scoring):
        root = Path(str(package.__file__)).parent
        for file in sorted(root.rglob("*.py")):
            digest.update(f"{file.relative_to(root).as_posix()}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def numerics(device: torch.device) -> dict[str, str]:
    """What decides how kernels round: the device, its settings and, on a CPU, the number of threads."""
    found = {"device": device_name(device), "matmul": torch.get_float32_matmul_precision()}
    if device.type == "cuda":
        found["cuda"] = str(torch.version.cuda)
        found["cudnn_tf32"] = str(torch.backends.cudnn.allow_tf32)
    else:
        found["threads"] = str(torch.get_num_threads())
    return found
