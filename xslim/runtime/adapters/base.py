"""What the runtime must know of a transformer class; data only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stack:
    """A list of blocks that run one after the other.

    Attributes:
        path: dotted path of the ModuleList in the transformer.
        kind: kind of its blocks; thresholds may differ by kind.
    """

    path: str
    kind: str


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """A call of a block's submodule that yields the modulated input.

    Attributes:
        path: dotted path of the submodule in the block.
        arguments: its argument name -> the block's argument name.
        dtype_argument: its argument that takes the dtype of the image tokens, or None.
    """

    path: str
    arguments: tuple[tuple[str, str], ...]
    dtype_argument: str | None = None


@dataclass(frozen=True, slots=True)
class BlockAdapter:
    """How one transformer class calls its blocks.

    Attributes:
        family: short name, as in presets.
        transformer: exact class name.
        stacks: block lists in the order they run.
        hidden: block argument that holds the image tokens, [batch, tokens, dim].
        row_arguments: further block arguments with the batch as their first dimension.
        modulation: the first block's norm, for the signal `modulated_input`.
        latent: transformer argument that holds the latent.
        timestep: transformer argument that holds the timestep.
        attention_call: index, within a block, of the attention call over the image tokens.
    """

    family: str
    transformer: str
    stacks: tuple[Stack, ...]
    row_arguments: tuple[str, ...]
    modulation: ModuleCall
    hidden: str = "hidden_states"
    latent: str = "hidden_states"
    timestep: str = "timestep"
    attention_call: int = 0
