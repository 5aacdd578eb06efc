"""What differs between transformers 4.30 and 5."""

from __future__ import annotations

from typing import Any

from lib_lora.models.libraries import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection


def clip_text_model(
    arguments: dict[str, Any], with_projection: bool = False
) -> CLIPTextModel | CLIPTextModelWithProjection:
    """A text encoder on the current default device."""
    return (CLIPTextModelWithProjection if with_projection else CLIPTextModel)(CLIPTextConfig(**arguments))


def clip_key_prefix(encoder: Any) -> str:
    """What stands before ``encoder.layers...`` in the module's own keys: version 5 dropped ``text_model.``."""
    return "text_model." if hasattr(encoder, "text_model") else ""


def clip_text_body(text_encoder: Any) -> Any:
    """The module that holds ``embeddings``, ``encoder`` and ``final_layer_norm``: version 5 dropped ``text_model``."""
    return getattr(text_encoder, "text_model", text_encoder)
