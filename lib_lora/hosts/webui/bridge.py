"""The model that the WebUI has loaded, borrowed for a while.

Written against AUTOMATIC1111 v1.10.1 (commit 82a973c0).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lib_lora.base.errors import StudioError
from lib_lora.models.config_yaml import read_model_yaml
from lib_lora.models.loader import PREDICTION_TYPES, build_model
from lib_lora.models.model import DiffusionModel
from lib_lora.models.precision import cast_on_use
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
    for key, tensor in sd_model.state_dict().items():
        key = key.replace("cond_stage_model.wrapped.", "cond_stage_model.")
        tensors[key.replace("token_embedding.wrapped.", "token_embedding.")] = tensor
    return tensors


def _as_model(sd_model: Any, compute_dtype: torch.dtype) -> DiffusionModel:
    info = sd_model.sd_checkpoint_info
    config = read_model_yaml(Path(sd_model.used_config))
    model = build_model(
        live_tensors(sd_model),
        config,
        name=info.model_name,
        file=info.filename,
        tokenizer=Tokenizer.from_hf(sd_model.cond_stage_model.wrapped.tokenizer),
        compute_dtype=compute_dtype,
    )
    model.path = Path(info.filename)
    model.device = next(model.unet.parameters()).device
    model.alphas_cumprod = sd_model.alphas_cumprod.detach().double().cpu()
    model.prediction_type = PREDICTION_TYPES[sd_model.parameterization]
    for module in model.modules():
        cast_on_use(module, compute_dtype)
    return model
