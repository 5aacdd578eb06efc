"""The model that the WebUI has loaded, as modules of our own over its tensors: no second copy.

Written against AUTOMATIC1111 v1.10.1 (commit 82a973c0).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lib_lora.arch.prediction import EPSILON, V_PREDICTION, Prediction
from lib_lora.hosts.webui.compat_forge import is_forge
from lib_lora.hosts.webui.loaded import loaded_vae
from lib_lora.models.config_yaml import read_model_yaml
from lib_lora.models.loader import build_model, load_model
from lib_lora.models.model import DiffusionModel
from lib_lora.models.precision import cast_on_use
from lib_lora.models.prediction import settle_prediction
from lib_lora.models.sharing import parameters_of, share
from lib_lora.text.tokenizer import Tokenizer

_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_SMALL, _SAMPLE = 1 << 14, 1 << 10  # numbers of a tensor that its checksum looks at on the CPU


def as_model(sd_model: Any, compute_dtype: torch.dtype = torch.float32) -> DiffusionModel:
    """The loaded checkpoint as our modules, whose parameters are the WebUI's own tensors.

    What the WebUI's modules are, their flags and hooks, is not touched. Parts that wait in main memory (--medvram)
    are taken to the card when they are needed, and on the WebUI's side they stay where they are.

    Weights in 8 bits are nothing to train on: their 16-bit copies are taken where the WebUI keeps any, and else the
    checkpoint's file, in which case nothing is shared; so it is with Forge's.

    Raises:
        StudioError: the model is of a kind that cannot be trained.
    """
    from modules import devices

    info, vae_path, tensors = sd_model.sd_checkpoint_info, loaded_vae(), live_tensors(sd_model)
    if not tensors or any(tensor.dtype in _FLOAT8 for tensor in tensors.values()):
        model = load_model(info.filename, vae_path=vae_path, device=devices.device, compute_dtype=compute_dtype)
    else:
        model = build_model(
            tensors,
            read_model_yaml(Path(sd_model.used_config)),
            name=info.model_name,
            file=info.filename,
            tokenizers=[_tokenizer(encoder) for encoder in _text_encoders(sd_model)],
            compute_dtype=compute_dtype,
        )
        model.borrowed, model.path, model.vae_path = True, Path(info.filename), vae_path
        model.device = torch.device(devices.device)
        for module in model.modules():
            cast_on_use(module, compute_dtype)
        parts = [parameters_of(module) for module in model.modules()]
        if any(tensor.device.type != model.device.type for part in parts for tensor in part.values()):
            model.resting = parts
    _take_settings(model, sd_model)
    return model


def live_tensors(sd_model: Any) -> dict[str, torch.Tensor]:
    """The WebUI's tensors under the names that checkpoint files have; the storages are the WebUI's own.

    None of them where they cannot be shared. A tensor that was made for inference alone is copied: what is saved for a
    backward pass must not be one.
    """
    tensors: dict[str, torch.Tensor] = {}
    if is_forge(sd_model):
        return tensors
    # SDXL's encoders are there twice: the WebUI also calls the conditioner ``cond_stage_model``.
    twice = "cond_stage_model." if hasattr(sd_model, "conditioner") else None
    half = dict(_half_copies(sd_model))
    for key, tensor in sd_model.state_dict().items():
        if twice is None or not key.startswith(twice):
            tensor = half.get(key, tensor)
            tensors[_WRAPPER.sub(r"\1", key)] = tensor.clone() if tensor.is_inference() else tensor
    return tensors


# What the WebUI puts around text encoders and their embeddings (modules/sd_hijack.py).
_WRAPPER = re.compile(r"^(cond_stage_model\.|conditioner\.embedders\.\d+\.)wrapped\.|(?<=token_embedding\.)wrapped\.")


def _half_copies(sd_model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """What the option "Cache FP16 weight for LoRA" keeps beside weights in 8 bits (modules/sd_models.py)."""
    for name, module in sd_model.named_modules():
        for parameter in ("weight", "bias"):
            copy = getattr(module, f"fp16_{parameter}", None)
            if copy is not None:
                yield f"{name}.{parameter}", copy


def checksums(sd_model: Any) -> list[int]:
    """One number for each tensor of the loaded model, the sum of its numbers' bits read as whole numbers.

    On a CUDA card of all numbers, which takes milliseconds. Elsewhere of all in small tensors and of some 1000 in large
    ones, spread evenly: another checkpoint, another VAE and a LoRA left in the weights change nearly all of them.
    """
    if is_forge(sd_model):
        return []  # nothing of it is lent
    return [_checksum(tensor.detach().reshape(-1)) for tensor in (*sd_model.parameters(), *sd_model.buffers())]


def _checksum(numbers: torch.Tensor) -> int:
    bits = numbers.view(_BITS[numbers.element_size()])
    if not bits.is_cuda and bits.numel() > _SMALL:
        # Not every n-th number: that might be the same corner of every kernel, and nothing but zeros.
        bits = bits[torch.arange(_SAMPLE, device=bits.device) * (bits.numel() - 1) // (_SAMPLE - 1)]
    return int(bits.sum(dtype=torch.int64))


def rebind(model: DiffusionModel, fresh: DiffusionModel) -> None:
    """Let the parameters of ``model`` be those of ``fresh``, a model of the same checkpoint; the modules stay.

    Adapters hang on the modules, and these must outlive what the WebUI does to its tensors in a pause.
    """
    for old, new in zip(model.modules(), fresh.modules()):
        share(old, parameters_of(new))
    model.resting = fresh.resting


def let_go(model: DiffusionModel) -> None:
    """Hold none of the tensors any more, lest the old weights stay in memory when the WebUI loads others."""
    model.resting = None
    for module in model.modules():
        share(module, {name: tensor.new_empty(0) for name, tensor in parameters_of(module).items()})


def _take_settings(model: DiffusionModel, sd_model: Any) -> None:
    """What the WebUI samples with: a LoRA is trained for it."""
    from modules import shared

    model.randn_source = shared.opts.randn_source
    if is_forge(sd_model):
        return
    # Before the WebUI's own rescaling, which it takes from the setting at each picture.
    alphas_cumprod = getattr(sd_model, "alphas_cumprod_original", sd_model.alphas_cumprod).detach().double().cpu()
    if not torch.allclose(model.base_alphas_cumprod, alphas_cumprod, rtol=1e-5, atol=0.0):
        model.base_alphas_cumprod = alphas_cumprod  # otherwise it is ours, rounded to float32
    zero_terminal_snr = shared.opts.sd_noise_schedule == "Zero Terminal SNR"
    prediction_type = V_PREDICTION if sd_model.parameterization == "v" else EPSILON
    settle_prediction(model, Prediction(prediction_type, zero_terminal_snr, "the WebUI"))
    model.clip_l_skip = bool(shared.opts.sdxl_clip_l_skip)


def _text_encoders(sd_model: Any) -> list[Any]:
    """The WebUI's text encoders; SDXL's conditioner also has embedders of sizes, which it leaves unwrapped."""
    conditioner = getattr(sd_model, "conditioner", None)
    if conditioner is None:
        return [sd_model.cond_stage_model]
    return [embedder for embedder in conditioner.embedders if hasattr(embedder, "wrapped")]


def _tokenizer(encoder: Any) -> Tokenizer:
    """The tokenizer that the WebUI uses with a text encoder (modules/sd_hijack_clip.py, sd_hijack_open_clip.py)."""
    if hasattr(encoder.wrapped, "tokenizer"):
        return Tokenizer.from_hf(encoder.wrapped.tokenizer)
    from modules.sd_hijack_open_clip import tokenizer

    return Tokenizer(
        tokenizer.encode,
        tokenizer.decode,
        tokenizer.encoder,
        bos_id=encoder.id_start,
        eos_id=encoder.id_end,
        pad_id=encoder.id_pad,
    )
