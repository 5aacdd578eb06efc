"""The real WebUI computes with our file of every network type what our live adapters compute.

Wants ``SD_WEBUI_DIR`` (a checkout of A1111 v1.10.1) and ``SD_WEBUI_PYTHON`` (its interpreter).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lib_lora.adapters.network import Network
from lib_lora.adapters.save import save_network
from lib_lora.adapters.spec import TEXT_ENCODER, UNET, NetworkSpec
from lib_lora.models.loader import load_model
from lib_lora.models.prompt import encode_captions

pytestmark = pytest.mark.webui

SPECS = {
    "loha": NetworkSpec(3, 2.0, network_type="LoHa"),
    "loha-tucker": NetworkSpec(3, 2.0, 2, 1.0, network_type="LoHa", use_tucker=True),
    "lokr": NetworkSpec(2, 1.0, 2, 1.0, network_type="LoKr", factor=4),
    "lokr-both": NetworkSpec(1, 3.0, network_type="LoKr", decompose_both=True),
    "lokr-full": NetworkSpec(2, 1.0, 2, 1.0, network_type="LoKr", full_matrix=True),
    "lokr-tucker": NetworkSpec(2, 1.0, 2, 1.0, network_type="LoKr", factor=4, use_tucker=True),
    "dora": NetworkSpec(3, 2.0, 2, 1.0, dora=True),
    "dora-loha": NetworkSpec(3, 2.0, 2, 1.0, network_type="LoHa", dora=True),
    "dora-lokr": NetworkSpec(2, 1.0, 2, 1.0, network_type="LoKr", factor=4, dora=True),
    "ia3": NetworkSpec(1, 1.0, 1, network_type="IA3"),
    "full": NetworkSpec(1, 1.0, 1, network_type="Full"),
    "norm": NetworkSpec(3, 2.0, train_norm=True),
    "glora": NetworkSpec(3, 2.0, 2, 1.0, network_type="GLoRA"),
    "glora-scalar": NetworkSpec(3, 2.0, network_type="GLoRA", use_scalar=True),
    "oft": NetworkSpec(4, 1.0, 4, network_type="Diag-OFT"),
    "coft": NetworkSpec(4, 1.0, network_type="Diag-OFT", constraint=1e-2),
    "boft": NetworkSpec(8, 1.0, 8, network_type="BOFT"),
    "dylora": NetworkSpec(4, 2.0, 4, 1.0, network_type="DyLoRA", unit=2),
    "tucker": NetworkSpec(3, 2.0, 2, 1.0, use_tucker=True),
    "scalar": NetworkSpec(3, 2.0, 2, 1.0, use_scalar=True, rs_lora=True),
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
    """Networks that change something: every parameter moved from where it begins."""
    return {name: _moved(Network.create(model.unet, model.text_encoders, spec, seed=1)) for name, spec in SPECS.items()}


def _moved(network: Network) -> Network:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


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
def test_the_webui_applies_every_layer_of_our_files(theirs, networks, name):
    layers, unmatched, failed = (theirs["files"][name][what] for what in ("layers", "unmatched", "failed"))
    assert (layers, unmatched, failed) == (len(networks[name]), [], 0)


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("name", SPECS)
def test_the_webuis_prediction_with_our_file_is_ours_with_live_adapters(theirs, model, networks, name, strength):
    (values,) = [p["values"] for p in theirs["predictions"] if (p["lora"], p["strength"]) == (name, strength)]
    expected = torch.tensor(values)
    base = torch.tensor(theirs["predictions"][0]["values"])
    actual = ours(model, networks[name], strength)
    assert float((expected - base).norm() / base.norm()) > 0.01, "the LoRA must do something"
    error = float((actual - expected).norm() / expected.norm())
    print(f"{name} at {strength}: relative error {error:.1e}")
    assert error <= 1e-4


@pytest.mark.parametrize("part", [UNET, TEXT_ENCODER])
@pytest.mark.parametrize("name", SPECS)
def test_every_type_changes_what_the_unet_and_the_text_encoders_make(model, networks, name, part):
    network = networks[name]
    other = TEXT_ENCODER if part == UNET else UNET
    with network.strength(**{"te" if other == TEXT_ENCODER else "unet": 0.0}):
        change = ours(model, network, 1.0) - ours(model, None, 1.0)
    assert float(change.norm()) > 0
