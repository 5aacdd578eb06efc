"""What the WebUI's settings and command line say: folders, defaults, who can reach the page."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lib_lora.base.protocols import Folders
from lib_lora.hosts.webui.loaded import loaded_vae
from lib_lora.hosts.webui.settings import read_settings

_ROOT = Path(__file__).resolve().parents[3]  # the extension's own folder


def usual_dataset_dirs() -> tuple[Path, ...]:
    """Where datasets may lie where the settings say nothing else."""
    return _data_path() / "datasets", _ROOT / "demo"


def folders() -> Folders:
    """Where people may read and write."""
    from modules import sd_models, sd_vae, shared

    opts = shared.cmd_opts
    files = (opts.ckpt, getattr(opts, "vae_path", None))  # Forge has no --vae-path
    named = [Path(file).parent for file in files if file and os.path.isfile(file)]
    models = _paths([sd_models.model_path, opts.ckpt_dir, sd_vae.vae_path, opts.vae_dir, *named])
    return Folders(read_settings().dataset_dirs or usual_dataset_dirs(), models, (lora_dir(), data_dir()))


def lora_dir() -> Path:
    from modules import shared

    return Path(shared.cmd_opts.lora_dir).absolute()


def checkpoint_dir() -> Path:
    """Where the WebUI's own merger writes (modules/extras.py)."""
    from modules import sd_models, shared

    return Path(shared.cmd_opts.ckpt_dir or sd_models.model_path).absolute()


def data_dir() -> Path:
    return _data_path() / "lora_studio"


def train_defaults() -> dict[str, Any]:
    """Our options as the WebUI is set: pictures are made with these, so a LoRA is trained with them."""
    from modules import shared

    path = loaded_vae()
    vae = {"vae": path} if path else {}
    pause = {"pause_on_generate": read_settings().pause_on_generate}
    return {"clip_skip": int(shared.opts.CLIP_stop_at_last_layers), **vae, **pause}


def exposed() -> bool:
    """Whether others than this machine's user can reach the page."""
    from modules import shared

    opts = shared.cmd_opts
    if read_settings().names or any(getattr(opts, name, None) for name in ("listen", "share", "ngrok")):
        return True
    # Gradio reads the variable; without its pages the WebUI's API listens to everybody (webui.py, api_only).
    name = opts.server_name or os.environ.get("GRADIO_SERVER_NAME") or ("0.0.0.0" if opts.nowebui else "127.0.0.1")
    return not _is_loopback(name)


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name == "localhost"


def _data_path() -> Path:
    from modules import paths

    return Path(paths.data_path).absolute()


def _paths(names: Iterable[str | os.PathLike | None]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(Path(name).absolute() for name in names if name))
