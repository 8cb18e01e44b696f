"""One call of a block or of the transformer: its arguments by name, and the tokens in them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils._pytree import tree_map

from xslim.runtime.adapters.base import Rotary, Stack
from xslim.runtime.rows import Rows
from xslim.runtime.tokens import gather_tokens


def parameter_names(module: nn.Module) -> tuple[str, ...]:
    """Names of the parameters of a module's forward that may be passed by position."""
    plain = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = inspect.signature(type(module).forward).parameters
    return tuple(name for name, parameter in parameters.items() if parameter.kind is plain)[1:]


def stacked(latent: Any) -> Tensor:
    """A latent as one tensor [batch, ...]; some transformers take and return a list of samples.

    A sample may be a list of pictures, of which the last is the one in the making. Samples of different
    sizes are flattened and padded with zeros.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(latent, Tensor):
        return latent
    if not isinstance(latent, list | tuple):
        raise TypeError(f"the latent is a {type(latent).__name__}, expected a tensor or a list of them")
    samples = [sample[-1] if isinstance(sample, list | tuple) else sample for sample in latent]
    if all(sample.shape == samples[0].shape for sample in samples):
        return torch.stack(samples)
    return pad_sequence([sample.flatten() for sample in samples], batch_first=True)


class Call:
    """Arguments as they were passed, found by name."""

    def __init__(self, names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self._names = names
        self.args = args
        self.kwargs = kwargs

    def get(self, name: str) -> Any:
        """Return an argument, None when it was not passed."""
        if name in self.kwargs:
            return self.kwargs[name]
        if name in self._names:
            position = self._names.index(name)
            if position < len(self.args):
                return self.args[position]
        return None

    def tensor(self, name: str) -> Tensor:
        """Return an argument that has to be a tensor.

        Raises:
            TypeError: it is none.
        """
        value = self.get(name)
        if not isinstance(value, Tensor):
            raise TypeError(f"argument {name!r} is a {type(value).__name__}, expected a tensor")
        return value

    def run(self, forward: Callable[..., Any]) -> Any:
        """Call a function with the arguments."""
        return forward(*self.args, **self.kwargs)

    def _replaced(self, values: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        args, kwargs = list(self.args), dict(self.kwargs)
        for name, value in values.items():
            position = self._names.index(name) if name in self._names else len(args)
            if name in kwargs or position >= len(args):
                kwargs[name] = value
            else:
                args[position] = value
        return args, kwargs


class Streams(NamedTuple):
    """Tokens of a block: the image's, [batch, tokens, dim], and the text's, when the block has them."""

    image: Tensor
    text: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Streams:
        """Change every stream that is there."""
        return Streams(change(self.image), None if self.text is None else change(self.text))

    def take(self, rows: Rows) -> Streams:
        """Some samples."""
        return self.map(rows.take)

    def __add__(self, other: object) -> Streams:
        """Add stream by stream; a stream that one side lacks stays as it is."""
        if not isinstance(other, Streams):
            return NotImplemented
        text = self.text if self.text is None or other.text is None else self.text + other.text
        return Streams(self.image + other.image, text)

    def __sub__(self, other: Streams) -> Streams:
        """Subtract stream by stream; a stream that one side lacks is dropped."""
        text = None if self.text is None or other.text is None else self.text - other.text
        return Streams(self.image - other.image, text)

    def put(self, rows: Rows, values: Streams) -> Streams:
        """Write some samples, in place; a text stream that the values lack is dropped."""
        rows.put(self.image, values.image)
        if self.text is None or values.text is None:
            return Streams(self.image)
        rows.put(self.text, values.text)
        return self


class BlockCall(Call):
    """A call of one block.

    Attributes:
        stack: the stack that the block belongs to.
        image_tokens: image tokens of a sample.
    """

    def __init__(
        self,
        stack: Stack,
        names: Sequence[str],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        image_tokens: int | None = None,
    ) -> None:
        super().__init__(names, args, kwargs)
        self.stack = stack
        hidden = self.tensor(stack.image)
        self.image_tokens = hidden.shape[1] if image_tokens is None else image_tokens
        self._raw: Any = None  # what a pair of streams was unpacked from
        text = None if stack.text is None else self.get(stack.text)
        self.streams = self._split(hidden) if stack.joined else Streams(hidden, text)

    def _split(self, hidden: Tensor) -> Streams:
        text = hidden.shape[1] - self.image_tokens
        return Streams(hidden[:, text:], hidden[:, :text])

    @property
    def rows(self) -> int:
        """Samples in the call."""
        return self.streams.image.shape[0]

    def unpack(self, output: Any) -> Streams:
        """Return the tokens in what the block returned."""
        if self.stack.joined:
            streams = self._split(output)
        elif self.stack.returns == ("image",):
            streams = Streams(output)
        else:
            streams = Streams(**dict(zip(self.stack.returns, output, strict=True)))
        self._raw = (streams, output)
        return streams

    def pack(self, streams: Streams) -> Any:
        """Return tokens in the form in which the block returns them."""
        if self._raw is not None and self._raw[0] is streams:
            return self._raw[1]
        if self.stack.joined:
            if streams is self.streams:
                return self.get(self.stack.image)
            return torch.cat([part for part in (streams.text, streams.image) if part is not None], dim=1)
        if self.stack.returns == ("image",):
            return streams.image
        return tuple(getattr(streams, name) for name in self.stack.returns)

    def of_rows(self, rows: Rows) -> BlockCall:
        """The call for some samples."""
        if rows.all:
            return self
        names = (self.stack.image, self.stack.text, *self.stack.row_arguments)
        return self._changed({name: _take(self.get(name), rows) for name in names if name}, self.image_tokens)

    def of_tokens(self, index: Tensor) -> BlockCall:
        """The call for some image tokens of every sample, with all text. Shape: index [rows, chosen]."""
        image = gather_tokens(self.streams.image, index)
        changes: dict[str, Any] = {self.stack.image: image}
        if self.stack.joined and self.streams.text is not None:
            changes[self.stack.image] = torch.cat([self.streams.text, image], dim=1)
        for name in self.stack.token_arguments:
            value = self.get(name)
            if isinstance(value, Tensor) and value.dim() > 1 and value.shape[1] == self.image_tokens:
                changes[name] = gather_rows(value, index)
        if self.stack.rotary is not None:
            table = self.get(self.stack.rotary.argument)
            changes[self.stack.rotary.argument] = _gather_rotary(
                self.stack.rotary, table, index, self.image_tokens
            )
        return self._changed(changes, index.shape[1])

    def _changed(self, changes: Mapping[str, Any], image_tokens: int) -> BlockCall:
        given = {name: value for name, value in changes.items() if value is not None}
        return BlockCall(self.stack, self._names, *self._replaced(given), image_tokens)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def run_eagerly(call: Call, forward: Callable[..., Any]) -> Any:
    """Run a call without the graphs of a compiled block: inside of one, attention cannot be seen."""
    return call.run(forward)


def gather_rows(table: Tensor, index: Tensor) -> Tensor:
    """Shapes: table [rows or 1, tokens, ...], index [rows, chosen] -> [rows, chosen, ...]."""
    wide = table.expand(len(index), *table.shape[1:])
    return wide[torch.arange(len(index), device=index.device)[:, None], index]


def _take(value: Any, rows: Rows) -> Any:
    """Cut an argument down to some samples: tensors, also inside of lists and dictionaries.

    A tensor whose first dimension is a multiple of the batch holds it several times over.
    """

    def cut(item: Any) -> Any:
        if not isinstance(item, Tensor) or item.dim() == 0 or item.shape[0] % rows.total:
            return item
        if item.shape[0] == rows.total:
            return rows.take(item)
        parts = range(0, item.shape[0], rows.total)
        return torch.cat([rows.take(item[start : start + rows.total]) for start in parts])

    return tree_map(cut, value)


def _gather_rotary(rotary: Rotary, tables: Any, index: Tensor, image_tokens: int) -> Any:
    """The tables of the chosen tokens (and of all text tokens, where they cover the text)."""

    def gather(table: Tensor) -> Tensor:
        chosen = index
        if rotary.text_first:
            text = table.shape[rotary.axis] - image_tokens
            whole = torch.arange(text, device=index.device).expand(len(index), -1)
            chosen = torch.cat([whole, index + text], dim=1)
        chosen = chosen.to(table.device)
        return gather_rows(table, chosen) if rotary.batched else table.index_select(rotary.axis, chosen[0])

    if isinstance(tables, Tensor):
        return gather(tables)
    if tables is None:
        return None
    wanted = range(len(tables)) if rotary.members is None else rotary.members
    return type(tables)([gather(t) if i in wanted else t for i, t in enumerate(tables)])
