"""Which networks the metrics use, and where they lie. Loads no tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from autotune.scoring.nets.weights import check_weights
from xslim.errors import ConfigError

# set and paired metrics that share the network of a role
SHARED = {"lpips": ("lpips", "lpips_temporal"), "fid": ("fid", "kid")}
DIGITS = "digits"
INSTALL = {
    "clip": ("transformers", "pip install transformers"),
    "image_reward": ("ImageReward", "pip install image-reward"),
}
# what a local folder has to hold, one of each group
FILES = {
    DIGITS: (("model.safetensors",),),
    "clip": (
        ("config.json",),
        ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"),
        ("preprocessor_config.json", "processor_config.json"),
        ("tokenizer.json", "vocab.json"),
    ),
    "image_reward": (("ImageReward.pt",), ("med_config.json",)),
}


@dataclass(frozen=True, slots=True)
class NetSpec:
    """A network and its local file or folder.

    Attributes:
        net: `digits`, `alex`, `vgg`, `inception`, `clip` or `image_reward`.
        path: the weights' file; of digits, clip and image_reward the folder.
        sha256: of the weights' file, whole or its first digits (at least 8); None for folders.
    """

    net: str
    path: str
    sha256: str | None = None

    @property
    def name(self) -> str:
        """How printed names call it: the net, of CLIP the folder's name."""
        return Path(self.path).resolve().name if self.net == "clip" else self.net

    def check(self, role: str) -> None:
        """Refuse what cannot be loaded here; reads weights whole for their checksum.

        Raises:
            ConfigError: a package, file or folder is missing, or the checksum is another one.
        """
        if self.net in INSTALL:
            self._check_package(role)
        if self.net not in FILES:
            check_weights(self.path, self.sha256, f"metrics.{role}")
            return
        key = "metrics.net" if self.net == DIGITS else f"metrics.{role}.model"
        for group in FILES[self.net]:
            if not any((Path(self.path) / name).is_file() for name in group):
                raise ConfigError(
                    f"got {self.path!r}, which holds no {' or '.join(group)}; give the network's folder",
                    key=key,
                )

    def _check_package(self, role: str) -> None:
        package, command = INSTALL[self.net]
        if find_spec(package) is None:
            files = " and ".join(" or ".join(group) for group in FILES[self.net])
            raise ConfigError(
                f"needs the package {package}: {command}; then {self.path} must hold {files}",
                key=f"metrics.{role}",
            )


@dataclass(frozen=True, slots=True)
class MetricsSpec:
    """The networks of the metrics; small enough to send. A metric without its network is not measured.

    Attributes:
        lpips: digits, alex or vgg.
        fid: digits or inception; its features serve `kid` too.
        cmmd: clip, digits or inception.
        clip_score: clip.
        image_reward: image_reward.
    """

    lpips: NetSpec | None = None
    fid: NetSpec | None = None
    cmmd: NetSpec | None = None
    clip_score: NetSpec | None = None
    image_reward: NetSpec | None = None

    @classmethod
    def digits(cls, folder: str) -> MetricsSpec:
        """LPIPS, FID and KID on the digit classifier of a folder."""
        net = NetSpec(DIGITS, folder)
        return cls(lpips=net, fid=net)

    def roles(self) -> Iterator[tuple[str, NetSpec]]:
        """The roles that have a network."""
        for role in ("lpips", "fid", "cmmd", "clip_score", "image_reward"):
            net = getattr(self, role)
            if net is not None:
                yield role, net

    def names(self) -> dict[str, str]:
        """Metric -> the name of its network, of all that have one."""
        return {metric: net.name for role, net in self.roles() for metric in SHARED.get(role, (role,))}

    def folders(self) -> tuple[str, ...]:
        """The folders that networks are loaded from; single files have a checksum of their own."""
        return tuple(sorted({net.path for _, net in self.roles() if net.net in FILES}))

    def absolute(self) -> MetricsSpec:
        """The same with absolute paths, for workers that run elsewhere."""
        return MetricsSpec(
            **{role: replace(net, path=str(Path(net.path).resolve())) for role, net in self.roles()}
        )

    def check(self) -> None:
        """Refuse what cannot be loaded on this machine; every file is read once.

        Raises:
            ConfigError: as `NetSpec.check`.
        """
        seen: set[NetSpec] = set()
        for role, net in self.roles():
            if net not in seen:
                net.check(role)
                seen.add(net)
