"""From a checkpoint file, or from live tensors, to a ``DiffusionModel``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from lib_lora.arch import ldm
from lib_lora.arch.detect import check_vae, detect_family
from lib_lora.arch.family import Family, Part, text_parts
from lib_lora.arch.prediction import EPSILON, find_prediction
from lib_lora.base.errors import StudioError
from lib_lora.models.build import (
    build_text_encoder,
    build_unet,
    build_vae,
    part_tensors,
    text_tensors,
    without_last_layer,
)
from lib_lora.models.checkpoint_file import open_checkpoint, open_vae
from lib_lora.models.clip_assets import text_config, vocabulary_folder
from lib_lora.models.config_yaml import ModelYaml, folder_config, published_config, yaml_beside
from lib_lora.models.mapped_tensors import align_parameters, shapes_of
from lib_lora.models.model import DiffusionModel
from lib_lora.models.noise_schedule import scaled_linear_alphas_cumprod
from lib_lora.models.precision import cast_on_use
from lib_lora.models.prediction import settle_prediction
from lib_lora.text.tokenizer import Tokenizer

CPU = torch.device("cpu")


def load_model(
    path: Path | str,
    *,
    vae_path: Path | str | None = None,
    device: torch.device | str = CPU,
    compute_dtype: torch.dtype = torch.float32,
    host_clip_folder: Path | None = None,
    keep_weights: bool = False,
) -> DiffusionModel:
    """The model of a checkpoint of any format, its tensors memory maps of the files.

    Args:
        vae_path: a VAE of any format that replaces the checkpoint's own.
        device: where the modules live; on the CPU nothing is copied.
        compute_dtype: of the activations.
        host_clip_folder: the host's folder with CLIP's vocabulary.
        keep_weights: keep half-precision weights as they are and cast them at each use (less memory), even on
            the CPU, where they are otherwise cast once (faster).

    Raises:
        StudioError: the file is missing, broken, no checkpoint, or of a family that cannot be trained.
    """
    path = Path(path)
    checkpoint = open_checkpoint(path)
    facts = checkpoint.facts
    config = yaml_beside(path) if facts is None else folder_config(facts)
    model = build_model(
        checkpoint.tensors,
        config,
        name=checkpoint.name,
        file=path,
        family=None if facts is None else facts.family,
        host_clip_folder=host_clip_folder,
        compute_dtype=compute_dtype,
    )
    model.path, model.notes = path, checkpoint.notes
    if vae_path is not None:
        model.vae_path = Path(vae_path)
        model.vae = _load_vae(model.vae_path, config or published_config(model.family))
    device = torch.device(device)
    for module in model.modules():
        _place(module, device, compute_dtype, cast=module is model.vae or (device.type == "cpu" and not keep_weights))
    model.device = device
    found = find_prediction(
        checkpoint.tensors,
        checkpoint.metadata,
        parameterization=None if config is None else config.parameterization,
        scheduler=None if facts is None else facts.scheduler,
        file=path,
    )
    settle_prediction(model, found)
    return model


def build_model(
    tensors: Mapping[str, torch.Tensor],
    config: ModelYaml | None,
    *,
    name: str,
    file: object,
    family: Family | None = None,
    host_clip_folder: Path | None = None,
    tokenizers: list[Tokenizer] | None = None,
    compute_dtype: torch.dtype = torch.float32,
) -> DiffusionModel:
    """A model whose parameters ARE the given tensors: a file's memory map or a live module's storage.

    What its UNet predicts is still open: epsilon is assumed.

    Args:
        tensors: an LDM or sgm state dict, whole keys.
        config: what tensors cannot tell; None takes what is published of the family.
        name: the checkpoint's name.
        file: named in errors.
        family: where names and shapes do not tell it.
        tokenizers: the host's own; without them the vocabulary is looked for.
    """
    detected = detect_family(shapes_of(tensors), file)
    family = family or detected
    config = config or published_config(family)
    keys = list(tensors)
    parts = text_parts(family)
    encoders = [
        _text_encoder(part_tensors(tensors, part, keys), config, index, family, file)
        for index, part in enumerate(parts)
    ]
    if tokenizers is None:
        tokenizers = [_tokenizer(config, index, family, host_clip_folder) for index in range(len(parts))]
    pooled_width = encoders[-1].config.projection_dim if family is Family.SDXL else None
    return DiffusionModel(
        family=family,
        unet=build_unet(part_tensors(tensors, Part.UNET, keys), config, file, pooled_width),
        vae=build_vae(part_tensors(tensors, Part.VAE, keys), config, file),
        text_encoders=encoders,
        tokenizers=tokenizers,
        base_alphas_cumprod=scaled_linear_alphas_cumprod(config.beta_start, config.beta_end),
        prediction_type=EPSILON,
        device=CPU,
        compute_dtype=compute_dtype,
        name=name,
    )


def _text_encoder(
    tensors: Mapping[str, torch.Tensor], config: ModelYaml, index: int, family: Family, file: object
) -> torch.nn.Module:
    """One text encoder from the tensors of its part, in whichever layout these are."""
    named = text_tensors(tensors)
    if family is Family.SD2 and config.penultimate and ldm.is_open_clip(tensors):
        named = without_last_layer(named)
    try:
        arguments = text_config(config.text_folder(index), shapes_of(named), open_clip=_is_open_clip(family, index))
    except KeyError as error:
        raise StudioError(
            f"text encoder {index + 1} is incomplete (no {error})", file=file, allowed="a whole checkpoint"
        ) from error
    return build_text_encoder(named, arguments, file, with_projection=family is Family.SDXL and index == 1)


def _is_open_clip(family: Family, index: int) -> bool:
    """Whether the encoder is OpenCLIP's (GELU, filled with 0) and not OpenAI's (quick GELU, filled with the end)."""
    return family is Family.SD2 or (family is Family.SDXL and index == 1)


def _tokenizer(config: ModelYaml, index: int, family: Family, host_clip_folder: Path | None) -> Tokenizer:
    """OpenAI's vocabulary serves every encoder; OpenCLIP's chunks are filled with 0 after the end.

    The WebUI (sd_hijack_open_clip.py) and sd-scripts (strategy_sd.py, strategy_sdxl.py) fill so too.
    """
    folder = config.vocabulary_folder or config.text_folder(index) or config.text_folder(0)
    pad_id = 0 if _is_open_clip(family, index) else None
    return Tokenizer.from_folder(vocabulary_folder(folder, host_clip_folder), pad_id=pad_id)


def _load_vae(path: Path, config: ModelYaml) -> torch.nn.Module:
    tensors = open_vae(path)
    check_vae(shapes_of(tensors), path)
    return build_vae(tensors, config, path)


def _place(module: torch.nn.Module, device: torch.device, dtype: torch.dtype, *, cast: bool) -> None:
    """Move to the device (a no-op for what is there) and see to the weights' precision."""
    # torch's own method: diffusers' warns of layers that should stay in single precision, of which there are none.
    torch.nn.Module.to(module, device=device, dtype=dtype if cast else None)
    align_parameters(module)
    cast_on_use(module, dtype)
