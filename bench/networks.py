"""What a training step takes with each network type, beside LoRA's.

    python bench/networks.py --types LoHa LoKr

One process makes the UNet and the text encoder of Stable Diffusion 1.5's exact shapes with random weights, and trains
them for a few steps with one type after the other: forward, backward and AdamW, latents of 128 px, batch 1. What counts
is the ratio to LoRA, of the processors' time, which others at work on the machine hardly change. Linux only: memory is
read from /proc.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import re
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from full_size import SIZES
from torch import nn

from lib_lora.adapters.network import Network
from lib_lora.adapters.spec import NetworkSpec

TYPES = {
    "LoRA": NetworkSpec(16, 16),
    "LoHa": NetworkSpec(16, 16, network_type="LoHa"),
    "LoKr": NetworkSpec(16, 16, network_type="LoKr"),
    "LoKr factor 8": NetworkSpec(16, 16, network_type="LoKr", factor=8),
    "LoRA with DoRA": NetworkSpec(16, 16, dora=True),
    "LoHa with DoRA": NetworkSpec(16, 16, network_type="LoHa", dora=True),
    "LoKr with DoRA": NetworkSpec(16, 16, network_type="LoKr", dora=True),
    "IA3": NetworkSpec(16, 16, network_type="IA3"),
    "DyLoRA": NetworkSpec(16, 16, network_type="DyLoRA"),
    "GLoRA": NetworkSpec(16, 16, network_type="GLoRA"),
    "Diag-OFT": NetworkSpec(16, 16, network_type="Diag-OFT"),
    "BOFT": NetworkSpec(16, 16, network_type="BOFT"),
    "LoRA and norms": NetworkSpec(16, 16, train_norm=True),
    "Full": NetworkSpec(16, 16, network_type="Full"),
}


@dataclass(frozen=True)
class Measured:
    seconds: float
    peak_mb: float
    parameters: int


def make_models(size: str) -> tuple[nn.Module, list[nn.Module]]:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    shape = SIZES[size]
    with torch.device("meta"):
        models = [UNet2DConditionModel(**shape.unet)]
        models += [CLIPTextModel(CLIPTextConfig(**config)) for config in shape.text_encoders]
    generator = torch.Generator().manual_seed(0)
    for model in models:
        model.to_empty(device="cpu").requires_grad_(False)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
            else:
                parameter.fill_(1.0)
        for module in model.modules():
            if hasattr(module, "position_ids"):
                module.position_ids = torch.arange(module.position_ids.shape[-1])[None]
    return models[0], models[1:]


def measure(unet: nn.Module, encoders: list[nn.Module], spec: NetworkSpec, steps: int) -> Measured:
    """The median step without the first."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what the last type has left behind
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from now
    network = Network.create(unet, encoders, spec, seed=1).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    latents, ids = torch.randn(1, 4, 16, 16), torch.randint(0, 49000, (1, 77))
    network.attach()
    seconds = []
    try:
        for step in range(steps + 1):
            began = time.process_time()
            network.set_step(step)
            text = encoders[0](ids).last_hidden_state
            loss = unet(latents, torch.tensor([500]), text).sample.square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.process_time() - began)
    finally:
        network.detach_from_model()
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    count = sum(parameter.numel() for parameter in network.parameters())
    return Measured(statistics.median(seconds[1:]), int(peak[1]) / 1024, count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", nargs="*", default=list(TYPES), help="; ".join(TYPES))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--size", choices=("sd15", "tiny-sd15"), default="sd15")
    args = parser.parse_args()
    models = make_models(args.size)
    print(f"{'':<16}{'s, CPU':>10}{'ratio':>8}{'peak MB':>10}{'ratio':>8}{'parameters':>14}")
    for _ in range(args.rounds):
        for name in args.types:
            lora = measure(*models, TYPES["LoRA"], args.steps)  # each time anew: a busy machine changes meanwhile
            found = lora if name == "LoRA" else measure(*models, TYPES[name], args.steps)
            print(
                f"{name:<16}{found.seconds:>10.2f}{found.seconds / lora.seconds:>8.2f}{found.peak_mb:>10.0f}"
                f"{found.peak_mb / lora.peak_mb:>8.2f}{found.parameters:>14,}",
                flush=True,
            )


if __name__ == "__main__":
    main()
