"""The same prediction by the real WebUI with a LoRA file, and by our live adapters."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from lib_lora.adapters.network import Network
from lib_lora.adapters.save import save_network
from lib_lora.models.prompt import encode_captions

STRENGTHS = (1.0, 0.5)
PROMPT = "zorb, red dog"
LATENTS = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(8))
TIMESTEP = 421
SIZE_PX = (128, 192)  # height and width, of which SDXL is told


def by_the_webui(
    networks: Mapping[str, Network], checkpoint: Path, run_in_webui: Callable[..., None], folder: Path
) -> dict:
    """What ``webui_lora_driver.py`` says of each network's file, at each of the strengths and without any."""
    (folder / "data" / "Lora").mkdir(parents=True)
    for name, network in networks.items():
        save_network(folder / "data" / "Lora" / f"{name}.safetensors", network, "float", {})
    task = {
        "loras": list(networks),
        "strengths": STRENGTHS,
        "prompt": PROMPT,
        "latents": LATENTS.tolist(),
        "timestep": TIMESTEP,
        "size_px": SIZE_PX,
    }
    (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
    run_in_webui("webui_lora_driver.py", checkpoint, folder / "task.json", folder / "out.json", folder / "data")
    return json.loads((folder / "out.json").read_text(encoding="utf-8"))


def ours(model, network: Network | None, strength: float) -> torch.Tensor:
    if network is not None:
        network.attach()
        network.multiplier = strength
    try:
        with torch.no_grad():
            conditioning = encode_captions(model, [PROMPT])
            sizes = torch.tensor([[*SIZE_PX, 0, 0, *SIZE_PX]], dtype=torch.float32)
            return model.predict(LATENTS, torch.tensor([TIMESTEP]), conditioning, sizes)
    finally:
        if network is not None:
            network.detach_from_model()


def check_prediction(theirs: dict, model, network: Network, name: str, strength: float, least_change: float) -> None:
    """The WebUI's prediction with the file is ours with the live adapters, and the LoRA does something."""
    (values,) = [p["values"] for p in theirs["predictions"] if (p["lora"], p["strength"]) == (name, strength)]
    expected = torch.tensor(values)
    base = torch.tensor(theirs["predictions"][0]["values"])
    actual = ours(model, network, strength)
    assert float((expected - base).norm() / base.norm()) > least_change, "the LoRA must do something"
    error = float((actual - expected).norm() / expected.norm())
    print(f"{name} at {strength}: relative error {error:.1e}")
    assert error <= 1e-4
