from __future__ import annotations

import json
import time

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from lib_lora.adapters.network import Network
from lib_lora.base.errors import StudioError
from lib_lora.base.events import Note, SampleReady, Saved, StepDone, TrainingEnded
from lib_lora.base.options import from_mapping
from lib_lora.training.config import TrainConfig
from lib_lora.training.run import Run


def run(options, **more):
    return Run(from_mapping(TrainConfig, {**options, **more}))


def read(path):
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def test_a_run_writes_a_lora_with_kohyas_keys_and_a_loss_log(train_options):
    events = list(run(train_options).events())
    saved = [event for event in events if isinstance(event, Saved)]
    assert [event.final for event in saved] == [True]
    tensors, _ = read(train_options["output_dir"] / "zorb.safetensors")
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    assert tensors[f"{key}.lora_up.weight"].shape == (32, 2) and tensors[f"{key}.lora_down.weight"].shape == (2, 32)
    assert any(key.startswith("lora_te_text_model_encoder_layers_0_self_attn_q_proj") for key in tensors)
    assert any(tensor.abs().max() > 0 for key, tensor in tensors.items() if "lora_up" in key)
    assert (train_options["output_dir"] / "zorb-log" / "loss.csv").read_text().count("\n") == 4
    end = events[-1]
    assert isinstance(end, TrainingEnded) and not end.stopped and all(path.exists() for path in end.written)


def test_metadata_say_how_the_lora_was_made(train_options, tiny_checkpoint):
    list(run(train_options, min_snr_gamma=5, optimizer_args=["weight_decay=0.1"]).events())
    _, metadata = read(train_options["output_dir"] / "zorb.safetensors")
    expected = {
        "ss_output_name": "zorb",
        "ss_network_dim": "2",
        "ss_network_alpha": "2.0",
        "ss_network_module": "networks.lora",
        "ss_num_train_images": "10",
        "ss_num_reg_images": "0",
        "ss_num_batches_per_epoch": "10",
        "ss_steps": "3",
        "ss_epoch": "1",
        "ss_max_train_steps": "3",
        "ss_optimizer": "AdamW(weight_decay=0.1)",
        "ss_min_snr_gamma": "5.0",
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        "ss_clip_skip": "1",
        "ss_seed": "42",
        "ss_noise_offset": "0.0",
        "ss_resolution": "(64, 64)",
        "ss_sd_model_name": "tiny.safetensors",
        "ss_unet_lr": "0.01",
        "ss_text_encoder_lr": "0.01",
        "modelspec.title": "zorb",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.prediction_type": "epsilon",
    }
    assert {key: metadata[key] for key in expected} == expected
    assert json.loads(metadata["ss_dataset_dirs"]) == {"2_zorb": {"n_repeats": 2, "img_count": 5}}
    assert json.loads(metadata["ss_tag_frequency"])["2_zorb"] == {"zorb": 5, "red": 2, "dog": 2, "blue cat": 2}
    buckets = json.loads(metadata["ss_bucket_info"])["buckets"].values()
    assert sum(bucket["count"] for bucket in buckets) == 10
    assert float(metadata["ss_training_started_at"]) <= float(metadata["ss_training_finished_at"]) <= time.time()


def test_the_same_seed_gives_the_same_lora_bit_for_bit_and_another_seed_another(train_options):
    files = []
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        list(run(train_options, output_name=name, seed=seed, network_dropout=0.1).events())
        files.append(read(train_options["output_dir"] / f"{name}.safetensors")[0])
    first, same, other = files
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_saves_and_samples_come_when_they_are_due(train_options, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("zorb, red dog --w 64 --h 64 --s 2 --d 1\n", encoding="utf-8")
    events = list(
        run(
            train_options,
            max_train_steps=None,
            max_train_epochs=2,
            train_batch_size=8,
            save_every_n_epochs=1,
            save_every_n_steps=3,
            sample_every_n_epochs=1,
            sample_at_first=True,
            sample_prompts=prompts,
        ).events()
    )
    steps = [event for event in events if isinstance(event, StepDone)]
    assert len(steps) == 4  # two buckets, a partial batch each
    assert [event.path.name for event in events if isinstance(event, Saved)] == [
        "zorb-000001.safetensors",
        "zorb-step00000003.safetensors",
        "zorb.safetensors",
    ]
    samples = [event for event in events if isinstance(event, SampleReady)]
    assert [event.step for event in samples] == [0, 2, 4]
    assert all(Image.open(event.path).size == (64, 64) for event in samples)
    pictures = [Image.open(event.path).tobytes() for event in samples]
    assert pictures[0] != pictures[2]


def test_a_stopped_run_keeps_what_it_has_under_a_name_that_is_not_final(train_options):
    job = run(train_options, max_train_steps=50)
    events = []
    for event in job.events():
        events.append(event)
        if isinstance(event, StepDone) and event.step == 2:
            job.control.stop()
    assert isinstance(events[-1], TrainingEnded) and events[-1].stopped and events[-1].step == 2
    assert (train_options["output_dir"] / "zorb-step00000002.safetensors").exists()
    assert not (train_options["output_dir"] / "zorb.safetensors").exists()


def test_an_aborted_run_writes_nothing_more(train_options):
    job = run(train_options, max_train_steps=50, save_state=True)
    events = []
    for event in job.events():
        events.append(event)
        if isinstance(event, StepDone) and event.step == 2:
            job.control.abort()
    assert events[-1].stopped and events[-1].step == 2 and events[-1].state is None
    assert not list(train_options["output_dir"].rglob("*.safetensors"))


def test_a_lora_is_saved_on_demand_and_the_run_goes_on(train_options):
    plain = list(run(train_options, output_name="plain").events())
    job = run(train_options)
    saved = []
    for event in job.events():
        if isinstance(event, StepDone) and event.step == 1:
            job.control.save_lora()
        if isinstance(event, Saved):
            saved.append(event.path)
    folder = train_options["output_dir"]
    assert saved == [folder / "zorb-step00000001.safetensors", folder / "zorb.safetensors"]
    expected, _ = read(plain[-1].written[-1])
    assert all(torch.equal(tensor, expected[key]) for key, tensor in read(saved[-1])[0].items())


def test_samples_may_be_made_by_somebody_else(train_options, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("zorb --w 64 --h 96 --s 3\n", encoding="utf-8")

    class Painter:
        def generate(self, request, network):
            assert isinstance(network, Network)
            return Image.new("RGB", (request.width, request.height), (request.steps, 0, 0))

    job = run(train_options, sample_prompts=prompts, sample_at_first=True, sample_sampler="one of the host's own")
    job.previewer = Painter()
    (sample,) = [event for event in job.events() if isinstance(event, SampleReady)]
    with Image.open(sample.path) as picture:
        assert picture.size == (64, 96) and picture.getpixel((5, 5)) == (3, 0, 0)


def test_each_step_tells_the_memory_in_use(train_options):
    psutil = pytest.importorskip("psutil")
    told = [event.memory_mb for event in run(train_options).events() if isinstance(event, StepDone)]
    assert told[-1] == pytest.approx(psutil.Process().memory_info().rss / 2**20, rel=0.3)


def test_a_run_stopped_before_its_first_step_writes_no_lora(train_options):
    job = run(train_options)
    job.control.stop()
    events = list(job.events())
    assert events[-1].stopped and events[-1].step == 0
    assert not list(train_options["output_dir"].glob("*.safetensors"))


def test_an_existing_lora_is_not_overwritten_unless_asked_for(train_options):
    path = train_options["output_dir"] / "zorb.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"precious")
    with pytest.raises(StudioError, match="output_name"):
        list(run(train_options).events())
    assert path.read_bytes() == b"precious"
    list(run(train_options, overwrite=True).events())
    assert len(read(path)[0]) > 0


def test_a_loss_that_is_no_number_ends_the_run_and_leaves_no_final_file(train_options):
    with pytest.raises(StudioError, match="not a finite number"):
        list(run(train_options, learning_rate=1e30, max_grad_norm=0, max_train_steps=9).events())
    assert not list(train_options["output_dir"].glob("*.safetensors"))


def test_the_model_is_as_it_was_after_a_run(train_options, tiny_model):
    before = {key: tensor.clone() for key, tensor in tiny_model.unet.state_dict().items()}
    job = run(train_options)
    job.model = tiny_model
    list(job.events())
    assert all(torch.equal(before[key], tensor) for key, tensor in tiny_model.unet.state_dict().items())
    assert not any(module._forward_hooks for module in tiny_model.unet.modules())


@pytest.mark.parametrize(
    ("part", "option"),
    [
        ("unet", {"network_train_unet_only": True}),
        ("unet", {"text_encoder_lr": 0}),
        ("text_encoder", {"network_train_text_encoder_only": True}),
    ],
)
def test_only_the_chosen_part_is_trained(train_options, part, option):
    list(run(train_options, **option).events())
    tensors, metadata = read(train_options["output_dir"] / "zorb.safetensors")
    assert {key.split("_")[1] for key in tensors} == {"unet" if part == "unet" else "te"}
    assert metadata["ss_text_encoder_lr" if part == "unet" else "ss_unet_lr"] == "None"


def test_cached_captions_give_the_same_losses_as_encoding_them_anew(train_options):
    losses = []
    for more in ({"network_train_unet_only": True}, {"text_encoder_lr": 1e-30}):
        events = run(train_options, output_name=f"n{len(losses)}", max_train_steps=2, **more).events()
        losses.append([event.loss for event in events if isinstance(event, StepDone)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_bf16_computation_follows_single_precision(train_options):
    losses = []
    for precision in ("no", "bf16"):
        events = run(train_options, output_name=precision, mixed_precision=precision, learning_rate=1e-4).events()
        losses.append([event.loss for event in events if isinstance(event, StepDone)])
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.03)


def test_an_alpha_above_the_rank_warns(train_options):
    events = list(run(train_options, network_alpha=8).events())
    assert any(isinstance(event, Note) and event.level == "warning" and "alpha" in event.text for event in events)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "more"),
    [
        ("AdamW", {}),
        ("AdaFactor", {"learning_rate": None}),
        ("Lion", {}),
        ("Prodigy", {"learning_rate": None}),
        ("DAdaptAdam", {"learning_rate": None}),
        ("CAME", {"learning_rate": None}),
        ("AdamWScheduleFree", {"learning_rate": None}),
    ],
)
def test_every_optimizer_trains_with_its_own_advice(train_options, optimizer, more):
    options = {**train_options, **more}
    events = list(run(options, optimizer_type=optimizer).events())
    assert sum(isinstance(event, StepDone) for event in events) == 3
    assert (train_options["output_dir"] / "zorb.safetensors").exists()


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"train_data_dir": "nowhere"}, "train_data_dir"),
        ({"reg_data_dir": "nowhere"}, "reg_data_dir"),
        ({"pretrained_model_name_or_path": "nowhere.safetensors"}, "nowhere.safetensors"),
        ({"output_name": "../evil"}, "output_name"),
        ({"optimizer_type": "Adamm"}, "optimizer_type"),
        ({"optimizer_args": ["wieght_decay=1"]}, "optimizer_args"),
        ({"lr_scheduler": "cosin"}, "lr_scheduler"),
        ({"lr_scheduler": "cosine", "lr_warmup_steps": 4}, "lr_warmup_steps"),
        ({"lr_scheduler": "piecewise_constant"}, "lr_step_rules"),
        ({"scale_v_pred_loss_like_noise_pred": True}, "scale_v_pred_loss_like_noise_pred"),
        ({"network_type": "LoRAA"}, "network_type"),
        ({"sample_sampler": "Euler b"}, "sampler"),
        ({"resolution": "big"}, "resolution"),
        ({"network_targets": "("}, "network_targets"),
        ({"sample_every_n_steps": 2}, "sample_prompts"),
        ({"max_train_epochs": 2}, "max_train_steps"),
        ({"min_timestep": 900, "max_timestep": 800}, "min_timestep"),
        ({"device": "cuda:99"}, "device"),
        ({"unet_lr": 0, "text_encoder_lr": 0}, "unet_lr"),
        ({"lr_warmup_steps": 99}, "lr_warmup_steps"),
        ({"max_token_length": 100}, "max_token_length"),
        ({"optimizer_type": "AdamW8bit", "device": "cpu"}, "optimizer_type"),
    ],
)
def test_a_mistake_is_named_before_anything_is_trained(train_options, more, field):
    events = []
    with pytest.raises(StudioError) as caught:
        events.extend(run(train_options, **more).events())
    assert not any(isinstance(event, StepDone) for event in events)
    assert field in str(caught.value)
    assert not list(train_options["output_dir"].glob("*.safetensors"))


def test_a_run_with_all_that_varies_is_the_same_again_from_its_cache_and_says_so_in_the_file(train_options, tmp_path):
    more = {
        "shuffle_caption": True,
        "keep_tokens": 1,
        "caption_dropout_rate": 0.2,
        "caption_tag_dropout_rate": 0.2,
        "flip_aug": True,
        "cache_latents_to_disk": True,
        "cache_dir": tmp_path / "cache",
        "text_encoder_lr": 5e-3,
        "mid_lr_weight": 0.5,
        "down_lr_weight": "zeros",
        "vae_batch_size": 2,
        "train_batch_size": 2,
    }
    files = []
    for name, own in (("memory", {"cache_latents_to_disk": False}), ("first", {}), ("second", {})):
        list(run(train_options, output_name=name, **{**more, **own}).events())
        files.append(read(train_options["output_dir"] / f"{name}.safetensors"))
    (memory, _), (first, metadata), (second, _) = files
    assert all(torch.equal(memory[key], first[key]) and torch.equal(first[key], second[key]) for key in first)
    assert not any("_down_blocks_" in key for key in first)
    expected = {
        "ss_shuffle_caption": "True",
        "ss_keep_tokens": "1",
        "ss_flip_aug": "True",
        "ss_caption_dropout_rate": "0.2",
        "ss_caption_tag_dropout_rate": "0.2",
        "ss_cache_latents": "True",
        "ss_unet_lr": "0.01",
        "ss_text_encoder_lr": "0.005",
    }
    assert {key: metadata[key] for key in expected} == expected
    assert json.loads(metadata["ss_network_args"]) == {"down_lr_weight": "zeros", "mid_lr_weight": "0.5"}
