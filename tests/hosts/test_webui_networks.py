"""The real WebUI computes with our file of every network type what our live adapters compute.

Wants ``SD_WEBUI_DIR`` (a checkout of A1111 v1.10.1) and ``SD_WEBUI_PYTHON`` (its interpreter).
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lib_lora.adapters.network import Network
from lib_lora.adapters.spec import TEXT_ENCODER, UNET, NetworkSpec
from lib_lora.models.loader import load_model
from webui_predictions import STRENGTHS, by_the_webui, check_prediction, ours

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
    return by_the_webui(networks, checkpoint, run_in_webui, tmp_path_factory.mktemp("lora"))


@pytest.mark.parametrize("name", SPECS)
def test_the_webui_applies_every_layer_of_our_files(theirs, networks, name):
    layers, unmatched, failed = (theirs["files"][name][what] for what in ("layers", "unmatched", "failed"))
    assert (layers, unmatched, failed) == (len(networks[name]), [], 0)


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("name", SPECS)
def test_the_webuis_prediction_with_our_file_is_ours_with_live_adapters(theirs, model, networks, name, strength):
    check_prediction(theirs, model, networks[name], name, strength, least_change=0.01)


@pytest.mark.parametrize("part", [UNET, TEXT_ENCODER])
@pytest.mark.parametrize("name", SPECS)
def test_every_type_changes_what_the_unet_and_the_text_encoders_make(model, networks, name, part):
    network = networks[name]
    other = TEXT_ENCODER if part == UNET else UNET
    with network.strength(**{"te" if other == TEXT_ENCODER else "unet": 0.0}):
        change = ours(model, network, 1.0) - ours(model, None, 1.0)
    assert float(change.norm()) > 0
