"""What the WebUI knows of checkpoint files, and what it keeps of them in memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.hosts.webui.loaded import load_checkpoint


def find(checkpoint: Path) -> Any:
    """The entry of the WebUI's list for a file; the list is read again where it has none.

    Raises:
        StudioError: it is not in the WebUI's folders.
    """
    info = _known(checkpoint)
    if info is None:
        read_list()
        info = _known(checkpoint)
    if info is None:
        raise StudioError(
            "the WebUI does not know this checkpoint", field="checkpoint", file=checkpoint, allowed="one of its list"
        )
    return info


def refresh(path: Path) -> None:
    """Let the WebUI see a new or changed file. Wants the turn.

    What it keeps of an overwritten file goes: the tensors that "Checkpoints to cache in RAM" holds back, and models
    beside the loaded one. The loaded model is loaded anew if it is of this file.

    Raises:
        StudioError: it cannot be loaded anew.
    """
    from modules import sd_models

    read_list()
    for info in [info for info in sd_models.checkpoints_loaded if _is_of(info, path)]:
        del sd_models.checkpoints_loaded[info]
    sd_model, models = sd_models.model_data.sd_model, getattr(sd_models.model_data, "loaded_sd_models", [])
    for model in [model for model in models if model is not sd_model and _is_of(model.sd_checkpoint_info, path)]:
        models.remove(model)
        sd_models.send_model_to_trash(model)
    if sd_model is not None and _is_of(getattr(sd_model, "sd_checkpoint_info", None), path):
        load_checkpoint(find(path), anew=True)


def read_list() -> None:
    """Read the WebUI's list again; the checkpoint that is chosen stays so.

    By itself the WebUI would choose that of ``--ckpt``; and one that was overwritten has lost the hash in its title,
    by which it was chosen: it would take the first of the list in its place.
    """
    from modules import sd_models, shared

    title = shared.opts.data.get("sd_model_checkpoint")
    chosen = sd_models.checkpoint_aliases.get(title)
    sd_models.list_models()
    again = _known(Path(chosen.filename)) if chosen is not None else None
    shared.opts.data["sd_model_checkpoint"] = title if again is None else again.title


def _known(path: Path) -> Any | None:
    from modules import sd_models

    return next((info for info in sd_models.checkpoints_list.values() if _is_of(info, path)), None)


def _is_of(info: Any | None, path: Path) -> bool:
    return info is not None and os.path.realpath(info.filename) == os.path.realpath(path)
