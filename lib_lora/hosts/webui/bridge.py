"""The model that the WebUI has loaded, borrowed for a while.

Written against AUTOMATIC1111 v1.10.1 (commit 82a973c0).
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lib_lora.arch.prediction import EPSILON, V_PREDICTION, Prediction
from lib_lora.base.errors import StudioError
from lib_lora.models.config_yaml import read_model_yaml
from lib_lora.models.loader import build_model
from lib_lora.models.model import DiffusionModel
from lib_lora.models.precision import cast_on_use
from lib_lora.models.prediction import settle_prediction
from lib_lora.text.tokenizer import Tokenizer


@contextlib.contextmanager
def borrowed_model(compute_dtype: torch.dtype = torch.float32) -> Iterator[DiffusionModel]:
    """The loaded checkpoint as our modules over the WebUI's own tensors, no second copy.

    Holds the WebUI's queue lock: nothing else uses or switches the model meanwhile. What a prompt's LoRA left in
    the weights is undone first. The WebUI's modules, their flags and weights are not touched.

    Raises:
        StudioError: no model is loaded, or one that cannot be used.
    """
    from modules import shared
    from modules.call_queue import queue_lock

    with queue_lock:
        sd_model = shared.sd_model
        if sd_model is None or not hasattr(sd_model, "cond_stage_model"):
            raise StudioError("the WebUI has no model loaded", field="checkpoint", allowed="choose a checkpoint first")
        undo_networks(sd_model)
        yield _as_model(sd_model, compute_dtype)


def undo_networks(sd_model: Any) -> None:
    """Take out of the weights what the last prompt's LoRAs left in them, and let the WebUI know.

    After a generation with ``<lora:...>`` the weights stay merged until one without it. The names that a layer
    believes to be applied are reset too: else the next prompt with that LoRA would silently have none.
    """
    networks = sys.modules.get("networks")
    if networks is None:  # the built-in Lora extension is switched off
        return
    for layer in sd_model.modules():
        backups = (getattr(layer, name, None) for name in ("network_weights_backup", "network_bias_backup"))
        if any(backup is not None for backup in backups):
            with torch.no_grad():  # the WebUI's parameters require gradients, and this writes in place
                networks.network_restore_weights_from_backup(layer)
            layer.network_current_names = ()


def live_tensors(sd_model: Any) -> dict[str, torch.Tensor]:
    """The WebUI's tensors under the names that checkpoint files have; the storages are the WebUI's own."""
    tensors = {}
    # SDXL's encoders are there twice: the WebUI also calls the conditioner ``cond_stage_model``.
    twice = "cond_stage_model." if hasattr(sd_model, "conditioner") else None
    for key, tensor in sd_model.state_dict().items():
        if twice is None or not key.startswith(twice):
            tensors[_WRAPPER.sub(r"\1", key)] = tensor
    return tensors


# What the WebUI puts around text encoders and their embeddings (modules/sd_hijack.py).
_WRAPPER = re.compile(r"^(cond_stage_model\.|conditioner\.embedders\.\d+\.)wrapped\.|(?<=token_embedding\.)wrapped\.")


def host_options() -> dict[str, Any]:
    """What the WebUI's settings say of our options: pictures are made with these, so a LoRA is trained with them."""
    from modules import shared

    return {"clip_skip": int(shared.opts.CLIP_stop_at_last_layers)}


def _as_model(sd_model: Any, compute_dtype: torch.dtype) -> DiffusionModel:
    from modules import shared

    info = sd_model.sd_checkpoint_info
    config = read_model_yaml(Path(sd_model.used_config))
    model = build_model(
        live_tensors(sd_model),
        config,
        name=info.model_name,
        file=info.filename,
        tokenizers=[_tokenizer(encoder) for encoder in _text_encoders(sd_model)],
        compute_dtype=compute_dtype,
    )
    model.borrowed = True
    model.path = Path(info.filename)
    model.device = next(model.unet.parameters()).device
    # What the WebUI samples with; before its own rescaling, which it takes from the setting at each picture.
    alphas_cumprod = getattr(sd_model, "alphas_cumprod_original", sd_model.alphas_cumprod)
    model.base_alphas_cumprod = alphas_cumprod.detach().double().cpu()
    zero_terminal_snr = shared.opts.sd_noise_schedule == "Zero Terminal SNR"
    prediction_type = V_PREDICTION if sd_model.parameterization == "v" else EPSILON
    settle_prediction(model, Prediction(prediction_type, zero_terminal_snr, "the WebUI"))
    model.clip_l_skip = bool(shared.opts.sdxl_clip_l_skip)
    for module in model.modules():
        cast_on_use(module, compute_dtype)
    return model


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
