"""What the WebUI has loaded. Apart from the bridge to it, which loads diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.hosts.webui.compat_forge import added_vae, reload_model


def loaded_model() -> Any | None:
    """The WebUI's loaded model, without making it load one; None where there is none that we know."""
    from modules import sd_models

    sd_model = sd_models.model_data.sd_model
    known = any(getattr(sd_model, f"is_{family}", False) for family in ("sd1", "sd2", "sdxl"))
    return sd_model if known and not getattr(sd_model, "is_ssd", False) else None


def loaded_vae() -> Path | None:
    """The VAE's own file; None where it is the checkpoint's."""
    from modules import sd_vae

    path = sd_vae.loaded_vae_file or added_vae()
    return Path(path) if path else None


def load_chosen() -> Any:
    """Make the WebUI load the checkpoint that its settings name, as each picture of its own does; wants the turn.

    Returns:
        what its list says of it.

    Raises:
        StudioError: it cannot.
    """
    from modules import sd_models, shared

    _ = shared.sd_model  # after the WebUI's start it may still be loading, and cannot do so twice at once
    try:
        info = sd_models.select_checkpoint()
        reload_model(info, anew=False)
    except Exception as error:  # whatever the WebUI and its libraries raise of a file
        raise StudioError(f"the WebUI cannot load its checkpoint: {error}", field="checkpoint") from error
    return info


def load_checkpoint(info: Any, *, anew: bool = False) -> None:
    """Make the WebUI load a checkpoint of its list; wants the turn.

    Args:
        anew: although it is loaded: somebody has changed its weights.

    Raises:
        StudioError: it cannot; its settings name the one before.
    """
    from modules import shared

    before = shared.opts.data.get("sd_model_checkpoint")
    shared.opts.data["sd_model_checkpoint"] = info.title
    try:
        reload_model(info, anew=anew)
    except Exception as error:  # whatever the WebUI and its libraries raise of a file
        shared.opts.data["sd_model_checkpoint"] = before
        raise StudioError(f"the WebUI cannot load it: {error}", file=info.filename) from error
