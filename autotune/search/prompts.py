"""Prompts from a local file: one a line, or the column of a table, as public prompt sets come."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from xslim.errors import ConfigError
from xslim.policy.document import describe

MAX_BYTES = 64 * 2**20
COLUMNS = ("prompt", "prompts", "caption", "captions", "prompt_en")  # upper and lower case alike
TABLES = {".csv": ",", ".tsv": "\t"}


def read_prompts(path: Path) -> tuple[str, ...]:
    """Read prompts in the order of the file.

    A `.csv` or `.tsv` has a head line with one of the `COLUMNS`; a `.jsonl` has an object with that key
    on every line; any other file has one prompt a line, and lines that start with `#` are remarks.

    Raises:
        ConfigError: the file cannot be read, has no such column, or a prompt is empty or there twice.
    """
    source = str(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"larger than {MAX_BYTES // 2**20} MiB; keep the lines you need", source=source)
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(
            f"cannot read: {str(error.strerror).lower()}; check the path", source=source
        ) from None
    except UnicodeDecodeError:
        raise ConfigError("not UTF-8 text", source=source) from None
    try:
        return _checked(_rows(text, path.suffix.lower()))
    except ConfigError as error:
        raise error.at(source=source) from None


def _checked(rows: Iterator[tuple[int, str]]) -> tuple[str, ...]:
    lines: dict[str, int] = {}
    for line, raw in rows:
        prompt = raw.strip()
        if not prompt:
            raise ConfigError(f"line {line}: empty; write a prompt or remove the line")
        if prompt in lines:
            raise ConfigError(
                f"line {line}: got the prompt of line {lines[prompt]} again, {describe(prompt)}; remove one"
            )
        lines[prompt] = line
    if not lines:
        raise ConfigError("holds no prompt; write one a line")
    return tuple(lines)


def _lines(text: str) -> list[str]:
    """Cut at line ends alone; other separators of Unicode are part of a prompt."""
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []


def _rows(text: str, suffix: str) -> Iterator[tuple[int, str]]:
    if suffix in TABLES:
        yield from _table(text, TABLES[suffix])
    elif suffix == ".jsonl":
        yield from _objects(text)
    else:
        for line, content in enumerate(_lines(text), 1):
            if not content.startswith("#"):
                yield line, content


def _table(text: str, delimiter: str) -> Iterator[tuple[int, str]]:
    lines = io.StringIO(text, newline="")
    if delimiter == "\t":  # quotes are part of the text there, as PartiPrompts comes
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines, delimiter=delimiter)
    try:
        head = next(reader, [])
        column = head.index(_column(head))
        for row in reader:
            yield reader.line_num, row[column] if column < len(row) else ""
    except csv.Error as error:
        raise ConfigError(f"line {reader.line_num}: no table: {error}") from None


def _objects(text: str) -> Iterator[tuple[int, str]]:
    for line, content in enumerate(_lines(text), 1):
        try:
            entry = json.loads(content)
        except (ValueError, RecursionError):
            raise ConfigError(f"line {line}: got {describe(content)}; allowed is a JSON object") from None
        if not isinstance(entry, dict):
            raise ConfigError(f"line {line}: got {describe(content)}; allowed is a JSON object")
        value = entry[_column(list(entry), line)]
        if not isinstance(value, str):
            raise ConfigError(f"line {line}: got {describe(value)}; allowed is a text")
        yield line, value


def _column(names: list[str], line: int = 1) -> str:
    for wanted in COLUMNS:
        for name in names:
            if name.strip().lower() == wanted:
                return name
    raise ConfigError(f"line {line}: got {describe(names)}; one must be called {', '.join(COLUMNS[:3])}")
