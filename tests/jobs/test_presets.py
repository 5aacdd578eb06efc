from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.base.options import options_of
from lib_lora.jobs import presets
from lib_lora.jobs.presets import (
    GUIDES,
    delete_preset,
    find_preset,
    guide_presets,
    import_preset,
    own_presets,
    presets_view,
    save_preset,
)
from lib_lora.jobs.train_form import read_form
from lib_lora.training.config import TrainConfig, alpha_warning
from lib_lora.training.optimizer_args import parse_args
from lib_lora.training.optimizer_table import OPTIMIZERS
from lib_lora.training.optimizers import build_optimizers

ALL = {preset.id: preset for preset in guide_presets()}


def ranks(*ids: str) -> list[int]:
    return [ALL[id].values["network_dim"] for id in ids]


# What the guide says: the numbers of its tables, https://rentry.org/59xed3.


def test_the_categories_have_ranks_of_the_guides_table():
    allowed = {
        "a": (4, 8), "b": (4, 16), "c": (8, 32), "d": (32, 64), "e": (64, 64), "f": (64, 128), "g": (128, 128),
        "h": (128, 192), "i": (192, 256),
    }  # fmt: skip
    for letter, (low, high) in allowed.items():
        (rank,) = ranks(f"character_{letter}")
        assert low <= rank <= high


def test_a_male_character_lies_half_a_step_higher_up_to_category_d():
    letters = "abcde"
    for here, above in itertools.pairwise(letters):
        low, male, high = ranks(f"character_{here}", f"character_{here}_male", f"character_{above}")
        assert male == (low + high) / 2
    assert not [id for id in ALL if id.endswith("_male") and id[10] > "d"]


@pytest.mark.parametrize(
    ("id", "optimizer", "arguments"),
    [
        ("easy_dadaptadam", "DAdaptAdam", {"decouple": True, "weight_decay": 0.01, "betas": (0.9, 0.99)}),
        (
            "easy_prodigy",
            "Prodigy",
            {
                "decouple": True,
                "weight_decay": 0.01,
                "d_coef": 2,
                "use_bias_correction": True,
                "safeguard_warmup": False,
                "betas": (0.9, 0.99),
            },
        ),
    ],
)
def test_the_easy_settings_are_the_guides(id, optimizer, arguments):
    values = ALL[id].values
    assert values["optimizer_type"] == optimizer and parse_args(values["optimizer_args"]) == arguments
    assert (values["unet_lr"], values["text_encoder_lr"], values["lr_scheduler"]) == (1.0, (1.0,), "constant")
    assert (values["network_dim"], values["network_alpha"], values["resolution"]) == (64, 1, "512")
    assert (values["min_bucket_reso"], values["max_bucket_reso"]) == (320, 768)
    assert (values["min_snr_gamma"], values["max_token_length"], ALL[id].total_steps) == (5, 225, 1000)


@pytest.mark.parametrize(
    ("id", "rank", "text_rate", "resolution", "steps"),
    [
        ("character_good_inputs", (32, 96), 5e-5, (512, 768), 1000),
        ("character_bad_inputs", (32, 64), 4.5e-5, (512, 768), 1600),
        ("style", (96, 192), 4e-5, (576, 768), 3000),
        ("style_large", (96, 192), 4e-5, (576, 768), 3000),
        ("concept", (8, 128), 4.5e-5, (512, 768), 1000),
        ("concept_simple", (8, 128), 4.5e-5, (512, 768), 1000),
    ],
)
def test_the_starting_settings_are_the_guides_table(id, rank, text_rate, resolution, steps):
    values = ALL[id].values
    assert values["unet_lr"] == 1e-4 and values["text_encoder_lr"] == (text_rate,)
    assert rank[0] <= values["network_dim"] <= rank[1] and 1 <= values["network_alpha"] <= values["network_dim"]
    assert resolution[0] <= int(values["resolution"]) <= resolution[1] and ALL[id].total_steps == steps


def test_rare_subjects_have_a_quick_model_of_ten_epochs():
    assert ALL["quick_rare"].values["max_train_epochs"] == 10
    assert ALL["quick_rare"].values["max_train_steps"] is None and ALL["quick_rare"].total_steps is None


def test_bad_pictures_ask_for_regularisation_and_styles_against_it():
    assert "give regularisation pictures" in ALL["character_bad_inputs"].help
    assert "Do not use regularisation" in ALL["style"].help


def test_no_preset_burns_and_each_names_its_source():
    for preset in ALL.values():
        values = {name: value for name, value in preset.values.items() if value is not None}
        config = TrainConfig(
            pretrained_model_name_or_path=Path("x"), train_data_dir=Path("x"), output_name="x", **values
        )
        assert alpha_warning(config) is None
        assert "rentry.org/59xed3" in preset.source and preset.help and preset.name


def test_each_sets_the_same_options_so_that_none_leaves_a_trace_in_the_next():
    assert len({frozenset(preset.values) for preset in ALL.values()}) == 1


def test_each_can_be_read_with_the_form(host, values):
    for shown in presets_view(host):
        config, _ = read_form({**values, **shown["values"]}, host)
        assert config.network_dim == shown["values"]["network_dim"]


def test_their_optimizers_take_their_arguments():
    import torch

    from lib_lora.training.optimizers import ParamGroup

    for preset in ALL.values():
        group = ParamGroup("unet", [torch.nn.Parameter(torch.zeros(2))], preset.values["unet_lr"])
        build_optimizers(preset.values["optimizer_type"], [group], preset.values["optimizer_args"])


def test_those_whose_optimizer_is_missing_are_not_shown(host, monkeypatch):
    assert {"vehicle_lokr", "easy_prodigy"} <= {preset["id"] for preset in presets_view(host)}
    names = [name for name in OPTIMIZERS if name not in ("Prodigy", "AdamW8bit")]
    monkeypatch.setattr(presets, "usable_optimizers", lambda: names)
    assert "easy_prodigy" not in {preset["id"] for preset in presets_view(host)}


def test_they_are_in_the_package():
    text = (GUIDES.parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'"lib_lora\.jobs" = \["preset_files/\*\.toml"\]', text)
    assert len(list(GUIDES.glob("*.toml"))) == len(ALL)


# A person's own


def test_an_own_preset_comes_back_as_it_was(host, values):
    saved = save_preset(host, "mine ü", {**values, "unet_lr": 1e-5, "min_snr_gamma": None, "optimizer_args": ["a=1"]})
    (own,) = own_presets(host)
    assert own == saved and own.id == "own:mine ü" and own.view()["own"]
    assert own.values["unet_lr"] == 1e-5 and own.values["min_snr_gamma"] is None
    assert own.values["optimizer_args"] == ("a=1",)
    json.dumps(presets_view(host))


def test_what_concerns_one_run_alone_is_left_out(host, values):
    given = {**values, "activation_text": "zorb", "sample_prompts_text": "zorb", "overwrite": True, "reg_data_dir": ""}
    kept = set(save_preset(host, "mine", given).values)
    assert {"network_dim", "learning_rate", "max_train_steps"} <= kept
    paths = {info.name for info in options_of(TrainConfig) if info.kind is Path}
    assert not kept & (paths | {"output_name", "overwrite", "activation_text", "sample_prompts_text"})


def test_saving_again_replaces(host):
    save_preset(host, "mine", {"network_dim": 4})
    save_preset(host, "mine", {"network_dim": 8})
    assert [own.values for own in own_presets(host)] == [{"network_dim": 8}]


def test_a_preset_travels_as_toml(host, tmp_path, monkeypatch):
    saved = save_preset(host, "mine", {"network_dim": 4, "conv_dim": None}, "for 'cats' \"\\\n")
    text = find_preset(host, saved.id).toml()
    monkeypatch.setattr(host, "data_dir", tmp_path / "elsewhere")
    arrived = import_preset(host, text)
    assert arrived.help == "for 'cats' \"\\\n" and arrived.values == {"network_dim": 4, "conv_dim": None}
    with pytest.raises(StudioError, match="exists") as caught:
        import_preset(host, text)
    assert caught.value.field == "name"


def test_a_guides_preset_can_be_taken_over_and_keeps_its_source(host):
    own = import_preset(host, ALL["style"].toml())
    assert own.values == ALL["style"].values and own.source == ALL["style"].source and own.total_steps == 3000


@pytest.mark.parametrize("name", ["../x", "a/b", "C:\\x", "CON", "a\nb", "", "x."])
def test_a_name_that_cannot_name_a_file_is_refused(host, name):
    for act in (lambda: save_preset(host, name, {}), lambda: delete_preset(host, name)):
        with pytest.raises(StudioError) as caught:
            act()
        assert caught.value.field == "name"
    with pytest.raises(StudioError):
        import_preset(host, f"name = {json.dumps(name)}\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("network_dim = 4", "a preset has a name"),
        ('name = "x"\n[options]\nnetwerk_dim = 4', "unknown option"),
        ('name = "x"\n[options]\nnetwork_dim = 0', "network_dim"),
        ('name = "x"\ntotal_steps = "many"', "total_steps"),
        ("name = ", "is no TOML"),
        ("x" * 200_000, "too long"),
    ],
)
def test_what_is_no_preset_is_refused(host, text, said):
    with pytest.raises(StudioError, match=said):
        import_preset(host, text)
    assert own_presets(host) == []


def test_paths_of_somebody_elses_preset_are_not_taken(host):
    own = import_preset(host, 'name = "x"\n[options]\ntrain_data_dir = "/etc"\nnetwork_dim = 4\n')
    assert own.values == {"network_dim": 4} and own_presets(host)[0].values == {"network_dim": 4}


def test_a_broken_file_is_shown_with_its_fault_and_the_others_are_there(host):
    save_preset(host, "good", {"network_dim": 4})
    (host.data_dir / "presets" / "bad.toml").write_text("name = [", encoding="utf-8")
    shown = {preset["name"]: preset for preset in presets_view(host) if preset["own"]}
    assert "is no TOML" in shown["bad"]["fault"] and shown["good"]["fault"] is None


def test_deleting(host):
    save_preset(host, "mine", {})
    delete_preset(host, "mine")
    assert own_presets(host) == []
    with pytest.raises(StudioError, match="no such preset"):
        delete_preset(host, "mine")
