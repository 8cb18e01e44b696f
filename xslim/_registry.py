"""A read-only table of plug-ins with a helpful miss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from xslim.errors import XSlimError
from xslim.policy.document import suggest

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """Plug-ins by exact name."""

    def __init__(self, what: str, items: Mapping[str, T], error: type[XSlimError]) -> None:
        self._what = what
        self._items = dict(items)
        self._error = error

    def __getitem__(self, name: str) -> T:
        if name not in self._items:
            raise self._error(f"unknown {self._what} {name!r}; {suggest(name, self._items)}")
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)
