"""The real WebUI computes with our LoRA files what our live adapters compute.

Wants ``SD_WEBUI_DIR`` (a checkout of A1111 v1.10.1) and ``SD_WEBUI_PYTHON`` (its interpreter).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lib_lora.adapters.network import Network
from lib_lora.adapters.save import save_network
from lib_lora.adapters.spec import NetworkSpec
from lib_lora.models.loader import load_model
from lib_lora.models.prompt import encode_captions

pytestmark = pytest.mark.webui

SPECS = {
    "lora": NetworkSpec(rank=3, alpha=2.0),
    "locon": NetworkSpec(rank=3, alpha=2.0, conv_rank=2, conv_alpha=1.0),
}
STRENGTHS = (1.0, 0.5)
PROMPT = "zorb, red dog"
LATENTS = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(8))
TIMESTEP = 421
SIZE_PX = (128, 192)  # height and width, of which SDXL is told


@pytest.fixture(scope="module", params=["SD1", "SD2", "SDXL"])
def checkpoint(request, webui_families) -> Path:
    return webui_families(request.param)


@pytest.fixture(scope="module")
def model(checkpoint):
    return load_model(checkpoint)


@pytest.fixture(scope="module")
def networks(model) -> dict[str, Network]:
    """Networks that change something: every matrix random."""
    made = {}
    for name, spec in SPECS.items():
        network = Network.create(model.unet, model.text_encoders, spec, seed=1)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        made[name] = network.eval()
    return made


@pytest.fixture(scope="module")
def theirs(checkpoint, networks, run_in_webui, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("lora")
    (folder / "data" / "Lora").mkdir(parents=True)
    for name, network in networks.items():
        save_network(folder / "data" / "Lora" / f"{name}.safetensors", network, "float", {})
    task = {
        "loras": list(SPECS),
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


@pytest.mark.parametrize("name", SPECS)
def test_the_webui_matches_every_key_of_our_files(theirs, networks, name):
    assert theirs["files"][name] == {"layers": len(networks[name]), "unmatched": [], "failed": 0}


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("name", SPECS)
def test_the_webuis_prediction_with_our_file_is_ours_with_live_adapters(theirs, model, networks, name, strength):
    (values,) = [p["values"] for p in theirs["predictions"] if (p["lora"], p["strength"]) == (name, strength)]
    expected = torch.tensor(values)
    base = torch.tensor(theirs["predictions"][0]["values"])
    actual = ours(model, networks[name], strength)
    assert float((expected - base).norm() / base.norm()) > 0.05, "the LoRA must do something"
    error = float((actual - expected).norm() / expected.norm())
    print(f"{name} at {strength}: relative error {error:.1e}")
    assert error <= 1e-4


def test_the_webuis_prediction_without_a_lora_is_ours(theirs, model):
    expected = torch.tensor(theirs["predictions"][0]["values"])
    assert float((ours(model, None, 1.0) - expected).norm() / expected.norm()) <= 1e-4
