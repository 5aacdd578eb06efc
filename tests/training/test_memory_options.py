"""Options that save memory or time: what a run does with them."""

from __future__ import annotations

import pytest
import torch

from lib_lora.base.errors import StudioError
from lib_lora.base.options import from_mapping
from lib_lora.training.config import TrainConfig
from lib_lora.training.optimizer_table import find_optimizer
from lib_lora.training.optimizers import ParamGroup, build_optimizers
from lib_lora.training.run import Run


def events(options: dict) -> list:
    return list(Run(from_mapping(TrainConfig, options)).events())


def test_checkpointing_trains_the_very_same_lora(train_options, tmp_path):
    options = {**train_options, "network_dropout": 0.2, "rank_dropout": 0.2, "module_dropout": 0.2}
    files = []
    for name, more in (("plain", {}), ("frugal", {"gradient_checkpointing": True})):
        events({**options, **more, "output_dir": tmp_path / name})
        files.append((tmp_path / name / "zorb.safetensors").read_bytes())
    # The metadata name the options: what is compared is what comes after the header.
    weights = [file[8 + int.from_bytes(file[:8], "little") :] for file in files]
    assert weights[0] == weights[1] and any(weights[0])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"attention": "xformers"}, "attention.*CUDA"),
        ({"gradient_checkpointing_depth": 1}, "gradient_checkpointing_depth"),
        ({"optimizer_type": "AdamW8bit"}, "optimizer_type.*CUDA"),
        ({"optimizer_type": "PagedAdamW8bit"}, "optimizer_type.*CUDA"),
        ({"optimizer_type": "Lion8bit"}, "optimizer_type.*CUDA"),
        ({"optimizer_type": "SGDNesterov8bit"}, "optimizer_type.*CUDA"),
    ],
)
def test_what_needs_a_card_is_refused_by_name_before_anything_is_loaded(train_options, monkeypatch, more, message):
    def load(*args, **kwargs):
        raise AssertionError("the checkpoint was loaded")

    monkeypatch.setattr("lib_lora.training.setup.load_model", load)
    with pytest.raises(StudioError, match=f"(?s){message}"):
        events({**train_options, **more})


def test_8_bit_optimizers_are_refused_for_a_run_beside_the_card(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(StudioError, match="this run is on cpu"):
        find_optimizer("AdamW8bit").load(torch.device("cpu"))


def train_quadratic(optimizers, parameter: torch.nn.Parameter, steps: int) -> None:
    for _ in range(steps):
        (parameter - torch.linspace(-1, 1, 6)).square().sum().backward()
        optimizers.step()
        optimizers.zero_grad()


def test_adamw_as_one_kernel_gives_the_numbers_of_the_plain_one():
    ways = []
    for args in ((), ("fused=False", "foreach=False")):
        parameter = torch.nn.Parameter(torch.zeros(6))
        train_quadratic(build_optimizers("AdamW", [ParamGroup("unet", [parameter], 0.1)], args), parameter, 7)
        ways.append(parameter.detach())
    assert torch.allclose(*ways, rtol=1e-5) and bool(ways[0].abs().min() > 0.01)


def test_a_state_of_another_machine_does_not_bring_its_kernel_along():
    def make(*args: str):
        parameter = torch.nn.Parameter(torch.zeros(6))
        return build_optimizers("AdamW", [ParamGroup("unet", [parameter], 0.1)], args), parameter

    saved, parameter = make("fused=False", "foreach=False")
    train_quadratic(saved, parameter, 2)
    own, _ = make()
    before = own.param_groups[0]["fused"]
    own.load_state_dict(saved.state_dict())
    assert own.param_groups[0]["fused"] == before
