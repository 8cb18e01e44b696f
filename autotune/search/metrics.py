"""The `metrics` section of an experiment: networks and reference data. Imports no numerics."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from autotune.scoring.nets.spec import DIGITS, MetricsSpec, NetSpec
from autotune.scoring.nets.weights import CHECKSUM
from autotune.search.objective import METRIC_OF
from xslim.errors import ConfigError
from xslim.policy.document import Document

Text = Annotated[str, Field(min_length=1)]
Checksum = Annotated[str, Field(pattern=CHECKSUM)]
# metric -> the key that gives its network, and what to write there
GIVE = {
    "lpips": ("lpips", "metrics.net, or metrics.lpips: {net: alex, weights: PATH, sha256: HEX}"),
    "fid": ("fid", "metrics.net, or metrics.fid: {net: inception, weights: PATH, sha256: HEX}"),
    "cmmd": ("cmmd", "metrics.cmmd: {net: clip, model: DIR}"),
    "clip_score": ("clip_score", "metrics.clip_score: {model: DIR}"),
    "image_reward": ("image_reward", "metrics.image_reward: {model: DIR}"),
}
GIVE["lpips_temporal"], GIVE["kid"] = GIVE["lpips"], GIVE["fid"]


class _Weights(Document):
    """A network from a file of weights; digits is that of `metrics.net` and takes none."""

    net: str
    weights: Text | None = None
    sha256: Checksum | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("weights", "sha256"):
            given = getattr(self, name) is not None
            if given and self.net in (DIGITS, "clip"):
                raise ConfigError(f"{self.net} takes none; leave it out", key=name)
            if not given and self.net not in (DIGITS, "clip"):
                raise ConfigError(f"missing; net {self.net!r} needs weights and sha256", key=name)
        return self


class LpipsChoice(_Weights):
    """The network of LPIPS."""

    net: Literal["digits", "alex", "vgg"]


class FidChoice(_Weights):
    """The network of FID and KID."""

    net: Literal["digits", "inception"]


class CmmdChoice(_Weights):
    """The network of CMMD.

    Attributes:
        model: folder of a CLIP model in transformers' format, for `clip`.
        features: `.npz` with an array `features` of the reference set; None takes those of the uncached
            held-out pictures.
    """

    net: Literal["clip", "digits", "inception"] = "clip"
    model: Text | None = None
    features: Text | None = None

    @model_validator(mode="after")
    def _check_model(self) -> Self:
        if (self.model is None) == (self.net == "clip"):
            raise ConfigError("give the folder of a CLIP model for net 'clip', and only for it", key="model")
        return self


class FolderChoice(Document):
    """A model's local folder."""

    model: Text


class Metrics(Document):
    """Networks and reference data of the metrics, relative to the current directory.

    Attributes:
        net: folder of the digit classifier; serves lpips, fid and kid unless they name another network.
        reference_stats: `.npz` with an array `features` that fid and kid compare with; None takes those of
            the uncached held-out pictures.
        lpips: another network for LPIPS.
        fid: another network for FID and KID.
        cmmd: measures CMMD.
        clip_score: measures CLIPScore; the folder of a CLIP model in transformers' format.
        image_reward: measures ImageReward; the folder with `ImageReward.pt` and `med_config.json`.
    """

    net: Text | None = None
    reference_stats: Text | None = None
    lpips: LpipsChoice | None = None
    fid: FidChoice | None = None
    cmmd: CmmdChoice | None = None
    clip_score: FolderChoice | None = None
    image_reward: FolderChoice | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for role in ("lpips", "fid", "cmmd"):
            choice = getattr(self, role)
            if choice is not None and choice.net == DIGITS and self.net is None:
                raise ConfigError("got 'digits'; give its folder as metrics.net", key=f"{role}.net")
        return self

    def spec(self) -> MetricsSpec:
        """Say which networks the metrics use; paths as they are given."""
        digits = None if self.net is None else NetSpec(DIGITS, self.net)
        return MetricsSpec(
            lpips=digits if self.lpips is None else self._net(self.lpips),
            fid=digits if self.fid is None else self._net(self.fid),
            cmmd=None if self.cmmd is None else self._net(self.cmmd),
            clip_score=None if self.clip_score is None else NetSpec("clip", self.clip_score.model),
            image_reward=(
                None if self.image_reward is None else NetSpec("image_reward", self.image_reward.model)
            ),
        )

    def _net(self, choice: LpipsChoice | FidChoice | CmmdChoice) -> NetSpec:
        path = self.net if choice.net == DIGITS else choice.weights
        if isinstance(choice, CmmdChoice) and choice.net == "clip":
            path = choice.model
        if path is None:
            raise TypeError("a checked choice without its file or folder")
        return NetSpec(choice.net, path, choice.sha256)

    def reference_file(self, name: str) -> tuple[str, str | None]:
        """The key and the path of the features that a set metric compares with."""
        if name == "cmmd":
            return "metrics.cmmd.features", None if self.cmmd is None else self.cmmd.features
        return "metrics.reference_stats", self.reference_stats

    def check_files(self) -> None:
        """Refuse what is not on this machine: packages, networks, reference features.

        Raises:
            ConfigError: names the key, and what to give.
        """
        self.spec().check()
        for key, path in (self.reference_file(name) for name in ("fid", "cmmd")):
            if path is not None and not Path(path).is_file():
                raise ConfigError(
                    f"got {path!r}, which is no file; give the features' .npz, or null", key=key
                )

    def check_named(self, named: Iterable[tuple[str, str]]) -> None:
        """Refuse objectives and bounds on metrics without a network.

        Args:
            named: (key, scalar).

        Raises:
            ConfigError: says which network to give.
        """
        measured = self.spec().names()
        for key, scalar in named:
            metric = METRIC_OF[scalar]
            if metric in GIVE and metric not in measured:
                raise ConfigError(f"{metric} needs a network; give {GIVE[metric][1]}", key=key)
