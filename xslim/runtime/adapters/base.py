"""What the runtime must know of a transformer class; data, and two short functions a family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor, nn

Attention = Literal["image", "text-first", "text-last", "cross"]


class Arguments(Protocol):
    """Arguments of a call, by name."""

    def get(self, name: str) -> object:
        """Return an argument, None when it was not passed."""
        ...

    def tensor(self, name: str) -> Tensor:
        """Return an argument that has to be a tensor."""
        ...


Feature = Callable[[nn.Module, Arguments], Tensor]


@dataclass(frozen=True, slots=True)
class Rotary:
    """The rotary tables that a block takes; a token refresh gathers the rows of the chosen tokens.

    Attributes:
        argument: block argument that holds a table or a tuple of tables.
        axis: token axis of a table.
        text_first: a table covers the text tokens, then the image tokens; else the image tokens alone.
        members: entries of the tuple that belong to the image; None means all.
        batched: the axis before the tokens is the batch, or one that broadcasts. Without it, samples with
            different tokens cannot share a call, and a token refresh runs sample by sample.
    """

    argument: str
    axis: int = 0
    text_first: bool = False
    members: tuple[int, ...] | None = None
    batched: bool = False


@dataclass(frozen=True, slots=True)
class Stack:
    """A list of blocks that run one after the other.

    Attributes:
        path: dotted path of the ModuleList in the transformer.
        kind: kind of its blocks; thresholds may differ by kind.
        row_arguments: further block arguments with the batch as their first dimension.
        attention: the block's attention calls in the order they run, by what they attend to: image tokens,
            text and image tokens in one sequence, or something else (`cross`). Read by token refreshes
            alone; empty in a family without them.
        text: block argument that holds the text tokens, or None.
        returns: what the block returns, in order.
        joined: the image argument holds the text tokens first, then the image tokens.
        rotary: its rotary tables, or None.
        token_arguments: block arguments whose second dimension is the image tokens, when it has their size.
        image: block argument that holds the image tokens, [batch, tokens, dim].
    """

    path: str
    kind: str
    row_arguments: tuple[str, ...]
    attention: tuple[Attention, ...]
    text: str | None = None
    returns: tuple[Literal["image", "text"], ...] = ("image",)
    joined: bool = False
    rotary: Rotary | None = None
    token_arguments: tuple[str, ...] = ()
    image: str = "hidden_states"


@dataclass(frozen=True, slots=True)
class Timestep:
    """How a transformer is told the time.

    Attributes:
        argument: its argument.
        scale: with `offset`, the scheduler's timestep is offset + scale * argument.
        offset: see `scale`.
        rising: the scheduler's timesteps rise while noise falls.
    """

    argument: str = "timestep"
    scale: float = 1.0
    offset: float = 0.0
    rising: bool = False

    def read(self, arguments: Arguments) -> float:
        """Return the scheduler's timestep: that of the noisiest token, where tokens have their own."""
        times = self.offset + self.scale * arguments.tensor(self.argument).float()
        return float(times.min() if self.rising else times.max())


def any_config(config: Mapping[str, object]) -> str | None:
    """Token refresh works for every configuration."""
    return None


@dataclass(frozen=True, slots=True)
class BlockAdapter:
    """How one transformer class calls its blocks.

    Attributes:
        family: short name, as in presets.
        transformer: exact class name.
        stacks: block lists in the order they run.
        modulated: (first block, its arguments) -> its modulated input [batch, tokens, dim], for the signal
            `modulated_input`.
        time_embedding: (first block, its arguments) -> the embedding that modulates it, [batch, ...].
        latent: transformer argument that holds the latent: a tensor [batch, ...], or a list of samples.
        conditioning: transformer argument that tells guidance branches apart.
        timestep: how the transformer is told the time.
        text_embedder: path of a module that makes the text tokens anew at every step and whose output the
            blocks alone read: it is left out where no block runs and no signal of a tensor is measured. It
            is called once a call, before the first block, and returns one tensor. None where there is none
            worth it.
        no_tokens: config -> why token refresh does not work for it, or None.
        remark: what a user should know, for the table of families.
    """

    family: str
    transformer: str
    stacks: tuple[Stack, ...]
    modulated: Feature
    time_embedding: Feature
    latent: str = "hidden_states"
    conditioning: str = "encoder_hidden_states"
    timestep: Timestep = Timestep()
    text_embedder: str | None = None
    no_tokens: Callable[[Mapping[str, object]], str | None] = any_config
    remark: str = ""


def ada_norm(path: str, embedding: str = "temb") -> Feature:
    """The modulated input of blocks whose norm takes the embedding as `emb` and returns the input first."""

    def modulated(block: nn.Module, arguments: Arguments) -> Tensor:
        norm = block.get_submodule(path)
        result = norm(arguments.tensor("hidden_states"), emb=arguments.tensor(embedding))
        tensor: Tensor = result[0] if isinstance(result, tuple) else result
        return tensor

    return modulated


def passed(argument: str) -> Feature:
    """A block argument as it is."""

    def feature(block: nn.Module, arguments: Arguments) -> Tensor:
        return arguments.tensor(argument)

    return feature


def ada_norm_with_text(path: str) -> Feature:
    """The modulated input of blocks whose norm takes image, text and embedding; the image comes first."""

    def modulated(block: nn.Module, arguments: Arguments) -> Tensor:
        norm = block.get_submodule(path)
        text = arguments.tensor("encoder_hidden_states")
        result: Tensor = norm(arguments.tensor("hidden_states"), text, arguments.tensor("temb"))[0]
        return result

    return modulated


def shift_and_scale(block: nn.Module, embedding: Tensor) -> tuple[Tensor, Tensor]:
    """Shift and scale of the first norm of a block that adds a table of six rows to the embedding.

    Shapes: embedding [batch, 6 * dim], or with a further token axis, the 6 rows split off or not ->
    twice [batch, 1 or tokens, dim].
    """
    table = block.get_parameter("scale_shift_table")
    rows = table + embedding.reshape(len(embedding), -1, 6, table.shape[-1])
    return rows[:, :, 0], rows[:, :, 1]
