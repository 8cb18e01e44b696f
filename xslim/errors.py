"""The error tree of xslim.

XSlimError
├── ConfigError (ValueError)      a file or a value of ours is at fault
│   └── PresetVersionError        a preset written by a newer schema than this version reads
├── UnsupportedModelError         no adapter knows the model
├── AttachError                   attaching is not possible in this state
└── RequestMismatchError          `strict=True`, and a preset does not fit the request
"""

from __future__ import annotations

MAX_LINE = 1_000  # characters; a long path and a long key fit


class XSlimError(Exception):
    """Root of every error of ours."""


class ConfigError(XSlimError, ValueError):
    """A value from a file or a caller is at fault; prints as one line.

    Attributes:
        key: dotted path of the value, "" for the whole document.
        problem: what was got and what is allowed.
        source: file the value came from, or None.
    """

    def __init__(self, problem: str, *, key: str = "", source: str | None = None) -> None:
        self.key = key
        self.problem = problem
        self.source = source
        super().__init__(problem)

    def __str__(self) -> str:
        line = ": ".join(part for part in (self.source, self.key, self.problem) if part)
        # keys and values come from files: nothing in them may break the line or reach the terminal
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
        return line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 1]}…"

    def at(self, *, key: str | None = None, source: str | None = None) -> ConfigError:
        """Return the same error with another key or source."""
        return type(self)(
            self.problem,
            key=self.key if key is None else key,
            source=self.source if source is None else source,
        )


class PresetVersionError(ConfigError):
    """A preset's schema version is not one that this version reads."""


class UnsupportedModelError(XSlimError):
    """No adapter knows the model's class."""


class AttachError(XSlimError):
    """The model cannot be attached to in its present state."""


class RequestMismatchError(XSlimError):
    """With `strict=True`: the request is not one that the preset was made for."""
