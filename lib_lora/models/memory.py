"""Less memory, or less time, for the same numbers: activations computed again, other attention kernels, compilation.

All three change how a model's blocks are run and nothing of its weights; whoever switches them on for a run gets the
model back as it was.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lib_lora.base.errors import StudioError
from lib_lora.models.model import DiffusionModel

# Class names, as in adapters.targets: isinstance would tie us to one version's module paths.
UNET_LAYERS = frozenset({"ResnetBlock2D", "BasicTransformerBlock"})
TEXT_LAYERS = frozenset({"CLIPEncoderLayer"})
ATTENTIONS = ("sdpa", "xformers")

# Called at a forward: what must hold again while that forward is repeated.
Repeat = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class MemoryOptions:
    """How a model is run while it is trained.

    Args:
        gradient_checkpointing: keep of each layer its input alone, and compute the rest again in the backward pass.
        depth: how many of the UNet's levels are computed again, counted from the finest, whose activations take most
            of the memory; None: all of them and the text encoders.
        attention: one of ``ATTENTIONS``.
        compiled: compile each layer with ``torch.compile``.
        backend: of ``torch.compile``.
    """

    gradient_checkpointing: bool = False
    depth: int | None = None
    attention: str = "sdpa"
    compiled: bool = False
    backend: str | Callable[..., Any] = "inductor"

    def check(self, device: torch.device) -> None:
        """Look whether this machine can do it.

        Raises:
            StudioError: naming the option.
        """
        if self.depth is not None and not self.gradient_checkpointing:
            raise StudioError(
                "belongs to gradient_checkpointing, which is off",
                field="gradient_checkpointing_depth",
                came=self.depth,
                allowed="none, or gradient_checkpointing",
            )
        if self.attention not in ATTENTIONS:
            raise StudioError("not allowed", field="attention", came=self.attention, allowed=ATTENTIONS)
        if self.attention == "xformers":
            _check_xformers(device)
        if self.compiled:
            _check_compiler(device, self.backend == "inductor")


def _check_xformers(device: torch.device) -> None:
    problem = None
    if device.type != "cuda":
        problem = "needs a CUDA card, and this run has none"
    elif importlib.util.find_spec("xformers") is None:
        problem = "needs the Python package xformers, which is not installed"
    if problem:
        raise StudioError(problem, field="attention", came="xformers", allowed="sdpa, which PyTorch brings along")


def _check_compiler(device: torch.device, is_inductor: bool) -> None:
    from torch._dynamo.eval_frame import is_dynamo_supported

    problem = None
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 5):
        # Older ones leave the graph at each forward hook, and our adapters are such hooks.
        problem = f"needs PyTorch 2.5 or newer, this is {torch.__version__}"
    elif not is_dynamo_supported():
        problem = "torch.compile does not run under this Python or on this system"
    elif is_inductor and device.type == "cuda" and importlib.util.find_spec("triton") is None:
        problem = "needs the Python package triton, which is not installed"
    elif is_inductor and device.type != "cuda":
        # PyTorch 2.13's inductor gives other gradients on the processor; "eager" and "aot_eager" give the right ones.
        problem = "is for CUDA cards; on a processor the compiled layers' gradients were found wrong"
    if problem:
        raise StudioError(problem, field="torch_compile", came=True, allowed="no torch_compile")


@contextmanager
def run_with(model: DiffusionModel, options: MemoryOptions, repeat: Repeat = nullcontext) -> Iterator[None]:
    """Run the model as the options say, and afterwards as before.

    Args:
        repeat: called at the forward of each layer that is computed again; the repeated forward runs inside the
            context that it gave. ``NetworkState.repeat`` sees to the adapters' strengths and dropout draws.

    Raises:
        StudioError: as ``MemoryOptions.check``.
    """
    options.check(model.device)
    with ExitStack() as stack:
        if options.attention == "xformers":
            stack.enter_context(_xformers(model.unet))
        if options.compiled:
            for layer in [*unet_layers(model.unet), *text_layers(model.text_encoders)]:
                stack.enter_context(_forward_of(layer, torch.compile(layer.forward, backend=options.backend)))
        if options.gradient_checkpointing:
            layers = unet_layers(model.unet, options.depth)
            if options.depth is None:
                layers += text_layers(model.text_encoders)
            for layer in layers:
                stack.enter_context(_forward_of(layer, _computed_again(layer.forward, repeat)))
        yield


def unet_layers(unet: nn.Module, depth: int | None = None) -> list[nn.Module]:
    """Residual and transformer blocks of the UNet's ``depth`` finest levels; None, or as many as it has: of all."""
    levels = len(unet.down_blocks)
    if depth is None or depth >= levels:
        return _layers(unet, UNET_LAYERS)
    # The finest level is the first on the way down and the last on the way up; diffusers' levels need not have both.
    blocks = [*unet.down_blocks[:depth], *unet.up_blocks[levels - depth :]]
    return [layer for block in blocks for layer in _layers(block, UNET_LAYERS)]


def text_layers(text_encoders: list[nn.Module]) -> list[nn.Module]:
    return [layer for encoder in text_encoders for layer in _layers(encoder, TEXT_LAYERS)]


def _layers(root: nn.Module, names: frozenset[str]) -> list[nn.Module]:
    return [module for module in root.modules() if type(module).__name__ in names]


@contextmanager
def _forward_of(layer: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Another forward for a while; one that the instance had of its own comes back."""
    own = vars(layer).get("forward")
    layer.forward = forward
    try:
        yield
    finally:
        if own is None:
            del layer.forward
        else:
            layer.forward = own


def _computed_again(forward: Callable[..., Any], repeat: Repeat) -> Callable[..., Any]:
    """``forward`` that keeps its input alone, where there is a backward pass to come."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), repeat()

    @wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        # No generator of torch's own draws in a forward (design: randomness has an owner): none is saved.
        return checkpoint(
            forward, *args, use_reentrant=False, preserve_rng_state=False, context_fn=contexts, **kwargs
        )

    return run


@contextmanager
def _xformers(unet: Any) -> Iterator[None]:
    before = dict(unet.attn_processors)
    unet.enable_xformers_memory_efficient_attention()
    try:
        yield
    finally:
        unet.set_attn_processor(before)
