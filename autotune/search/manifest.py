"""The manifest: what a search depends on, written when it starts and compared when it goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic import Field

from autotune.search.experiment import Experiment
from xslim.errors import ConfigError
from xslim.policy.document import Document, describe

SCHEMA_VERSION = 1
# keys that may differ between a search and its resumption; what a model's folder holds is hashed instead
FREE_KEYS = (
    "executor",
    "tracking",
    "compare",
    "references",
    "model.path",
    "search.trials",
    "search.max_seconds",
    "search.max_worker_seconds",
    "search.max_images",
    "search.patience",
    "search.certify",
    "search.certify_rounds",
    "search.rectify",
    "search.levels",
    "search.storage",
)
# package -> leading parts of its version within which results compare
LIBRARIES = {"xslim-autotune": 2, "torch": 2, "diffusers": 2, "transformers": 1, "optuna": 1}
SHOWN = 3  # differences named in a message


class Manifest(Document):
    """Content of `manifest.json`.

    Attributes:
        experiment: its name.
        search: id of this search; a study in a shared storage carries it, too.
        sha256: hash of `settings`.
        settings: dotted key -> value: experiment, search space, hashes of model and metric networks.
        versions: package -> version; those that decide how results compare are compared.
    """

    schema_version: int = SCHEMA_VERSION
    experiment: str
    search: str = Field(default_factory=lambda: uuid4().hex)
    sha256: str
    settings: dict[str, Any]
    versions: dict[str, str]

    @classmethod
    def of(cls, experiment: Experiment, space: Mapping[str, Any]) -> Manifest:
        """Describe a search that starts now; reads the files of model and networks."""
        settings = _flat({**experiment.to_data(), **_hashes(experiment), "search_space": dict(space)})
        kept = {key: value for key, value in sorted(settings.items()) if not _free(key)}
        text = json.dumps(kept, sort_keys=True)
        return cls(
            experiment=experiment.name,
            sha256=sha256(text.encode()).hexdigest(),
            settings=json.loads(text),
            versions={name: _version(name) for name in LIBRARIES},
        )

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read a manifest.

        Raises:
            ConfigError: it is unreadable, or of another schema version.
        """
        try:
            data = json.loads(path.read_text())
            version = data.get("schema_version")
        except (OSError, ValueError, AttributeError):
            raise ConfigError("unreadable; choose another --out", source=str(path)) from None
        if version != SCHEMA_VERSION:
            newer = isinstance(version, int) and version > SCHEMA_VERSION
            advice = "resume with the version of autotune that wrote it" if newer else "choose another --out"
            raise ConfigError(
                f"got {version!r}, allowed is {SCHEMA_VERSION}; {advice}",
                key="schema_version",
                source=str(path),
            )
        return cls.parse(data, source=str(path))

    def differences(self, now: Manifest) -> list[str]:
        """Say what is no longer as it was: key, value then, value now; empty where results compare."""
        found = []
        for key in sorted(self.settings.keys() | now.settings.keys()):
            then, value = (m.settings.get(key) for m in (self, now))
            if then != value:
                found.append(f"{key} was {_shown(then)}, now {_shown(value)}")
        for name, parts in LIBRARIES.items():
            then, value = (m.versions.get(name, "none") for m in (self, now))
            if then.split(".")[:parts] != value.split(".")[:parts]:
                found.append(f"version of {name} was {then}, now {value}")
        return found

    def check(self, now: Manifest, source: str) -> None:
        """Refuse to go on with other settings.

        Raises:
            ConfigError: says what differs.
        """
        found = self.differences(now)
        if found:
            more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            raise ConfigError(
                f"--resume: holds another experiment's search: {'; '.join(found[:SHOWN])}{more}; "
                "give the settings it was started with, or choose another --out",
                source=source,
            )


def _hashes(experiment: Experiment) -> dict[str, str]:
    from autotune.scoring.fingerprint import folder_sha256, model_sha256

    model = experiment.model
    found = {"model_sha256": model_sha256(model.path, model.revision)}
    for folder in experiment.metrics.spec().folders():
        found[f"nets_sha256.{Path(folder).name}"] = folder_sha256(Path(folder))
    return found


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE_KEYS)


def _shown(value: object) -> str:
    return "not given" if value is None else describe(value)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"
