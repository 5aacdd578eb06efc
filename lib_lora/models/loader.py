"""From a checkpoint file, or from live tensors, to a ``DiffusionModel``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from lib_lora.arch import ldm
from lib_lora.arch.detect import describe, detect_family
from lib_lora.arch.family import Family, Part
from lib_lora.base.errors import StudioError
from lib_lora.files.safetensors_file import read_header
from lib_lora.models.build import build_text_encoder, build_unet, build_vae, part_tensors, shapes_of
from lib_lora.models.clip_assets import text_config, vocabulary_folder
from lib_lora.models.config_yaml import ModelYaml, yaml_beside
from lib_lora.models.model import DiffusionModel
from lib_lora.models.noise_schedule import scaled_linear_alphas_cumprod
from lib_lora.models.precision import cast_on_use
from lib_lora.text.tokenizer import Tokenizer

CPU = torch.device("cpu")
PREDICTION_TYPES = {"eps": "epsilon", "v": "v_prediction"}


def load_model(
    path: Path | str,
    *,
    vae_path: Path | str | None = None,
    device: torch.device | str = CPU,
    compute_dtype: torch.dtype = torch.float32,
    host_clip_folder: Path | None = None,
    keep_weights: bool = False,
) -> DiffusionModel:
    """The model of a ``.safetensors`` checkpoint, its tensors a memory map of the file.

    Args:
        vae_path: a VAE file that replaces the checkpoint's own.
        device: where the modules live; on the CPU nothing is copied.
        compute_dtype: of the activations.
        host_clip_folder: the host's folder with CLIP's vocabulary.
        keep_weights: keep half-precision weights as they are and cast them at each use (less memory), even on
            the CPU, where they are otherwise cast once (faster).

    Raises:
        StudioError: the file is missing, broken, no checkpoint, or of a family that is not supported.
    """
    path = Path(path)
    tensors = open_tensors(path)
    config = yaml_beside(path)
    model = build_model(
        tensors, config, name=path.stem, file=path, host_clip_folder=host_clip_folder, compute_dtype=compute_dtype
    )
    model.path = path
    if vae_path is not None:
        model.vae_path = Path(vae_path)
        model.vae = _load_vae(model.vae_path, config)
    device = torch.device(device)
    for module in model.modules():
        _place(module, device, compute_dtype, cast=module is model.vae or (device.type == "cpu" and not keep_weights))
    model.device = device
    return model


def build_model(
    tensors: Mapping[str, torch.Tensor],
    config: ModelYaml,
    *,
    name: str,
    file: object,
    host_clip_folder: Path | None = None,
    tokenizer: Tokenizer | None = None,
    compute_dtype: torch.dtype = torch.float32,
) -> DiffusionModel:
    """A model whose parameters ARE the given tensors: a file's memory map or a live module's storage.

    Args:
        tensors: an LDM state dict, whole keys.
        config: what tensors cannot tell.
        name: the checkpoint's name.
        file: named in errors.
        tokenizer: the host's own; without one the vocabulary is looked for.
    """
    family = detect_family(shapes_of(tensors), file)
    if family is not Family.SD1:
        raise StudioError(
            f"a checkpoint of the {family.value} family, which this version cannot use yet",
            file=file,
            allowed="an SD1 checkpoint (1.4, 1.5 and models made from them)",
        )
    keys = list(tensors)
    text = {ldm.text_key(key): t for key, t in part_tensors(tensors, Part.TEXT_ENCODER, keys).items()}
    arguments = text_config(config.clip_folder, shapes_of(text))
    if tokenizer is None:
        tokenizer = Tokenizer.from_folder(vocabulary_folder(config.clip_folder, host_clip_folder))
    if config.parameterization not in PREDICTION_TYPES:
        raise StudioError(
            "unknown parameterization",
            field="parameterization",
            file=config.path,
            came=config.parameterization,
            allowed=PREDICTION_TYPES,
        )
    return DiffusionModel(
        family=family,
        unet=build_unet(part_tensors(tensors, Part.UNET, keys), config, file),
        vae=build_vae(part_tensors(tensors, Part.VAE, keys), config, file),
        text_encoders=[build_text_encoder(text, arguments, file)],
        tokenizers=[tokenizer],
        alphas_cumprod=scaled_linear_alphas_cumprod(config.beta_start, config.beta_end),
        prediction_type=PREDICTION_TYPES[config.parameterization],
        device=CPU,
        compute_dtype=compute_dtype,
        name=name,
    )


def open_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a .safetensors file as a view of its memory map.

    Raises:
        StudioError: no such file, or not a whole .safetensors file.
    """
    if not path.is_file():
        raise StudioError("no such file", file=path, allowed="a .safetensors checkpoint")
    read_header(path)
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)


def _load_vae(path: Path, config: ModelYaml) -> torch.nn.Module:
    tensors = open_tensors(path)
    if any(key.startswith(Part.VAE.value) for key in tensors):
        tensors = part_tensors(tensors, Part.VAE)
    if "decoder.conv_in.weight" not in tensors or "encoder.down.0.block.0.conv1.weight" not in tensors:
        raise StudioError(
            f"this file holds {describe(shapes_of(tensors))}",
            field="vae",
            file=path,
            allowed="a VAE in Stable Diffusion's layout",
        )
    return build_vae(tensors, config, path)


def _place(module: torch.nn.Module, device: torch.device, dtype: torch.dtype, *, cast: bool) -> None:
    """Move to the device (a no-op for what is there) and see to the weights' precision."""
    # torch's own method: diffusers' warns of layers that should stay in single precision, of which there are none.
    torch.nn.Module.to(module, device=device, dtype=dtype if cast else None)
    cast_on_use(module, dtype)
