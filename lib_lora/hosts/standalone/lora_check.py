"""What our own loader makes of a LoRA file: ``python -m lib_lora.hosts.standalone.lora_check CHECKPOINT LORA``."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from lib_lora.adapters.network import Network
from lib_lora.adapters.save import read_tensors
from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import LoraCheck
from lib_lora.base.seeds import derive_seed
from lib_lora.models.device import choose_device
from lib_lora.models.loader import load_model
from lib_lora.models.model import DiffusionModel
from lib_lora.models.prompt import encode_prompt

_SIDE = 16  # latent pixels: enough for more than one at the UNet's deepest level
_TIMESTEP = 500
_PROMPT = "a picture"


def check_lora(model: DiffusionModel, path: Path) -> LoraCheck:
    """How many of a file's keys find their layers, and how much a prediction changes with it; the model stays as is.

    Raises:
        StudioError: the file is broken, or nothing in it fits this model.
    """
    tensors, _ = read_tensors(path)
    network = Network.from_file_tensors(model.unet, model.text_encoders, tensors, strict=False)
    network.to(model.device).eval()
    without = _prediction(model)
    network.attach()
    try:
        change = float((_prediction(model) - without).norm() / without.norm())
    finally:
        network.detach_from_model()
    unmatched = sorted(network.unmatched)
    return LoraCheck(len(tensors), len(tensors) - len(unmatched), unmatched, change)


@torch.no_grad()
def _prediction(model: DiffusionModel) -> torch.Tensor:
    """[1, 4, 16, 16] of fixed noise and a fixed text."""
    generator = torch.Generator().manual_seed(derive_seed(0, "lora check"))
    noisy = torch.randn(1, model.latent_channels, _SIDE, _SIDE, generator=generator).to(model.device)
    masked = torch.zeros(1, 1 + model.latent_channels, _SIDE, _SIDE, device=model.device)
    size = 8.0 * _SIDE
    sizes = torch.tensor([[size, size, 0, 0, size, size]], device=model.device)
    return model.predict(
        noisy,
        torch.tensor([_TIMESTEP], device=model.device),
        encode_prompt(model, _PROMPT).to(model.device, noisy.dtype),
        sizes if model.family is Family.SDXL else None,
        masked if model.inpainting else None,
    )


def main(arguments: Sequence[str]) -> int:
    """Print the check as a line of JSON."""
    checkpoint, lora = map(Path, arguments)
    try:
        model = load_model(checkpoint, device=choose_device("auto"), keep_weights=True)
        print(json.dumps(dataclasses.asdict(check_lora(model, lora))))
    except StudioError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
