"""Parts leave the card and come back. The meta device stands for the card where there is none: it shows who moved."""

from __future__ import annotations

import pytest
import torch

from lib_lora.models.offload import bring_back, brought_back, keep_on_card, whole
from lib_lora.models.sharing import parameters_of

needs_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")


def places(model) -> list[str]:
    return [next(module.parameters()).device.type for module in model.modules()]


@pytest.fixture
def on_card(tiny_model):
    for module in tiny_model.modules():
        torch.nn.Module.to(module, "cuda")
    tiny_model.device = torch.device("cuda")
    return tiny_model


def test_on_the_cpu_nothing_is_moved_or_copied(tiny_model):
    before = [parameter.data_ptr() for module in tiny_model.modules() for parameter in module.parameters()]
    keep_on_card(tiny_model, tiny_model.unet)
    with whole(tiny_model):
        pass
    bring_back(tiny_model)
    assert before == [parameter.data_ptr() for module in tiny_model.modules() for parameter in module.parameters()]


def test_a_borrowed_model_stays_where_it_is(tiny_model):
    tiny_model.device, tiny_model.borrowed = torch.device("meta"), True
    keep_on_card(tiny_model, tiny_model.vae)
    bring_back(tiny_model)
    assert places(tiny_model) == ["cpu", "cpu", "cpu"]


def test_parts_in_main_memory_are_brought_to_where_the_model_is_when_they_are_wanted(tiny_model):
    tiny_model.device = torch.device("meta")
    keep_on_card(tiny_model, tiny_model.vae)
    assert places(tiny_model) == ["cpu", "meta", "cpu"]
    keep_on_card(tiny_model, tiny_model.vae, *tiny_model.text_encoders)
    assert places(tiny_model) == ["cpu", "meta", "meta"]
    bring_back(tiny_model)
    assert places(tiny_model) == ["meta", "meta", "meta"]


@needs_card
def test_parts_that_are_not_needed_leave_the_card_and_their_values_survive(on_card):
    before = [parameter.clone().cpu() for module in on_card.modules() for parameter in module.parameters()]
    held = torch.cuda.memory_allocated()
    keep_on_card(on_card, on_card.unet)
    assert places(on_card) == ["cuda", "cpu", "cpu"] and torch.cuda.memory_allocated() < held
    with whole(on_card):
        assert places(on_card) == ["cuda", "cuda", "cuda"]
    assert places(on_card) == ["cuda", "cpu", "cpu"]
    bring_back(on_card)
    after = [parameter.cpu() for module in on_card.modules() for parameter in module.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after))


@pytest.fixture
def resting(tiny_model):
    """A model of another program's that waits in main memory; its parts are copied to the card."""
    tiny_model.device, tiny_model.borrowed = torch.device("meta"), True
    tiny_model.resting = [parameters_of(module) for module in tiny_model.modules()]
    return tiny_model


def test_parts_at_rest_are_copied_to_the_card_and_are_the_owners_tensors_again_afterwards(resting):
    owners = [parameter.data_ptr() for module in resting.modules() for parameter in module.parameters()]
    keep_on_card(resting, resting.vae)
    assert places(resting) == ["cpu", "meta", "cpu"]
    with brought_back(resting):
        assert places(resting) == ["cpu", "cpu", "cpu"]
    assert places(resting) == ["cpu", "meta", "cpu"]
    with whole(resting):
        assert places(resting) == ["meta", "meta", "meta"]
    bring_back(resting)
    assert owners == [parameter.data_ptr() for module in resting.modules() for parameter in module.parameters()]
