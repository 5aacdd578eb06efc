"""Small LoRAs for the tiny SD1 checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

# Names in LoRA files, and the layers' shapes.
POINT, TEXT = "lora_unet_mid_block_attentions_0_proj_in", "lora_te_text_model_encoder_layers_0_mlp_fc1"
SHAPES = {POINT: (64, 64, 1, 1), TEXT: (64, 32)}


def lora_tensors(rank: int = 4, seed: int = 0, scale: float = 0.1) -> dict[str, Tensor]:
    """A change of one layer of the UNet and one of the text encoder, with random singular values."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for key, (out, size, *kernel) in SHAPES.items():
        tensors[f"{key}.lora_up.weight"] = scale * torch.randn(out, rank, *kernel, generator=generator)
        tensors[f"{key}.lora_down.weight"] = torch.randn(rank, size, *kernel, generator=generator)
        tensors[f"{key}.alpha"] = torch.tensor(float(rank))
    return tensors


def write_lora(path: Path, metadata: dict[str, str] | None = None, **options: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(lora_tensors(**options), str(path), metadata)
    return path


def write_tuned(checkpoint: Path, path: Path) -> Path:
    """A copy of a checkpoint whose middle block is another one, and whose text encoder is."""
    tensors = load_file(checkpoint)
    generator = torch.Generator().manual_seed(9)
    for key, tensor in tensors.items():
        if key.endswith("weight") and tensor.dim() > 1 and (".middle_block.1." in key or ".layers.0.mlp" in key):
            tensors[key] = tensor + 0.1 * torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
    save_file(tensors, str(path))
    return path
