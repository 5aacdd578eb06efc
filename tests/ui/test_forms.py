from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the page needs gradio")

from lib_lora.base.errors import StudioError
from lib_lora.base.options import from_mapping, options_of
from lib_lora.hosts.standalone.sampling import SampleConfig
from lib_lora.training.config import TrainConfig
from lib_lora.ui.compat_gradio import gr, make_blocks
from lib_lora.ui.forms import LARGEST, Look, build_form

REQUIRED = {"pretrained_model_name_or_path": "model.safetensors", "train_data_dir": "pictures", "output_name": "zorb"}


def make_form(config, looks=None):
    with make_blocks("test", ""):
        return build_form(config, looks)


def page_of(form, **changes):
    """What gradio hands to a handler: every component and what stands in it."""
    return {component: changes.get(name, component.value) for name, component in form.components.items()}


@pytest.mark.parametrize("config", [TrainConfig, SampleConfig])
def test_every_option_has_a_component_with_its_name_help_and_default(config):
    form = make_form(config)
    infos = options_of(config)
    assert list(form.infos) == [info.name for info in infos] and set(form.components) == set(form.infos)
    assert len(form.inputs) == len(infos)
    for info in infos:
        component = form.components[info.name]
        assert component.label.split()[0] == info.name
        assert component.info == info.help
        assert info.unit in component.label
        if not info.required and info.default not in (None, ()):
            expected = str(info.default) if isinstance(info.default, Path) else info.default
            assert component.value == expected, info.name


def test_kinds_of_options_get_kinds_of_components():
    components = make_form(TrainConfig, {"optimizer_type": Look(late_choices=lambda: ["AdamW", "Lion"])}).components
    assert type(components["enable_bucket"]).__name__ == "Checkbox"
    assert type(components["network_dim"]).__name__ == "Number"
    assert type(components["save_precision"]).__name__ == "Dropdown"
    assert type(components["optimizer_type"]).__name__ == "Dropdown"
    assert type(components["learning_rate"]).__name__ == "Textbox"


def test_an_untouched_form_gives_the_defaults():
    form = make_form(TrainConfig)
    assert form.read(page_of(form, **REQUIRED)) == from_mapping(TrainConfig, REQUIRED)


def test_optional_values_left_empty_or_none_are_none():
    form = make_form(TrainConfig, {"lr_scheduler": Look(late_choices=lambda: ["cosine"])})
    assert form.components["lr_scheduler"].value == "none"
    config = form.read(page_of(form, **REQUIRED, learning_rate="  ", conv_dim="none"))
    assert config.lr_scheduler is None and config.learning_rate is None and config.conv_dim is None


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("network_dim", 0, "at least 1"),
        ("network_dim", 3.5, "a whole number"),
        ("learning_rate", "fast", "a number"),
        ("output_name", " ", "must be given"),
        ("train_data_dir", "", "must be given"),
        ("save_precision", "fp12", "fp16, bf16, float"),
        ("seed", LARGEST * 2.0, "too large"),
    ],
)
def test_a_bad_value_is_an_error_that_names_its_field(field, value, words):
    form = make_form(TrainConfig)
    with pytest.raises(StudioError, match=f"^{field}: ") as caught:
        form.read(page_of(form, **{**REQUIRED, field: value}))
    assert caught.value.field == field and words in str(caught.value)


def test_a_files_values_come_back_from_the_form_as_they_were():
    values = {
        **REQUIRED,
        "learning_rate": 1e-5,
        "unet_lr": 0.1,
        "conv_dim": 4,
        "network_alpha": 0.5,
        "enable_bucket": False,
        "optimizer_args": ["weight_decay=0.01", "amsgrad=True"],
        "max_train_steps": 7,
        "save_precision": "bf16",
        "vae": "a folder/vae.safetensors",
    }
    form = make_form(TrainConfig)
    updates = form.fill(values)
    page = {component: update["value"] for component, update in updates.items()}
    assert form.read(page) == from_mapping(TrainConfig, values)


def test_filling_the_form_forgets_what_the_file_does_not_name():
    form = make_form(TrainConfig)
    update = form.fill({**REQUIRED, "network_dim": 4})[form.components["network_alpha"]]
    assert update["value"] == 8.0


def test_filling_the_form_with_an_unknown_name_or_a_bad_value_names_it():
    form = make_form(TrainConfig)
    with pytest.raises(StudioError, match="netwrok_dim"):
        form.fill({"netwrok_dim": 4})
    with pytest.raises(StudioError, match="network_dim"):
        form.fill({"network_dim": -4})


def test_late_names_reach_their_dropdowns():
    looks = {
        "optimizer_type": Look(late_choices=lambda: ["AdamW", "Lion"]),
        "lr_scheduler": Look(late_choices=lambda: ["cosine"]),
    }
    form = make_form(TrainConfig, looks)
    choices = {component.label: update["choices"] for component, update in form.late_choices().items()}
    assert choices == {"optimizer_type": ["AdamW", "Lion"], "lr_scheduler": ["none", "cosine"]}


def test_advanced_options_are_folded_away():
    with make_blocks("test", "") as blocks:
        form = build_form(TrainConfig)
    folded = [block for block in blocks.blocks.values() if isinstance(block, gr.Accordion)]
    assert folded and all(block.open is False for block in folded)
    inside = {id(child) for block in folded for child in descendants(block)}
    for name, info in form.infos.items():
        assert (id(form.components[name]) in inside) == (info.level == "advanced"), name


def descendants(block):
    for child in getattr(block, "children", []):
        yield child
        yield from descendants(child)
