"""Which errors of a device leave a worker usable. Looks torch up where it is loaded; never loads it."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Iterator

# what PyTorch's, cuBLAS's, cuDNN's and NCCL's messages begin with when the device is at fault
BROKEN = re.compile(
    r"\b(CUDA|HIP|cuDNN|NCCL|CUDA driver) error\b|\b(CUBLAS|CUDNN|CUFFT|CUSOLVER|CUSPARSE)_STATUS_"
    r"|device-side assert|illegal memory access"
)


def out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch's allocator refused: nothing was launched, and the process can go on."""
    return not broken_device(error) and any(_is(each, "OutOfMemoryError") for each in _chain(error))


def broken_device(error: BaseException) -> bool:
    """Whether the process's device context may be gone: every later call in it fails, so it has to end."""
    return any(_breaks(each) for each in _chain(error))


def free_memory() -> None:
    """Give cached device memory back; call it outside the `except` block, whose traceback keeps tensors."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _breaks(error: BaseException) -> bool:
    if _is(error, "AcceleratorError"):
        return True
    plain = isinstance(error, RuntimeError) and not _is(error, "OutOfMemoryError")
    return plain and BROKEN.search(str(error)) is not None


def _is(error: BaseException, name: str) -> bool:
    """Whether it is of one of torch's classes, by name: what never loaded torch raises none of them."""
    kind = getattr(sys.modules.get("torch"), name, None)
    return isinstance(kind, type) and isinstance(error, kind)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
