"""Modules built on the meta device and filled with somebody's tensors, shared and not copied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from lib_lora.arch import ldm
from lib_lora.arch.family import Part
from lib_lora.base.errors import StudioError
from lib_lora.models import compat_transformers
from lib_lora.models.config_yaml import ModelYaml
from lib_lora.models.libraries import AutoencoderKL, UNet2DConditionModel
from lib_lora.models.mapped_tensors import shapes_of
from lib_lora.models.sharing import share

Tensors = Mapping[str, torch.Tensor]


def part_tensors(tensors: Tensors, part: Part, keys: list[str] | None = None) -> dict[str, torch.Tensor]:
    """The tensors whose keys start with the part's prefix, without it."""
    prefix = part.value
    return {key[len(prefix) :]: tensors[key] for key in (keys or tensors) if key.startswith(prefix)}


def build_unet(
    tensors: Tensors, config: ModelYaml, file: object, pooled_width: int | None = None
) -> UNet2DConditionModel:
    """A frozen UNet whose parameters are the given LDM tensors (keys without prefix).

    Args:
        pooled_width: of SDXL's pooled text.
    """
    try:
        arguments = ldm.unet_config(shapes_of(tensors), _heads(tensors, config), pooled_width)
    except (KeyError, StopIteration) as error:
        raise StudioError(f"the UNet is incomplete (no {error})", file=file, allowed="a whole checkpoint") from error
    with torch.device("meta"):
        unet = UNet2DConditionModel(**arguments)
    per_level = arguments["layers_per_block"]
    _fill(unet, _renamed(tensors, lambda key: ldm.unet_key(key, per_level)), file, "UNet")
    return unet


def _heads(tensors: Tensors, config: ModelYaml) -> int | list[int]:
    if config.heads:
        return config.heads
    per_level = ldm.resnets_per_level(tensors)
    levels = len({key.split(".")[1] for key in tensors if key.startswith("input_blocks.")}) // (per_level + 1)
    first = [f"input_blocks.{1 + level * (per_level + 1)}.0.out_layers.3.weight" for level in range(levels)]
    return [tensors[key].shape[0] // config.head_channels for key in first]


def build_vae(tensors: Tensors, config: ModelYaml, file: object) -> AutoencoderKL:
    """A frozen VAE whose parameters are the given LDM tensors (keys without prefix)."""
    try:
        arguments = ldm.vae_config(shapes_of(tensors), config.scale_factor)
    except KeyError as error:
        raise StudioError(f"the VAE is incomplete (no {error})", file=file, allowed="a whole VAE") from error
    with torch.device("meta"):
        vae = AutoencoderKL(**arguments)
    levels = ldm.vae_levels(tensors)
    renamed = _renamed(tensors, lambda key: ldm.vae_key(key, levels))
    for key, tensor in renamed.items():
        if ".attentions." in key and tensor.dim() == 4:
            renamed[key] = tensor[:, :, 0, 0]  # LDM's 1x1 convolutions are linear layers here: a view
    _fill(vae, renamed, file, "VAE")
    return vae


def text_tensors(tensors: Tensors) -> dict[str, torch.Tensor]:
    """A text encoder's tensors under transformers' names (``text_model....``), every one a view of what came.

    Args:
        tensors: keys as ``arch.ldm.text_keys`` knows them.
    """
    named = {}
    for key, tensor in tensors.items():
        try:
            names = ldm.text_keys(key)
        except KeyError:
            continue  # logit_scale, say
        if key == "model.text_projection":
            tensor = tensor.t()  # a matrix that open_clip multiplies from the right
        named.update(zip(names, tensor.chunk(len(names)) if len(names) > 1 else [tensor]))
    return named


def without_last_layer(tensors: Tensors) -> dict[str, torch.Tensor]:
    """A text encoder that ends one layer earlier: SD2 takes the last layer but one and never runs the last."""
    numbers = {int(key.split(".")[3]) for key in tensors if key.startswith("text_model.encoder.layers.")}
    last = f"text_model.encoder.layers.{max(numbers)}."
    return {key: tensor for key, tensor in tensors.items() if not key.startswith(last)}


def build_text_encoder(tensors: Tensors, arguments: dict[str, Any], file: object, with_projection: bool = False) -> Any:
    """A frozen CLIPTextModel, or CLIPTextModelWithProjection, of the given tensors.

    Args:
        tensors: as ``text_tensors`` gives them.
        arguments: of transformers' CLIPTextConfig.
    """
    with torch.device("meta"):
        encoder = compat_transformers.clip_text_model(arguments, with_projection)
    prefix = compat_transformers.clip_key_prefix(encoder)
    renamed = {prefix + key[len("text_model.") :]: t for key, t in tensors.items() if key.startswith("text_model.")}
    if with_projection and "text_projection.weight" in tensors:
        renamed["text_projection.weight"] = tensors["text_projection.weight"]
    _fill(encoder, renamed, file, "text encoder")
    return encoder


def _renamed(tensors: Tensors, rename: Callable[[str], str]) -> dict[str, torch.Tensor]:
    renamed = {}
    for key, tensor in tensors.items():
        try:
            renamed[rename(key)] = tensor
        except KeyError:
            continue  # a loss's or a discriminator's tensor: what a module lacks is found by _fill
    return renamed


def _fill(module: torch.nn.Module, tensors: dict[str, torch.Tensor], file: object, what: str) -> None:
    """Put the tensors into the module by assignment, and freeze it.

    Raises:
        StudioError: a tensor is missing or has another shape; the message names it.
    """
    _fill_position_ids(module)
    wanted = module.state_dict()
    missing = [key for key in wanted if key not in tensors and not key.endswith("position_ids")]
    if missing:
        raise StudioError(
            f"{len(missing)} of the {what}'s {len(wanted)} tensors are missing, the first is {missing[0]}",
            file=file,
            allowed="a whole, untruncated checkpoint",
        )
    for key, expected in wanted.items():
        if key in tensors and tensors[key].shape != expected.shape:
            raise StudioError(
                f"the {what}'s tensor {key} has the wrong shape",
                file=file,
                came=tuple(tensors[key].shape),
                allowed=str(tuple(expected.shape)),
            )
    share(module, {key: tensors[key] for key in wanted if not key.endswith("position_ids")})
    module.eval()


def _fill_position_ids(module: torch.nn.Module) -> None:
    for owner in module.modules():
        ids = owner._buffers.get("position_ids")
        if ids is not None:
            owner._buffers["position_ids"] = torch.arange(ids.shape[-1]).expand(1, -1)
