"""Which checkpoint a LoRA works best in, as its metadata tell those who use it."""

from __future__ import annotations

from pathlib import Path

from lib_lora.base.errors import StudioError
from lib_lora.files.safetensors_file import looks_like_safetensors, read_header
from lib_lora.weights.inspect import edit_metadata

HINT = "modelspec.usage_hint"
_WORDS, _APART = "works best in ", "; "


def note_checkpoint(lora: Path, checkpoint: str) -> str:
    """Say so in the file's usage hint, in place of what was said before; its other sentences stay.

    Args:
        checkpoint: its name.

    Returns:
        The whole hint.

    Raises:
        StudioError: the file can hold no metadata, or the name is none.
    """
    if not looks_like_safetensors(lora):
        raise StudioError("only .safetensors files hold metadata", file=lora)
    if not checkpoint.isprintable() or _APART.strip() in checkpoint:
        raise StudioError("cannot stand among sentences", field="checkpoint", came=checkpoint, allowed="another name")
    before = read_header(lora).metadata.get(HINT, "")
    others = [part for part in before.split(_APART) if part and not part.startswith(_WORDS)]
    hint = _APART.join([*others, f"{_WORDS}{checkpoint}"])
    edit_metadata(lora, [f"{HINT}={hint}"], [], None)
    return hint
