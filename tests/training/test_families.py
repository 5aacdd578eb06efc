"""Every family through a whole run: train, save, sample; and the first step's loss written out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from lib_lora.adapters.network import Network
from lib_lora.adapters.save import read_tensors
from lib_lora.base.events import Note, SampleReady, Saved, StepDone
from lib_lora.base.options import from_mapping
from lib_lora.base.protocols import PictureRequest
from lib_lora.hosts.standalone.generator import StandaloneGenerator
from lib_lora.models.loader import load_model
from lib_lora.training.config import TrainConfig
from lib_lora.training.data import Batch
from lib_lora.training.denoising import Denoising
from lib_lora.training.draws import StepRandom
from lib_lora.training.inpainting import masked_inputs
from lib_lora.training.noise import sample_noise, sample_timesteps
from lib_lora.training.run import Run

FAMILIES = ("SD2", "SDXL", "SD1 inpainting", "SDXL inpainting")
BASE_VERSION = {"SD1": "sd_v1", "SD2": "sd_v2_v", "SDXL": "sdxl_base_v1-0"}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_run_trains_saves_and_samples(name, tiny_checkpoints, train_options, tmp_path):
    family = name.split()[0]
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("zorb, red --s 1 --w 64 --h 64", encoding="utf-8")
    options = {
        **train_options,
        "pretrained_model_name_or_path": tiny_checkpoints[name],
        "max_train_steps": 2,
        "conv_dim": 2,
        "train_batch_size": 2,
        "min_snr_gamma": 5.0,
        "sample_prompts": prompts,
        "sample_every_n_steps": 2,
    }
    events = list(Run(from_mapping(TrainConfig, options)).events())
    assert sum(isinstance(event, StepDone) for event in events) == 2
    (saved,) = (event.path for event in events if isinstance(event, Saved) and event.final)
    (sample,) = (event.path for event in events if isinstance(event, SampleReady))
    assert sample.stat().st_size > 1000
    notes = [event.text for event in events if isinstance(event, Note)]
    assert any(f"{family} checkpoint{' for inpainting' if 'inpainting' in name else ''}" in note for note in notes)
    assert any(("v-prediction" if family == "SD2" else "epsilon") in note for note in notes)

    tensors, metadata = read_tensors(saved)
    assert metadata["ss_base_model_version"] == BASE_VERSION[family]
    assert metadata["ss_v2"] == str(family == "SD2")
    parts = {"lora_unet_", "lora_te1_", "lora_te2_"} if family == "SDXL" else {"lora_unet_", "lora_te_"}
    assert {key[: key.index("_", 5) + 1] for key in tensors} == parts
    for part in parts:
        assert any(key.startswith(part) and "lora_up" in key and tensors[key].abs().max() > 0 for key in tensors), part

    model = load_model(tiny_checkpoints[name])
    request = {"seed": 1, "steps": 1, "width": 64, "height": 64, "cfg_scale": 2.0}
    generator = StandaloneGenerator(model, saved.parent)
    plain = generator.generate(PictureRequest("red", **request))
    assert generator.generate(PictureRequest("red <lora:zorb:9>", **request)).tobytes() != plain.tobytes()
    assert generator.generate(PictureRequest("red", **request)).tobytes() == plain.tobytes()


def config(**options):
    return TrainConfig(
        pretrained_model_name_or_path=Path("model"), train_data_dir=Path("pictures"), output_name="name", **options
    )


def batch(inpainting=False):
    generator = torch.Generator().manual_seed(4)
    return Batch(
        latents=torch.randn(2, 4, 8, 8, generator=generator),
        captions=("zorb, red dog", "blue cat"),
        conditioning=None,
        sizes=torch.tensor([[300.0, 200.0, 10.0, 0.0, 64.0, 64.0], [64.0, 64.0, 0.0, 0.0, 64.0, 64.0]]),
        weights=torch.tensor([1.0, 0.5]),
        sample_ids=(6, 2),
        pixels=torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=generator) if inpainting else None,
    )


def text_of_sdxl(model, caption):
    """Penultimate states of both encoders and the projected end, as transformers gives them."""
    contexts = []
    for encoder, tokenizer in zip(model.text_encoders, model.tokenizers):
        tokens = tokenizer.encode(caption)
        row = [tokenizer.bos_id, *tokens, tokenizer.eos_id] + [tokenizer.pad_id] * (75 - len(tokens))
        output = encoder(input_ids=torch.tensor([row]), output_hidden_states=True)
        contexts.append(output.hidden_states[-2])
    return torch.cat(contexts, dim=-1), output.text_embeds


@torch.no_grad()
def test_sdxls_loss_written_out(tiny_checkpoints):
    model, data, rng = load_model(tiny_checkpoints["SDXL"]), batch(), StepRandom(3, 1)
    ours = Denoising(config(), model)(model, data, rng)
    noise, t = sample_noise((4, 8, 8), 3, 1, (6, 2)), sample_timesteps(3, 1, (6, 2))
    for row, caption in enumerate(data.captions):
        alpha = model.alphas_cumprod[t[row]].item()
        noisy = alpha**0.5 * data.latents[row] + (1 - alpha) ** 0.5 * noise[row]
        context, pooled = text_of_sdxl(model, caption)
        added = {"text_embeds": pooled, "time_ids": data.sizes[row : row + 1]}
        out = model.unet(noisy[None], t[row], encoder_hidden_states=context, added_cond_kwargs=added).sample[0]
        expected = ((out - noise[row]) ** 2).mean() * data.weights[row]
        assert ours.loss[row].item() == pytest.approx(expected.item(), rel=1e-4)


@torch.no_grad()
def test_inpaintings_loss_written_out(tiny_checkpoints):
    model, data, rng = load_model(tiny_checkpoints["SD2 inpainting"]), batch(inpainting=True), StepRandom(3, 1)
    ours = Denoising(config(), model)(model, data, rng)
    noise, t = sample_noise((4, 8, 8), 3, 1, (6, 2)), sample_timesteps(3, 1, (6, 2))
    masked = masked_inputs(model, data, rng)
    (tokenizer,) = model.tokenizers
    for row, caption in enumerate(data.captions):
        tokens = tokenizer.encode(caption)
        ids = [tokenizer.bos_id, *tokens, tokenizer.eos_id] + [0] * (75 - len(tokens))
        context = model.text_encoders[0](input_ids=torch.tensor([ids])).last_hidden_state
        alpha = model.alphas_cumprod[t[row]].item()
        noisy = alpha**0.5 * data.latents[row] + (1 - alpha) ** 0.5 * noise[row]
        x = torch.cat([noisy, masked[row]])[None]
        out = model.unet(x, t[row], encoder_hidden_states=context).sample[0]
        v = alpha**0.5 * noise[row] - (1 - alpha) ** 0.5 * data.latents[row]
        assert ours.raw[row].item() == pytest.approx(((out - v) ** 2).mean().item(), rel=1e-4)


def test_sizes_change_sdxls_prediction(tiny_checkpoints):
    model, data = load_model(tiny_checkpoints["SDXL"]), batch()
    objective, rng = Denoising(config(), model), StepRandom(3, 1)
    other = Batch(**{**vars(data), "sizes": data.sizes.flip(0)})
    with torch.no_grad():
        assert not torch.allclose(objective(model, data, rng).raw, objective(model, other, rng).raw, rtol=1e-3)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_is_finite_where_nothing_is_left_of_the_picture(tiny_checkpoints, prediction_type):
    model = load_model(tiny_checkpoints["SD1 inpainting"])
    model.zero_terminal_snr, model.prediction_type = True, prediction_type
    loss = Denoising(config(min_snr_gamma=5.0, min_timestep=999), model)(
        model, batch(inpainting=True), StepRandom(3, 1)
    ).loss
    # min(SNR, g) / SNR is 1 in the limit, min(SNR, g) / (SNR + 1) is 0.
    assert torch.isfinite(loss).all() and bool((loss > 0).all()) == (prediction_type == "epsilon")


def test_the_options_of_prediction_reach_the_run_and_the_file(tiny_checkpoints, train_options):
    options = {
        **train_options,
        "pretrained_model_name_or_path": tiny_checkpoints["SDXL"],
        "max_train_steps": 1,
        "prediction_type": "v_prediction",
        "zero_terminal_snr": "on",
        "network_train_unet_only": True,
        "clip_skip": 2,
    }
    events = list(Run(from_mapping(TrainConfig, options)).events())
    notes = " ".join(event.text for event in events if isinstance(event, Note))
    assert "v-prediction with zero terminal SNR, according to the option prediction_type" in notes
    assert "clip_skip 2 has no effect" in notes
    with safe_open(train_options["output_dir"] / "zorb.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["ss_zero_terminal_snr"] == "True" and metadata["modelspec.prediction_type"] == "v"


def test_names_of_diffusers_are_understood_in_sdxl_files(tiny_checkpoints):
    model = load_model(tiny_checkpoints["SDXL"])
    name = "down_blocks_1_attentions_0_proj_in"
    tensors = {
        f"lora_unet_{name}.lora_down.weight": torch.ones(2, 64),
        f"lora_unet_{name}.lora_up.weight": torch.ones(64, 2),
        f"lora_unet_{name}.alpha": torch.tensor(2.0),
    }
    network = Network.from_file_tensors(model.unet, model.text_encoders, tensors)
    assert [adapter.key for adapter in network] == ["lora_unet_input_blocks_4_1_proj_in"]
