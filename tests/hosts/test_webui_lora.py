"""The real WebUI computes with our LoRA files what our live adapters compute.

Wants ``SD_WEBUI_DIR`` (a checkout of A1111 v1.10.1) and ``SD_WEBUI_PYTHON`` (its interpreter).
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lib_lora.adapters.network import Network
from lib_lora.adapters.spec import NetworkSpec
from lib_lora.models.loader import load_model
from webui_predictions import STRENGTHS, by_the_webui, check_prediction, ours

pytestmark = pytest.mark.webui

SPECS = {
    "lora": NetworkSpec(rank=3, alpha=2.0),
    "locon": NetworkSpec(rank=3, alpha=2.0, conv_rank=2, conv_alpha=1.0),
}


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
    return by_the_webui(networks, checkpoint, run_in_webui, tmp_path_factory.mktemp("lora"))


@pytest.mark.parametrize("name", SPECS)
def test_the_webui_matches_every_key_of_our_files(theirs, networks, name):
    assert theirs["files"][name] == {"layers": len(networks[name]), "unmatched": [], "failed": 0}


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("name", SPECS)
def test_the_webuis_prediction_with_our_file_is_ours_with_live_adapters(theirs, model, networks, name, strength):
    check_prediction(theirs, model, networks[name], name, strength, least_change=0.05)


def test_the_webuis_prediction_without_a_lora_is_ours(theirs, model):
    expected = torch.tensor(theirs["predictions"][0]["values"])
    assert float((ours(model, None, 1.0) - expected).norm() / expected.norm()) <= 1e-4
