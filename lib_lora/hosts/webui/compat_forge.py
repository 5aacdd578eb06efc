"""What differs in Forge (lllyasviel, dfdcbab) and reForge (Panchovix, 3b56b26), whose backends keep ``forge_objects``.

Written by reading, not tried. These backends load under ``torch.inference_mode``, keep weights on the card or off it as
they see fit, change them there for LoRAs and may hold them quantised: such tensors cannot be shared. A job there reads
the checkpoint's file, and the backend's own models leave the card first.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lib_lora.base.protocols import LoraCheck
from lib_lora.files.lora_file import LoraFile

# Forge's module of a thing, and reForge's.
_MEMORY = ("backend.memory_management", "ldm_patched.modules.model_management")
_LORA = ("backend.patcher.lora", "ldm_patched.modules.lora")


def is_forge(sd_model: Any) -> bool:
    return hasattr(sd_model, "forge_objects")


def free_card() -> None:
    """The backend's models go to main memory; it fetches them again for the next picture."""
    _module(_MEMORY).unload_all_models()


def added_vae() -> str | None:
    """Forge's VAE among its "VAE / Text Encoder" files."""
    from modules import shared

    chosen = shared.opts.data.get("forge_additional_modules") or ()
    return next((path for path in chosen if "text_encoder" not in Path(path).parts), None)


def reload_model(info: Any, *, anew: bool) -> None:
    """Load the checkpoint that the settings name: Forge would do so with the next picture."""
    from modules import sd_models

    if not hasattr(sd_models, "forge_model_reload"):
        sd_models.reload_model_weights(info=info, forced_reload=anew)
        return
    from modules_forge import main_entry

    main_entry.refresh_model_loading_parameters()
    if anew:
        sd_models.model_data.forge_hash = ""  # of what is loaded: with the same it would load nothing
    sd_models.forge_model_reload()


def forget_files(networks: Any, sd_model: Any) -> None:
    """Read LoRA files anew, and apply them anew, with the next picture."""
    networks.load_lora_state_dict.cache_clear()
    sd_model.current_lora_hash = None


def check(path: Path, sd_model: Any) -> LoraCheck:
    """Which of a file's keys the backend knows; it computes nothing."""
    lora, objects = _module(_LORA), sd_model.forge_objects
    known = lora.model_lora_keys_unet(objects.unet.model, {})
    known = lora.model_lora_keys_clip(objects.clip.cond_stage_model, known)
    keys = list(LoraFile.read(path).tensors)
    unmatched = [key for key in keys if key.partition(".")[0] not in known]
    return LoraCheck(len(keys), len(keys) - len(unmatched), unmatched)


def _module(names: tuple[str, str]) -> Any:
    return next(sys.modules[name] for name in names if name in sys.modules)
