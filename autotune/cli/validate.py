"""`autotune validate`: check any YAML of ours, or write the JSON Schemas. Imports no torch, ray or mlflow."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.common import say
from autotune.compare.recipe import Recipe
from autotune.search.experiment import Experiment
from autotune.search.space import SearchSpace
from xslim.errors import ConfigError
from xslim.policy.document import Document, read_yaml, suggest
from xslim.policy.policy import Policy
from xslim.policy.preset import Preset, parse_preset

SCHEMAS: dict[str, type[Document]] = {
    "policy": Policy,
    "preset": Preset,
    "experiment": Experiment,
    "search-space": SearchSpace,
    "recipe": Recipe,
}
# keys that tell what a document is, in the order they are tried
SIGNS: tuple[tuple[str, str], ...] = (
    ("search_space", "experiment"),
    ("method", "recipe"),
    ("families", "search-space"),
    ("params", "search-space"),
    ("policy", "preset"),
    ("controller", "policy"),
)
INPUT_FAULT = 2


def validate(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="presets, policies, experiments, search spaces; with --schema the folder to write to"
        ),
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="write the JSON Schemas [default folder: schemas]")
    ] = False,
) -> int:
    """Check files; every file gets a line, and the status is 2 when one is at fault."""
    if schema:
        if files is not None and len(files) > 1:
            raise ConfigError(f"got {len(files)} folders; give one", key="--schema")
        write_schemas(files[0] if files else Path("schemas"))
        return 0
    if not files:
        raise ConfigError("give a file to check, or --schema")
    status = 0
    for path in files:
        try:
            kind = check(path)
        except ConfigError as error:
            say(f"autotune: {error}")
            status = INPUT_FAULT
        else:
            typer.echo(f"{path}: valid {kind}")
    return status


def check(path: Path) -> str:
    """Read a file as what its keys say it is; return which kind.

    Raises:
        ConfigError: it is at fault.
    """
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise ConfigError("allowed is a mapping of keys", source=str(path))
    kind = next((kind for sign, kind in SIGNS if sign in data), None)
    if kind is None:
        first = next(iter(data), "")
        known = {sign for sign, _ in SIGNS}
        raise ConfigError(
            f"neither preset, policy, experiment, search space nor recipe; {suggest(str(first), known)}",
            source=str(path),
        )
    readers: dict[str, Callable[[object, str], Document]] = {"preset": parse_preset}
    document = readers.get(kind, SCHEMAS[kind].parse)(data, str(path))
    if isinstance(document, Recipe):
        document.named(path)
    if isinstance(document, Experiment):
        document.space(path)
        document.with_prompts(path)
    return kind


def write_schemas(folder: Path) -> None:
    """Write one JSON Schema a kind, for editors.

    Raises:
        ConfigError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, model in SCHEMAS.items():
            path = folder / f"{name}.schema.json"
            path.write_text(json.dumps(model.model_json_schema(mode="validation"), indent=2) + "\n")
            typer.echo(str(path))
    except OSError as error:
        raise ConfigError(
            f"cannot write: {error.strerror}; choose another folder", source=str(folder)
        ) from None
