"""The only file that imports diffusers' hooks: installing ours and taking them out without a trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from diffusers.hooks.hooks import BaseState, HookRegistry, ModelHook, StateManager
from torch import nn
from torch._dynamo import trace_rules

from xslim.errors import AttachError
from xslim.runtime.model import LiveModel

HOOK_NAME = "xslim"
# Compiled blocks keep the graphs that they have without us: our own frames are not traced, what they call is.
trace_rules.add("xslim")


class Listener(Protocol):
    """What the hooks call."""

    def on_transformer(self, context: str | None, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run one call of the transformer; `context` is the name a pipeline gave it, or None."""
        ...

    def on_request_end(self) -> None:
        """A pipeline says that its request is over."""
        ...

    def on_text(self, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run one call of the text embedder."""
        ...

    def on_block(self, block: int, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run one call of a block."""
        ...


class _NoState(BaseState):  # type: ignore[misc]  # diffusers ships no types
    def reset(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the session keeps its own state."""


class _TransformerHook(ModelHook):  # type: ignore[misc]
    """Sees every call of the transformer, and the branch name that a pipeline sets."""

    _is_stateful = True

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self._listener = listener
        self._contexts = StateManager(_NoState)

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        context = self._contexts._context
        name = None if context is None else str(context.name)
        return self._listener.on_transformer(name, self.fn_ref.original_forward, args, kwargs)

    def reset_state(self, module: nn.Module) -> nn.Module:
        """Called by pipelines at the end of a request, but not when it fails."""
        self._listener.on_request_end()
        return module


class _PartHook(ModelHook):  # type: ignore[misc]
    """Sees every call of one block, or of the text embedder."""

    def __init__(self, run: Callable[[Callable[..., Any], Any, Any], Any]) -> None:
        super().__init__()
        self._run = run

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return self._run(self.fn_ref.original_forward, args, kwargs)


def foreign_cache(transformer: nn.Module) -> str | None:
    """Which other cache is on a transformer and how to take it off, or None."""
    if getattr(transformer, "is_cache_enabled", False):
        return "another cache is enabled on this model; call disable_cache() first"
    if getattr(transformer, "_is_cached", False):  # cache-dit and ParaAttention
        return "cache-dit or ParaAttention is on this model; load the pipeline anew without it"
    for name, module in transformer.named_modules():
        registry = getattr(module, "_diffusers_hook", None)
        for hook_name, hook in registry.hooks.items() if registry is not None else ():
            if hook._is_stateful and hook_name != HOOK_NAME:
                return (
                    f"the hook {hook_name!r} of another cache is on {name or 'the transformer'}; "
                    f"call _diffusers_hook.remove_hook({hook_name!r}) on the transformer first"
                )
    return None


def offload_group(blocks: Sequence[nn.Module]) -> int:
    """Most blocks that diffusers' group offloading brings to the device together; 0 without it."""
    sizes = [0]
    for block in blocks:
        registry = getattr(block, "_diffusers_hook", None)
        hook = None if registry is None else registry.get_hook("group_offloading")
        if hook is not None:
            sizes.append(sum(member in blocks for member in hook.group.modules))
    return max(sizes)


class Installation:
    """Our hooks on one model; `remove` leaves the model as it was.

    Raises:
        AttachError: the model has our hooks already. A failure half-way removes what was installed.
    """

    def __init__(self, model: LiveModel, listener: Listener) -> None:
        self._model = model
        self._touched: list[tuple[nn.Module, bool, bool]] = []
        try:
            self._add(model.transformer, _TransformerHook(listener))
            if model.text_embedder is not None:
                self._add(model.text_embedder, _PartHook(listener.on_text))
            for index, block in enumerate(model.blocks):
                self._add(block, _PartHook(partial(listener.on_block, index)))
        except BaseException:
            self.remove()
            raise
        self._refresh_registries()

    def _add(self, module: nn.Module, hook: ModelHook) -> None:
        registry = getattr(module, "_diffusers_hook", None)
        if registry is not None and registry.get_hook(HOOK_NAME) is not None:
            raise AttachError("a session is attached to this model or shares its blocks; detach it first")
        had = ("forward" in module.__dict__, hasattr(module, "_diffusers_hook"))
        self._touched.append((module, *had))
        HookRegistry.check_if_exists_or_initialize(module).register_hook(hook, HOOK_NAME)

    def remove(self) -> None:
        """Take our hooks out; instance attributes that we brought go too."""
        for module, had_forward, had_registry in reversed(self._touched):
            registry = getattr(module, "_diffusers_hook", None)
            if registry is None:
                continue
            registry.remove_hook(HOOK_NAME, recurse=False)
            if registry.hooks:  # somebody else hooked the module after us
                continue
            if not had_forward:
                module.__dict__.pop("forward", None)
            if not had_registry:
                del module._diffusers_hook
        self._touched.clear()
        self._refresh_registries()

    def _refresh_registries(self) -> None:
        """Make diffusers forget which blocks carried hooks."""
        registry = getattr(self._model.transformer, "_diffusers_hook", None)
        if registry is not None:
            registry.invalidate_child_registries_cache()
