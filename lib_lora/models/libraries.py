"""What is used of diffusers and transformers, imported in one place.

Both make their modules lazily and do not stand two threads that import them for the first time at once ("cannot import
name"). While one thread imports this module, Python lets others that want it wait.
"""

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

__all__ = [
    "AutoencoderKL",
    "CLIPTextConfig",
    "CLIPTextModel",
    "CLIPTextModelWithProjection",
    "UNet2DConditionModel",
]
