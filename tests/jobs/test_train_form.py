from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import Folders
from lib_lora.jobs.train_form import (
    FROM_HOST,
    form_defaults,
    form_options,
    form_schema,
    plan_summary,
    read_form,
    write_prompts,
)
from lib_lora.training.sizes import network_size


@pytest.fixture
def exposed(host, pictures, monkeypatch):
    """A host that others can reach, whose folders hold the form's files."""
    host.shared = True
    folders = Folders((pictures,), (host.loaded.parent,), (host.loras, host.data_dir))
    monkeypatch.setattr(host, "folders", lambda: folders)
    return host


def fault_of(values, host) -> StudioError:
    with pytest.raises(StudioError) as caught:
        read_form(values, host)
    return caught.value


# The schema


def test_the_schema_is_json_and_has_every_option_once(host):
    schema = json.loads(json.dumps(form_schema(host)))
    names = [option["name"] for group in schema["groups"] for option in group["options"]]
    assert sorted(names) == sorted(info.name for info in form_options()) and len(names) == len(set(names))
    assert not set(FROM_HOST) & set(names)
    assert set(schema["defaults"]) == set(names)
    assert schema["checkpoints"] == [{"name": "tiny.safetensors", "path": str(host.loaded), "loaded": True}]
    assert {"host", "vaes", "samplers", "presets", "cache"} <= set(schema)


def test_options_have_labels_for_people(host):
    labels = {option["name"]: option["label"] for group in form_schema(host)["groups"] for option in group["options"]}
    assert labels["network_dim"] == "Rank" and labels["network_dropout"] == "Network dropout"
    assert labels["lora_while_paused"] == "LoRA while paused"
    assert all(label[0].isupper() and "_" not in label for label in labels.values())
    assert len(set(labels.values())) == len(labels)


def test_kinds_limits_and_suggestions_are_told(host):
    options = {option["name"]: option for group in form_schema(host)["groups"] for option in group["options"]}
    assert options["network_dim"]["kind"] == "int" and options["network_dim"]["minimum"] == 1
    assert options["text_encoder_lr"]["kind"] == "list" and options["text_encoder_lr"]["optional"]
    assert options["train_data_dir"]["kind"] == "path" and options["train_data_dir"]["optional"]
    assert options["output_name"]["required"]
    assert options["torch_compile"]["way"] == "child" and options["network_dim"]["way"] is None
    assert options["save_precision"]["choices"] == ["fp16", "bf16", "float"]
    assert "Prodigy" in options["optimizer_type"]["suggestions"]
    assert "LoRA" in options["network_type"]["suggestions"]
    assert options["sample_sampler"]["suggestions"] == ["Euler a"]


def test_optimizers_whose_card_is_missing_are_not_suggested(host, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = {option["name"]: option for group in form_schema(host)["groups"] for option in group["options"]}
    assert "AdamW8bit" not in options["optimizer_type"]["suggestions"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    options = {option["name"]: option for group in form_schema(host)["groups"] for option in group["options"]}
    assert "AdamW8bit" in options["optimizer_type"]["suggestions"]


def test_a_package_that_is_missing_is_told_before_the_job_is_made(host, values, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "prodigyopt" else real(name))
    fault = fault_of({**values, "optimizer_type": "Prodigy"}, host)
    assert fault.field == "optimizer_type" and "prodigyopt" in fault.problem


@pytest.mark.parametrize("field", ["network_type", "lr_scheduler", "optimizer_type"])
def test_an_unknown_name_is_told_before_the_job_is_made(host, values, field):
    assert fault_of({**values, field: "nothing"}, host).field == field


def test_the_form_opens_with_the_loaded_checkpoint_a_jobs_defaults_and_the_hosts_settings(host, monkeypatch):
    monkeypatch.setattr(host, "train_defaults", lambda: {"clip_skip": "2"})
    defaults = form_defaults(host)
    assert defaults["pretrained_model_name_or_path"] == str(host.loaded)
    assert defaults["clip_skip"] == 2 and defaults["save_state_every_n_steps"] == 250
    assert defaults["output_name"] is None


def test_subfolders_of_the_lora_folder_are_offered(host):
    (host.loras / "characters" / "zorb").mkdir(parents=True)
    (host.loras / ".hidden").mkdir()
    assert form_schema(host)["host"]["subfolders"] == ["characters", "characters/zorb"]


# Reading


def test_values_become_checked_options_in_the_hosts_folders(host, values, tmp_path):
    config, options = read_form({**values, "output_subfolder": "characters", "notes": "n"}, host, tmp_path / "job")
    assert config.output_dir == host.loras / "characters" and config.cache_dir == host.data_dir / "cache"
    assert config.logging_dir == tmp_path / "job" / "log" and config.state_dir == tmp_path / "job" / "state"
    assert config.network_dim == 2 and options.notes == "n"


def test_what_a_script_leaves_out_has_the_forms_default(host, values, monkeypatch):
    monkeypatch.setattr(host, "train_defaults", lambda: {"clip_skip": 2, "max_train_steps": 850})
    given = {"train_data_dir": values["train_data_dir"], "output_name": "zorb"}
    config, _ = read_form(given, host)
    assert (config.clip_skip, config.max_train_steps) == (2, 850)
    assert config.pretrained_model_name_or_path == host.loaded
    config, _ = read_form({**given, "max_train_epochs": 4}, host)
    assert (config.max_train_epochs, config.max_train_steps) == (4, None)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"network_dim": 0}, "network_dim"),
        ({"netwerk_dim": 4}, "netwerk_dim"),
        ({"output_name": ""}, "output_name"),
        ({"train_data_dir": ""}, "train_data_dir"),
        ({"output_dir": "/x"}, "output_dir"),
        ({"min_timestep": 900, "max_timestep": 800}, "min_timestep"),
        ({"way": "elsewhere"}, "way"),
        ({"max_train_epochs": 2}, "max_train_steps"),
    ],
)
def test_a_fault_names_its_field(host, values, change, field):
    assert fault_of({**values, **change}, host).field == field


@pytest.mark.parametrize("name", ["../x", "C:\\x", "/etc/x", "a\nb", "CON", "x.", "a/b", ""])
@pytest.mark.parametrize("field", ["output_name", "output_subfolder"])
def test_names_that_are_no_names_are_refused_everywhere(host, values, name, field):
    if field == "output_subfolder" and name in ("", "a/b"):
        assert read_form({**values, field: name}, host)[0].output_dir == host.loras / name
    else:
        assert fault_of({**values, field: name}, host).field == field


def test_paths_are_whole_since_a_child_may_start_elsewhere(host, values, monkeypatch, pictures):
    monkeypatch.chdir(pictures.parent)
    assert read_form({**values, "train_data_dir": pictures.name}, host)[0].train_data_dir == pictures


def test_the_loaded_weights_are_those_of_the_loaded_checkpoint(host, values, tmp_path):
    values = {**values, "pretrained_model_name_or_path": str(tmp_path / "other"), "model_source": "loaded"}
    assert read_form(values, host)[0].pretrained_model_name_or_path == host.loaded
    host.loaded = None
    assert fault_of(values, host).field == "model_source"


# Where others can reach the page


def test_the_allowed_folders_are_enough_for_a_run(exposed, values):
    config, _ = read_form(values, exposed)
    assert config.train_data_dir == Path(values["train_data_dir"])


@pytest.mark.parametrize(
    "field",
    ["train_data_dir", "reg_data_dir", "pretrained_model_name_or_path", "vae", "resume", "sample_prompts"],
)
@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc", "C:\\x", "x\ny"])
def test_no_path_leads_out_of_the_allowed_folders(exposed, values, field, path):
    fault = fault_of({**values, field: path}, exposed)
    assert fault.field == field


def test_a_dataset_may_not_be_a_models_folder(exposed, values):
    assert fault_of({**values, "train_data_dir": str(exposed.loaded.parent)}, exposed).field == "train_data_dir"


def test_a_subfolder_that_is_a_link_to_outside_is_refused(exposed, values, tmp_path):
    (exposed.loras / "door").symlink_to(tmp_path)
    assert fault_of({**values, "output_subfolder": "door"}, exposed).field == "output_subfolder"


def test_a_dataset_may_be_a_link_with_repeats_in_its_name(exposed, values, pictures):
    (pictures / "7_link").symlink_to(pictures / "2_zorb")
    plan = plan_summary({**values, "train_data_dir": str(pictures / "7_link")}, exposed)
    assert plan["repeats_total"] == 35


def test_only_the_machines_user_may_name_a_class(exposed, values):
    assert fault_of({**values, "optimizer_type": "os.path"}, exposed).field == "optimizer_type"


def test_alone_any_folder_will_do(host, values, tmp_path):
    assert read_form({**values, "reg_data_dir": str(tmp_path)}, host)[0].reg_data_dir == tmp_path


# Prompts


def test_prompts_are_written_for_the_job(exposed, values, tmp_path):
    text = "zorb --n bad --d 3\n# a note\n\nzorb on a hill\n"
    job = exposed.data_dir / "jobs" / "1"
    config, options = read_form({**values, "sample_prompts_text": text, "sample_at_first": True}, exposed, job)
    assert config.sample_prompts == job / "prompts.txt"
    job.mkdir(parents=True)
    write_prompts(config, options)
    assert config.sample_prompts.read_text(encoding="utf-8") == text


def test_without_prompts_nothing_is_written(host, values, tmp_path):
    config, options = read_form({**values, "sample_prompts_text": " \n"}, host, tmp_path)
    before = sorted(tmp_path.iterdir())
    write_prompts(config, options)
    assert config.sample_prompts is None and sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("text", ["zorb --x 1", "zorb --d many", "zorb <lora:a:1>"])
def test_a_faulty_prompt_is_told_before_the_job_is_made(host, values, text):
    assert fault_of({**values, "sample_prompts_text": text}, host).field == "sample_prompts_text"


def test_prompts_come_from_one_place(host, values, tmp_path):
    fault = fault_of({**values, "sample_prompts_text": "a", "sample_prompts": str(tmp_path / "p.txt")}, host)
    assert fault.field == "sample_prompts_text"


# The plan


def test_the_plan_of_a_run_without_pictures_has_none(host, values):
    given = {name: value for name, value in values.items() if name != "min_bucket_reso"}
    way = {"objective": "iLECO", "original_prompt": "dog", "train_data_dir": ""}
    plan = plan_summary({**given, **way}, host)
    assert (plan["pictures"], plan["repeats_total"], plan["buckets"], plan["steps"]) == (0, 0, [], 3)
    assert '"dog"' in plan["text"]


def test_the_plan_is_the_runs(host, values):
    plan = plan_summary({**values, "train_batch_size": 2}, host)
    json.dumps(plan)
    assert (plan["pictures"], plan["repeats_total"], plan["samples_per_epoch"]) == (5, 10, 10)
    assert plan["steps"] == 3 and plan["steps_per_epoch"] == 5 and plan["epochs"] == 1
    assert sum(bucket["pictures"] for bucket in plan["buckets"]) == 5
    assert plan["way"] == "live" and "Steps: 3" in plan["text"]
    assert plan["alpha_over_rank"] == 1.0 and plan["exists"] is None and plan["free_mb"] > 0


def test_the_plan_shows_the_rate_of_each_group_over_the_run(host, values):
    changes = {"lr_scheduler": "linear", "text_encoder_lr": 1e-4, "max_train_steps": 4}
    rates = plan_summary({**values, **changes}, host)["rates"]
    assert rates["steps"] == [1, 2, 3, 4] and rates["note"] == ""
    assert rates["groups"]["text_encoder"] == pytest.approx([1e-4, 7.5e-5, 5e-5, 2.5e-5])
    with pytest.raises(StudioError, match="lr_warmup_steps"):
        plan_summary({**values, **changes, "lr_warmup_steps": 9}, host)


def test_the_plan_counts_what_is_held_out(host, values):
    plan = plan_summary({**values, "validation_split": 0.4}, host)
    assert (plan["held_out"], plan["pictures"]) == (2, 3)


def test_the_form_explains_the_optimizers(host):
    optimizers = {each["name"]: each for each in form_schema(host)["optimizers"]}
    arguments = {each["name"]: each["default"] for each in optimizers["Prodigy"]["arguments"]}
    assert arguments["d_coef"] == "2.0" and arguments["growth_rate"] is None
    assert optimizers["Prodigy"]["rate"] == 1.0 and optimizers["AdaFactor"]["rate"] is None


def test_it_says_what_is_left_out_and_why(host, values, pictures):
    (pictures / "notes.gif").write_bytes(b"")
    Image.new("RGB", (64, 64)).save(pictures / "beside.png")
    plan = plan_summary(values, host)
    assert plan["left_out_count"] == 2
    reasons = {Path(each["file"]).name: each["why"] for each in plan["left_out"]}
    assert ".gif is not read" in reasons["notes.gif"] and "beside <repeats>_<name> folders" in reasons["beside.png"]


def test_the_predicted_size_is_told(host, values):
    size = network_size(read_form(values, host)[0])
    plan = plan_summary(values, host)
    assert plan["parameters"] == size.parameters and plan["file_mb"] == round(size.file_bytes / 2**20, 2) > 0


def test_room_on_the_disk_counts_every_save(host, values):
    once = plan_summary({**values, "network_dim": 64}, host)["needed_mb"]
    often = plan_summary({**values, "network_dim": 64, "save_every_n_steps": 1}, host)["needed_mb"]
    assert often > once >= 1


def test_a_name_that_exists_is_told(host, values):
    (host.loras / "zorb.safetensors").write_bytes(b"x")
    assert plan_summary(values, host)["exists"] == str(host.loras / "zorb.safetensors")


def test_an_alpha_above_the_rank_is_warned_of(host, values):
    plan = plan_summary({**values, "network_alpha": 4}, host)
    assert plan["alpha_over_rank"] == 2 and any("burns" in warning for warning in plan["warnings"])
    assert plan_summary({**values, "network_alpha": 0}, host)["alpha_over_rank"] == 1


def test_the_pictures_are_shown_while_name_and_checkpoint_are_missing(exposed, values):
    exposed.known, exposed.loaded = [], None
    given = {name: values[name] for name in ("train_data_dir", "resolution", "min_bucket_reso")}
    plan = plan_summary(given, exposed)
    assert plan["pictures"] == 5 and plan["parameters"] is None and plan["way"] is None


def test_a_broken_checkpoint_is_told_at_its_field(host, values, tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"no model")
    with pytest.raises(StudioError) as caught:
        plan_summary({**values, "pretrained_model_name_or_path": str(tmp_path / "bad.safetensors")}, host)
    assert caught.value.field == "pretrained_model_name_or_path"
