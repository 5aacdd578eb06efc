"""What the WebUI remembers of LoRA files and leaves of them in the weights (its built-in extension Lora)."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import LoraCheck
from lib_lora.files.lora_file import LoraFile
from lib_lora.hosts.webui import compat_forge
from lib_lora.hosts.webui.compat_forge import forget_files, is_forge

_PARTS = ("q_proj", "k_proj", "v_proj", "out_proj")  # of open_clip's attention, which is one module in the WebUI
_PART = re.compile(rf"(.*)_({'|'.join(_PARTS)})$")
_LATENT_SIZE = 16


class Place(NamedTuple):
    """Where the WebUI applies a LoRA's module: a layer, or of an attention the part named."""

    layer: torch.nn.Module
    part: str | None = None


def networks_module() -> Any | None:
    """The module of the WebUI's extension, or None where that is switched off."""
    return sys.modules.get("networks")


def not_acting(names: Sequence[str]) -> list[str]:
    """A sentence on each LoRA that the WebUI left out of the picture that it made last. Wants the turn.

    Of a file that it cannot read, or of which no layer is the loaded model's, it says nothing itself.
    """
    networks = networks_module()
    if networks is None:
        return ["the WebUI's built-in extension Lora is switched off"] if names else []
    acting = {network.name: network for network in networks.loaded_networks}
    faults = [f"<lora:{name}>: the WebUI could not load it" for name in names if name not in acting]
    if hasattr(networks, "module_types"):  # Forge's networks have no modules
        empty = [name for name, network in acting.items() if not (network.modules or network.bundle_embeddings)]
        faults += [f"<lora:{name}>: the loaded model has none of its layers" for name in names if name in empty]
    return faults


def undo_loras(sd_model: Any) -> None:
    """Take out of the weights what the last prompt's LoRAs left in them, and let the WebUI know.

    After a generation with ``<lora:...>`` the weights stay merged until one without it. The names that a layer
    believes to be applied are reset too: else the next prompt with that LoRA would silently have none.
    """
    networks = networks_module()
    if networks is None or is_forge(sd_model):
        return
    networks.load_networks([])
    for layer in sd_model.modules():
        if _has_backup(layer):
            with torch.no_grad():  # the WebUI's parameters require gradients, and this writes in place
                networks.network_restore_weights_from_backup(layer)
            layer.network_current_names = ()


def _has_backup(layer: torch.nn.Module) -> bool:
    """Whether the WebUI keeps a copy of the layer's own weights, perhaps on the CPU."""
    return any(getattr(layer, f"network_{name}_backup", None) is not None for name in ("weights", "bias"))


def place_of(sd_model: Any, key: str) -> Place | None:
    """Where the WebUI applies the module that kohya's files call ``key``; as in ``networks.load_network``."""
    networks, layers = networks_module(), sd_model.network_layer_mapping
    name = networks.convert_diffusers_name_to_compvis(key, "model_transformer_resblocks" in layers)
    name = name.replace("lora_unet", "diffusion_model").replace("lora_te1_text_model", "0_transformer_text_model")
    match = _PART.match(name)
    attention = layers.get(match[1]) if match else None
    if isinstance(attention, torch.nn.MultiheadAttention):
        return Place(attention, match[2])
    return Place(layers[name]) if name in layers else None


def refresh(path: Path, sd_model: Any | None) -> None:
    """Let the WebUI see a new or changed file. Wants the turn: what it has loaded of the file is taken out.

    Its list is read again; an overwritten file that it has in memory is forgotten, and so are the layers' names, by
    which it would take the old weights for the new ones.
    """
    networks = networks_module()
    if networks is None:
        return
    networks.list_available_networks()
    for name in [name for name, network in networks.networks_in_memory.items() if _is_of(network, path)]:
        networks.networks_in_memory.pop(name, None)
    if sd_model is not None and is_forge(sd_model):
        forget_files(networks, sd_model)
    elif sd_model is not None and any(_is_of(network, path) for network in networks.loaded_networks):
        undo_loras(sd_model)


def _is_of(network: Any, path: Path) -> bool:
    return os.path.realpath(network.network_on_disk.filename) == os.path.realpath(path)


def check(path: Path, sd_model: Any) -> LoraCheck:
    """Load a file by the WebUI's own loader and compare one prediction with and without it. Wants the turn.

    Raises:
        StudioError: the WebUI cannot load or apply it.
    """
    if is_forge(sd_model):
        return compat_forge.check(path, sd_model)
    networks = networks_module()
    if networks is None:
        raise StudioError("the WebUI's built-in extension Lora is switched off", file=path)
    keys = list(LoraFile.read(path).tensors)
    network = _load(networks, path)
    applied = set(_applied(network))
    unmatched = [key for key in keys if key.partition(".")[0] not in applied]
    undo_loras(sd_model)
    kept = {layer for layer in sd_model.modules() if _has_backup(layer)}
    without = _predict(sd_model)
    try:
        networks.loaded_networks.append(network)
        networks.extra_network_lora.errors.clear()
        difference = (_predict(sd_model) - without).norm() / without.norm()
        failed = sum(networks.extra_network_lora.errors.values())
    finally:
        networks.extra_network_lora.errors.clear()
        undo_loras(sd_model)
        for layer in sd_model.modules():
            if layer not in kept and _has_backup(layer):
                networks.network_reset_cached_weight(layer)  # these copies are ours: a second model in memory
    if failed:
        raise StudioError(
            f"the WebUI could not apply it to {failed} layers", file=path, allowed="a LoRA of the loaded model's family"
        )
    return LoraCheck(len(keys), len(keys) - len(unmatched), unmatched, float(difference))


def _load(networks: Any, path: Path) -> Any:
    try:
        on_disk = networks.network.NetworkOnDisk(path.stem, str(path))
        return networks.load_network(path.stem, on_disk)
    except Exception as error:  # whatever the WebUI and its libraries raise of a file
        raise StudioError(f"the WebUI cannot load it: {error}", file=path) from error


def _applied(network: Any) -> Iterator[str]:
    """The file's modules that the WebUI applies: of open_clip's attention all four parts or none."""
    for name, module in network.modules.items():
        match = _PART.match(name)
        is_part = match and isinstance(getattr(module, "sd_module", None), _ATTENTION_LAYERS)
        if not is_part or all(f"{match[1]}_{part}" in network.modules for part in _PARTS):
            yield module.network_key.partition(".")[0]


# The layer that the WebUI names for q, k and v, and the one for the output.
_ATTENTION_LAYERS = (torch.nn.MultiheadAttention, torch.nn.modules.linear.NonDynamicallyQuantizableLinear)


def _predict(sd_model: Any) -> torch.Tensor:
    """The UNet's answer to some noise and a text, float32 on the CPU, computed as for a picture."""
    from modules import devices, prompt_parser

    channels = sd_model.model.diffusion_model.input_blocks[0][0].weight.shape[1]  # 9 for inpainting
    shape = (1, channels, _LATENT_SIZE, _LATENT_SIZE)
    noise = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(1))
    latents, beside = noise[:, : sd_model.latent_channels], noise[:, sd_model.latent_channels :]
    size_px = 8 * _LATENT_SIZE
    text = prompt_parser.SdConditioning(["a picture"], width=size_px, height=size_px)
    with torch.no_grad(), devices.autocast():
        encoded = prompt_parser.get_learned_conditioning(sd_model, text, 20)[0][0].cond
        if isinstance(encoded, dict):
            conditioning = {name: value[None] for name, value in encoded.items()}
        else:
            conditioning = {"c_crossattn": [encoded[None]]}
        if beside.numel():
            conditioning["c_concat"] = [_as_unet(beside)]
        timestep = torch.tensor([500], device=devices.device)
        prediction = sd_model.apply_model(_as_unet(latents), timestep, conditioning)
    return prediction.float().cpu()


def _as_unet(tensor: torch.Tensor) -> torch.Tensor:
    from modules import devices

    return tensor.to(devices.device, devices.dtype_unet)
