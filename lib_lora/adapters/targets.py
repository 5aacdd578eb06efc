"""Which layers of a model a network adapts.

Source: kohya-ss/sd-scripts 48d368f, networks/lora.py, ``LoRANetwork``: the UNet's transformers, with a rank for
3x3 convolutions also its residual blocks and samplers, and the text encoder's attention and MLP.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from torch import nn

from lib_lora.adapters.spec import TEXT_ENCODER, UNET, NetworkSpec, Target
from lib_lora.arch.keys import UNET_PREFIX, kohya_key, text_module_name, text_prefix, unet_file_name
from lib_lora.base.errors import StudioError

# Class names, as sd-scripts does: isinstance would tie us to one version's module paths.
UNET_BLOCKS = frozenset({"Transformer2DModel"})
UNET_CONV_BLOCKS = frozenset({"ResnetBlock2D", "Downsample2D", "Upsample2D"})
TEXT_BLOCKS = frozenset({"CLIPAttention", "CLIPSdpaAttention", "CLIPFlashAttention2", "CLIPMLP"})

LAYERS: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv2d)
NORMS: tuple[type[nn.Module], ...] = (nn.LayerNorm, nn.GroupNorm)

_ATTENTION = {
    "attention": r"\.(attn1|attn2|self_attn)\.",
    "self-attention": r"\.(attn1|self_attn)\.",
    "cross-attention": r"\.attn2\.",
}


def find_targets(unet: nn.Module, text_encoders: list[nn.Module], spec: NetworkSpec) -> list[Target]:
    """The layers that ``spec`` names, text encoders first, in the models' own order; normalisation layers last.

    Raises:
        StudioError: no layer at all, or a broken regular expression.
    """
    has_convolutions = spec.conv_rank is not None or any(block.conv_rank for block in spec.block_ranks.values())
    blocks = UNET_BLOCKS | UNET_CONV_BLOCKS if has_convolutions else UNET_BLOCKS
    wanted = _name_filter(spec.targets)
    targets = []
    if spec.train_text_encoder:
        for prefix, encoder in _prefixed(text_encoders):
            targets += _targets(encoder, prefix, TEXT_ENCODER, _inside(encoder, TEXT_BLOCKS))
    if spec.train_unet:
        targets += _targets(unet, UNET_PREFIX, UNET, _inside(unet, blocks), is_sdxl=_is_sdxl(text_encoders))
    targets = [target for target in targets if wanted(target.module_name)]
    if not targets:
        raise StudioError(
            "no layer is left to train",
            field="network_targets",
            came=spec.targets,
            allowed="all, attention, cross-attention, self-attention, or a regular expression found in a layer's name",
        )
    if spec.train_norm and spec.train_unet:
        layers = _inside(unet, UNET_BLOCKS | UNET_CONV_BLOCKS, NORMS)
        norms = _targets(unet, UNET_PREFIX, UNET, layers, is_sdxl=_is_sdxl(text_encoders))
        norms = [target for target in norms if wanted(target.module_name)]
        if not norms:
            raise StudioError(
                "network_targets names no normalisation layer",
                field="train_norm",
                came=spec.targets,
                allowed="network_targets all, or a regular expression found in the name of one",
            )
        targets += norms
    return targets


def all_targets(unet: nn.Module, text_encoders: list[nn.Module]) -> dict[str, Target]:
    """Every linear, convolution and normalisation layer by its name in files: what some file may hold a change of.

    The layers of SDXL's UNet are found under both their names, LDM's and diffusers'.
    """
    targets = []
    for prefix, encoder in _prefixed(text_encoders):
        targets += _targets(encoder, prefix, TEXT_ENCODER, _layers(encoder, LAYERS + NORMS))
    targets += _targets(unet, UNET_PREFIX, UNET, _layers(unet, LAYERS + NORMS), is_sdxl=_is_sdxl(text_encoders))
    named = {kohya_key(UNET_PREFIX, target.module_name): target for target in targets if target.part == UNET}
    return named | {target.key: target for target in targets}


def _is_sdxl(text_encoders: list[nn.Module]) -> bool:
    return len(text_encoders) == 2  # which no other family has


def _prefixed(text_encoders: list[nn.Module]) -> list[tuple[str, nn.Module]]:
    return [(text_prefix(index, len(text_encoders)), encoder) for index, encoder in enumerate(text_encoders)]


def _name_filter(targets: str) -> Callable[[str], object]:
    if targets == "all":
        return lambda name: True
    try:
        return re.compile(_ATTENTION.get(targets, targets)).search
    except re.error as error:
        raise StudioError(
            f"a regular expression with a fault: {error}",
            field="network_targets",
            came=targets,
            allowed="all, attention, cross-attention, self-attention or a regular expression",
        ) from None


def _inside(
    root: nn.Module, blocks: frozenset[str], kinds: tuple[type[nn.Module], ...] = LAYERS
) -> Iterator[tuple[str, nn.Module]]:
    """Layers inside blocks of the named classes, each once."""
    for block_name, block in root.named_modules():
        if type(block).__name__ in blocks:
            for name, layer in _layers(block, kinds):
                yield f"{block_name}.{name}", layer


def _layers(root: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Iterator[tuple[str, nn.Module]]:
    for name, module in root.named_modules():
        if isinstance(module, kinds):
            yield name, module


def _targets(
    root: nn.Module, prefix: str, part: str, layers: Iterator[tuple[str, nn.Module]], *, is_sdxl: bool = False
) -> list[Target]:
    targets: dict[str, Target] = {}
    for name, layer in layers:
        own_name = text_module_name(name) if part == TEXT_ENCODER else name
        key = kohya_key(prefix, unet_file_name(name, is_sdxl) if part == UNET else own_name)
        if key in targets:
            raise ValueError(f"{type(root).__name__}: {targets[key].module_name} and {name} share the name {key}")
        targets[key] = Target(key, own_name, part, layer)
    return list(targets.values())
