"""Weights from a local file with a checksum: nothing is downloaded, nothing unknown is run."""

from __future__ import annotations

import re
from hashlib import file_digest
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

from xslim.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

CHECKSUM = r"^[0-9a-f]{8,64}$"


def check_weights(path: str, sha256: str | None, key: str) -> None:
    """Refuse a file that is not the one that was meant.

    Args:
        path: the file.
        sha256: its checksum, or the first digits of it (at least 8, as published names carry).
        key: of the experiment, for the error.

    Raises:
        ConfigError: the file is missing, or its checksum is another one.
    """
    if not Path(path).is_file():
        raise ConfigError(
            f"got {path!r}, which is no file; give the weights' local path", key=f"{key}.weights"
        )
    if sha256 is None or re.match(CHECKSUM, sha256) is None:
        raise ConfigError(
            f"got {sha256!r}; give the SHA-256 of the weights, 8 to 64 hexadecimal digits of it",
            key=f"{key}.sha256",
        )
    with Path(path).open("rb") as file:
        found = file_digest(file, "sha256").hexdigest()
    if not found.startswith(sha256):
        raise ConfigError(
            f"got {sha256}, but {path} has {found}; give the right file, or its checksum if you trust it",
            key=f"{key}.sha256",
        )


def read_weights(path: str, key: str) -> dict[str, Tensor]:
    """Read a state dictionary, `.safetensors` or PyTorch's format (tensors only, no code is run).

    Raises:
        ConfigError: the file is no state dictionary.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.endswith(".safetensors"):
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise ConfigError(
            f"got {path!r}, cannot read it: no file of tensors alone; save a state dictionary",
            key=f"{key}.weights",
        ) from None
    except (OSError, ValueError, RuntimeError, EOFError, KeyError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise ConfigError(f"got {path!r}, cannot read it: {reason}", key=f"{key}.weights") from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ConfigError(f"got {path!r}, which is no state dictionary", key=f"{key}.weights")
    return state


def fill(module: nn.Module, state: dict[str, Tensor], path: str, key: str) -> None:
    """Load a state dictionary into a module that uses all or some of it; counters of batches may lack.

    Raises:
        ConfigError: a tensor that the module needs is missing, or has another shape.
    """
    needed = module.state_dict()
    for name, tensor in needed.items():
        if name.endswith("num_batches_tracked"):
            continue
        found = state.get(name)
        if found is None or found.shape != tensor.shape:
            shape = "none" if found is None else list(found.shape)
            raise ConfigError(
                f"got {path!r}, where {name} has shape {shape}, need {list(tensor.shape)}; "
                "these are the weights of another network",
                key=f"{key}.weights",
            )
    module.load_state_dict({name: state.get(name, tensor).float() for name, tensor in needed.items()})
    module.eval().requires_grad_(False)
