"""What a LoRA says of its own training: our own metadata, and those of sd-scripts and of the GUIs around it."""

from __future__ import annotations

from pathlib import Path

from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import Host
from lib_lora.files.safetensors_file import read_header
from lib_lora.jobs.imports.reader import Reader
from lib_lora.jobs.imports.taken import Taken, understood

_PREFIX = "ss_"


def options_from_lora(path: Path, host: Host) -> Taken:
    """What the metadata of a LoRA file say of our options.

    Raises:
        StudioError: it is no .safetensors file, or says nothing of its training.
    """
    header = read_header(path)
    own = {key[len(_PREFIX) :]: value for key, value in header.metadata.items() if key.startswith(_PREFIX)}
    if not own:
        raise StudioError("says nothing of how it was trained", file=path, allowed="a LoRA with ss_ metadata")
    with understood("a trainer", file=path):
        taken = Reader(host, _PREFIX).read(own)
    taken.source = "a LoRA's metadata"
    unet, text = (any(key.startswith(prefix) for key in header.tensors) for prefix in ("lora_unet_", "lora_te"))
    if unet or text:  # the tensors alone say which parts were trained
        taken.values |= {"network_train_unet_only": not text, "network_train_text_encoder_only": not unet}
    return taken
