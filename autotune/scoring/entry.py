"""Entries on disk: named tensors and facts under a key, written whole or not at all, checked when read."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

PART = ".part"  # of a file that is being written


class DamagedEntryError(Exception):
    """A file is there, but it is not the entry that was written under this key."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is kept under a key.

    Attributes:
        tensors: on the CPU; their bits are kept.
        facts: plain JSON values.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def write_entry(path: Path, key: str, entry: Entry) -> None:
    """Write an entry as safetensors; readers see the old file or the new one.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = json.dumps(entry.facts, sort_keys=True)
    tensors = {name: tensor.contiguous() for name, tensor in entry.tensors.items()}
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=_part_prefix(path), suffix=PART)
    os.close(handle)
    try:
        checksum = _checksum(key, facts, tensors)
        save_file(tensors, part, metadata={"key": key, "facts": facts, "sha256": checksum})
        os.chmod(part, 0o644)  # mkstemp's 0600 would hide it from other users of a shared folder
        os.replace(part, path)
    except BaseException as error:
        Path(part).unlink(missing_ok=True)
        if isinstance(error, SafetensorError):  # what it makes of a full disk
            raise OSError(str(error)) from error
        raise


def remove_parts(path: Path) -> None:
    """Remove what writers of an entry left when they were killed; for whoever alone may write it now."""
    for part in path.parent.glob(f"{_part_prefix(path)}*{PART}"):
        part.unlink(missing_ok=True)


def _part_prefix(path: Path) -> str:
    return f".{path.stem[:32]}."


def read_entry(path: Path, key: str) -> Entry | None:
    """Read what was written under a key; None when there is no file.

    Raises:
        DamagedEntryError: the file is cut, altered, of another key, or no entry at all.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys()  # the file itself is no iterable
            tensors = {name: file.get_tensor(name) for name in names}
        facts = metadata["facts"]
        if metadata["key"] != key:
            raise DamagedEntryError("it is the entry of another key")
        if metadata["sha256"] != _checksum(key, facts, tensors):
            raise DamagedEntryError("its checksum does not match")
        return Entry(tensors, json.loads(facts))
    except FileNotFoundError:
        return None
    except KeyError as error:
        raise DamagedEntryError(f"it has no {error}") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise DamagedEntryError(str(error).split("\n")[0][:200]) from None


def _checksum(key: str, facts: str, tensors: Mapping[str, Tensor]) -> str:
    digest = sha256(f"{key}\n{facts}\n".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        raw: Any = tensor.numpy().reshape(-1)
        digest.update(raw)
    return digest.hexdigest()
