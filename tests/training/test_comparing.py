"""Objectives that compare predictions with and without the network: formulas, plans, whole runs, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors import safe_open
from safetensors.torch import load_file

from lib_lora.adapters.network import Network
from lib_lora.adapters.spec import NetworkSpec
from lib_lora.base.errors import StudioError
from lib_lora.base.events import PreflightDone, StateSaved, StepDone
from lib_lora.base.options import from_mapping
from lib_lora.base.signals import Control
from lib_lora.models.conditioning import Conditioning
from lib_lora.models.loader import load_model
from lib_lora.models.prompt import encode_captions
from lib_lora.training.comparing import make_objective, slider_target
from lib_lora.training.config import TrainConfig, check
from lib_lora.training.data import TrainingData
from lib_lora.training.draws import NoiseOptions, StepRandom, sample_draws
from lib_lora.training.latents import Side
from lib_lora.training.noise import noise_of_velocity, velocity
from lib_lora.training.planning import make_plan
from lib_lora.training.preflight import preflight
from lib_lora.training.run import Run

ILECO = {"objective": "iLECO", "original_prompt": "red dog", "target_prompt": "blue cat"}
SLIDER = {
    "objective": "slider",
    "target_prompt": "zorb",
    "positive_prompt": "zorb, red",
    "negative_prompt": "zorb, blue",
    "slider_guidance": 2.5,
}
ADDIFT = {"objective": "ADDifT"}
RNG = StepRandom(42, 1)


@pytest.fixture
def noise_options(train_options):
    """Of a run without pictures."""
    return {name: value for name, value in train_options.items() if name not in ("train_data_dir", "min_bucket_reso")}


@pytest.fixture
def pair_options(train_options, tmp_path):
    """Of a run on two pairs of pictures, of which one changed picture has a caption of its own."""
    folder = tmp_path / "pairs" / "1_zorb"
    folder.mkdir(parents=True)
    for index, name in enumerate(("a", "b")):
        picture = Image.new("RGB", (128, 128), (90 * index, 80, 200))
        picture.save(folder / f"{name}.png")
        ImageDraw.Draw(picture).ellipse([20, 20, 80 + 5 * index, 90], fill="red")
        picture.save(folder / f"{name}_target.png")
        (folder / f"{name}.txt").write_text("blue cat", encoding="utf-8")
    (folder / "a_target.txt").write_text("red dog", encoding="utf-8")
    return {**train_options, **ADDIFT, "train_data_dir": folder.parent}


class Setting:
    """A tiny model in float64, a network that is no longer zero, and the objective with its data."""

    def __init__(self, options, checkpoint=None, **more):
        self.config = from_mapping(TrainConfig, {**options, **more})
        self.model = load_model(checkpoint or options["pretrained_model_name_or_path"], compute_dtype=torch.float64)
        spec = NetworkSpec(rank=2, alpha=1.0)
        self.network = Network.create(self.model.unet, self.model.text_encoders, spec, seed=1).double()
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in self.network.parameters():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        plan = make_plan(self.config)
        self.data = TrainingData(plan, self.config, self.model)
        self.targets = TrainingData(plan.targets, self.config, self.model) if plan.targets else None
        for store in filter(None, (self.data, self.targets)):
            list(store.cache_latents(Control()))
        self.objective = make_objective(self.config, self.model, self.network, self.data, self.targets)

    def loss(self, ids, step=0):
        batch = self.data.batch(ids, self.model.device, RNG.epoch)
        self.network.set_step(step, ids)
        self.network.attach()
        try:
            return self.objective(self.model, batch, RNG)
        finally:
            self.network.detach_from_model()

    def predict(self, noisy, timesteps, texts, strength):
        """With weights that have strength times the network merged in, by plain means."""
        batch = self.data.batch([0] * len(texts), self.model.device, RNG.epoch)
        changed = [(each.target.layer.weight, strength * each.dense_delta().double()) for each in self.network]
        with torch.no_grad():
            before = [weight.clone() for weight, _ in changed]
            for weight, delta in changed:
                weight.add_(delta.view(weight.shape))
            encoded = encode_captions(self.model, texts, clip_skip=1, max_tokens=75, weighted=False)
            pooled = None if encoded.pooled is None else encoded.pooled.double()
            conditioning = Conditioning(encoded.context.double(), pooled)
            prediction = self.model.predict(noisy, timesteps, conditioning, batch.sizes)
            for (weight, _), old in zip(changed, before):
                weight.copy_(old)
        return prediction.numpy()


def draws_of(setting, ids):
    config = setting.config
    shape = setting.data.batch(ids, setting.model.device, RNG.epoch).latents.shape[1:]
    return sample_draws(shape, config.seed, RNG.epoch, ids, NoiseOptions(), config.min_timestep, config.max_timestep)


def mean_square(error):
    return (error**2).mean(axis=(1, 2, 3))


@pytest.mark.parametrize("family", ["SD1", "SDXL"])
def test_ileco_is_the_formula(noise_options, tiny_checkpoints, family):
    setting = Setting({**noise_options, **ILECO}, tiny_checkpoints[family], min_timestep=400)
    ids = [3, 50, 7]
    draws = draws_of(setting, ids)
    z, t = draws.noise.double(), draws.timesteps
    got = setting.loss(ids)
    error = setting.predict(z, t, ("red dog",) * 3, 1.0) - setting.predict(z, t, ("blue cat",) * 3, 0.0)
    np.testing.assert_allclose(got.loss.detach().numpy(), mean_square(error), rtol=1e-5)
    assert not got.raw.requires_grad and min(t) >= 400


def test_a_slider_is_the_formula_in_both_polarities(noise_options):
    setting = Setting({**noise_options, **SLIDER})
    ids = [3, 50]
    draws = draws_of(setting, ids)
    z, t = draws.noise.double(), draws.timesteps
    n, p, neg = (setting.predict(z, t, (text,) * 2, 0.0) for text in ("zorb", "zorb, red", "zorb, blue"))
    expected = np.zeros(2)
    for sign in (1.0, -1.0):
        target = n + sign * 2.5 * (p - neg)
        for i in range(2):
            target[i] *= np.linalg.norm(n[i]) / np.linalg.norm(target[i])
        expected += mean_square(setting.predict(z, t, ("zorb",) * 2, sign) - target) / 2
    np.testing.assert_allclose(setting.loss(ids).loss.detach().numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("family", ["SD1", "SD2"])  # noise and velocity
def test_addift_is_the_formula_with_each_picture_s_caption(pair_options, tiny_checkpoints, family, step):
    setting = Setting(pair_options, tiny_checkpoints[family], min_timestep=200, max_timestep=900)
    ids = [0, 1]
    draws = draws_of(setting, ids)
    t, a_bar = draws.timesteps, setting.model.alphas_cumprod[draws.timesteps].view(-1, 1, 1, 1)
    pictures = {}
    for name, data, captions in (
        ("A", setting.data, ("blue cat", "blue cat")),
        ("B", setting.targets, ("red dog", "blue cat")),  # without a caption of its own the first one's
    ):
        latents = data.batch(ids, setting.model.device, RNG.epoch).latents.double()
        pictures[name] = (a_bar.sqrt() * latents + (1 - a_bar).sqrt() * draws.noise.double(), captions)

    def noise(name, strength):
        noisy, captions = pictures[name]
        prediction = setting.predict(noisy, t, captions, strength)
        if family == "SD1":
            return prediction
        return a_bar.sqrt().numpy() * prediction + (1 - a_bar).sqrt().numpy() * noisy.numpy()

    error = noise("B", 0.25) - noise("A", 0.0) if step == 0 else noise("A", -0.25) - noise("B", 0.0)
    np.testing.assert_allclose(setting.loss(ids, step).loss.detach().numpy(), mean_square(error), rtol=1e-5)


def test_only_the_side_with_the_network_has_a_gradient(noise_options):
    setting = Setting({**noise_options, **ILECO})
    setting.loss([0]).loss.sum().backward()
    grads = [parameter.grad for parameter in setting.network.parameters()]
    assert any(grad is not None and grad.abs().max() > 0 for grad in grads)
    assert all(parameter.grad is None for parameter in setting.model.unet.parameters())


def test_a_slider_s_target_keeps_its_length():
    generator = torch.Generator().manual_seed(0)
    n, p, neg = (torch.randn(2, 4, 3, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    target = slider_target(n, p, neg, 3.0)
    torch.testing.assert_close(target.flatten(1).norm(dim=1), n.flatten(1).norm(dim=1))
    assert torch.isfinite(slider_target(torch.zeros_like(n), n, n, 3.0)).all()


def test_the_noise_of_a_velocity_is_that_of_its_picture():
    generator = torch.Generator().manual_seed(0)
    z, eps = (torch.randn(2, 4, 3, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    alphas, t = torch.tensor([0.9, 0.3], dtype=torch.float64), torch.tensor([0, 1])
    a_bar = alphas.view(-1, 1, 1, 1)
    noisy = a_bar.sqrt() * z + (1 - a_bar).sqrt() * eps
    torch.testing.assert_close(noise_of_velocity(velocity(z, eps, t, alphas), noisy, t, alphas), eps)


# -- plans --


def test_a_run_without_pictures_counts_epochs_of_a_hundred_steps(noise_options):
    more = {"train_batch_size": 2, "gradient_accumulation_steps": 3, "max_train_steps": 250}
    config = from_mapping(TrainConfig, {**noise_options, **ILECO, **more})
    assert len(make_plan(config, processes=2).entries) == 1200
    plan = make_plan(config)
    assert (plan.steps_per_epoch, plan.epochs, plan.total_steps, len(plan.entries)) == (100, 3, 250, 600)
    text = plan.describe()
    assert "No pictures: 600 samples of noise an epoch, 64x64" in text and "Dataset" not in text
    assert '"red dog" comes to mean what "blue cat" means' in text


def test_the_plans_of_a_slider_and_of_pairs_say_what_is_learnt(noise_options, pair_options):
    text = make_plan(from_mapping(TrainConfig, {**noise_options, **SLIDER})).describe()
    assert '"zorb, red"' in text and '"zorb, blue"' in text and "2.5" in text
    plan = make_plan(from_mapping(TrainConfig, pair_options))
    assert [image.record.path.name for image in plan.images] == ["a.png", "b.png"]
    assert [image.record.path.name for image in plan.targets.images] == ["a_target.png", "b_target.png"]
    assert [image.record.caption for image in plan.targets.images] == ["red dog", "blue cat"]
    assert "_target" in plan.describe()


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (lambda folder: (folder / "a.png").unlink(), "diff_target_name"),
        (lambda folder: (folder / "b_target.png").unlink(), "diff_target_name"),
        (lambda folder: Image.new("RGB", (128, 192)).save(folder / "b_target.png"), "train_data_dir"),
    ],
)
def test_pictures_that_are_no_pair_are_named(pair_options, spoil, field):
    spoil(pair_options["train_data_dir"] / "1_zorb")
    with pytest.raises(StudioError, match=r"\.png") as caught:
        make_plan(from_mapping(TrainConfig, pair_options))
    assert caught.value.field == field


def test_both_pictures_of_a_pair_are_mirrored_together(pair_options):
    setting, seen = Setting(pair_options, flip_aug=True), set()
    for epoch in range(1, 9):
        first, second = (store.batch([0], setting.model.device, epoch) for store in (setting.data, setting.targets))
        mirrored = [
            torch.equal(batch.latents[0], store.latents.latent(Side(0, flipped=True)))
            for batch, store in ((first, setting.data), (second, setting.targets))
        ]
        seen.add(tuple(mirrored))
    assert seen == {(False, False), (True, True)}


# -- whole runs --


def run(options, model=None, **more):
    job = Run(from_mapping(TrainConfig, {**options, **more}))
    check(job.config)
    job.model = model
    return job


RUNS = {
    "iLECO": ({**ILECO, "network_train_unet_only": True}, "noise_options"),
    "iLECO with text encoder": (ILECO, "noise_options"),
    "slider": ({**SLIDER, "gradient_checkpointing": True, "network_train_unet_only": True}, "noise_options"),
    "ADDifT": ({"flip_aug": True, "network_train_unet_only": True}, "pair_options"),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_learns_and_goes_on_bit_for_bit_after_being_killed(name, request, tiny_model):
    more, fixture = RUNS[name]
    options = {**request.getfixturevalue(fixture), **more, "train_batch_size": 2, "network_dropout": 0.1}
    options |= {"network_targets": r"(mid_block|layers\.0).*(attn2|self_attn)", "max_train_steps": 3}
    events = list(run(options, tiny_model, output_name="whole").events())
    assert len([event for event in events if isinstance(event, StepDone) and event.loss > 0]) == 3
    for event in run(options, tiny_model, save_state_every_n_steps=1).events():
        if isinstance(event, StateSaved) and event.step == 2:
            break  # as if it had been killed
    resumed = run(options, tiny_model, resume=event.path)
    assert [event.step for event in resumed.events() if isinstance(event, StepDone)] == [3]
    whole, again = (load_file(options["output_dir"] / f"{each}.safetensors") for each in ("whole", "zorb"))
    assert whole.keys() == again.keys() and all(torch.equal(whole[key], again[key]) for key in whole)
    assert any(tensor.abs().max() > 0 for key, tensor in whole.items() if "lora_up" in key)
    with safe_open(options["output_dir"] / "whole.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["ss_objective"] == options["objective"]
    if fixture == "noise_options":
        assert (metadata["ss_num_train_images"], metadata["ss_dataset_dirs"]) == ("0", "{}")
        assert metadata["ss_target_prompt"] == options["target_prompt"]


def test_checkpointing_changes_nothing_although_strengths_differ_within_a_step(noise_options, tiny_model):
    """A layer that is computed again must be so at the strength that it had."""
    options = {**noise_options, **SLIDER, "max_train_steps": 2, "network_targets": r"mid_block.*attn"}
    for name in (False, True):
        list(run(options, tiny_model, output_name=str(name), gradient_checkpointing=name).events())
    plain, again = (load_file(options["output_dir"] / f"{name}.safetensors") for name in (False, True))
    for key in plain:
        torch.testing.assert_close(again[key], plain[key], rtol=1e-4, atol=1e-6)


def test_ileco_brings_the_prompt_s_prediction_to_the_other_s(noise_options, tiny_model):
    options = {**noise_options, **ILECO, "network_train_unet_only": True, "network_targets": "cross-attention"}
    losses = [
        event.loss
        for event in run(options, tiny_model, max_train_steps=20, min_timestep=900, learning_rate=1e-2).events()
        if isinstance(event, StepDone)
    ]
    print(losses)
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


@pytest.mark.parametrize("fixture", ["noise_options", "pair_options"])
def test_the_preflight_makes_the_same_steps(fixture, request, tiny_model):
    options = {
        **request.getfixturevalue(fixture),
        "network_train_unet_only": True,
        "network_targets": "mid_block.*attn",
    }
    options |= ILECO if fixture == "noise_options" else {}
    done = list(preflight(from_mapping(TrainConfig, options), Control(), tiny_model))[-1]
    assert isinstance(done, PreflightDone) and done.steps == 3


# -- what is refused --

REFUSED = [
    ("train_data_dir", {"train_data_dir": None}),
    ("original_prompt", {"original_prompt": "dog"}),
    ("slider_guidance", {"slider_guidance": 2.0}),
    ("diff_target_name", {"diff_target_name": "_b"}),
    ("train_data_dir", {**ILECO}),
    ("original_prompt", {**ILECO, "train_data_dir": None, "original_prompt": " "}),
    ("target_prompt", {**ILECO, "train_data_dir": None, "target_prompt": "red dog"}),
    ("positive_prompt", {**ILECO, "train_data_dir": None, "positive_prompt": "x"}),
    ("flip_aug", {**ILECO, "train_data_dir": None, "flip_aug": True}),
    ("cache_latents_to_disk", {**ILECO, "train_data_dir": None, "cache_latents_to_disk": True}),
    ("negative_prompt", {**SLIDER, "train_data_dir": None, "negative_prompt": "zorb, red"}),
    ("positive_prompt", {**SLIDER, "train_data_dir": None, "positive_prompt": ""}),
    ("original_prompt", {**SLIDER, "train_data_dir": None, "original_prompt": "x"}),
    ("noise_offset", {**ADDIFT, "noise_offset": 0.1}),
    ("min_snr_gamma", {**ADDIFT, "min_snr_gamma": 5}),
    ("reg_data_dir", {**ADDIFT, "reg_data_dir": "reg"}),
    ("validation_split", {**ADDIFT, "validation_split": 0.2}),
    ("diff_target_name", {**ADDIFT, "diff_target_name": ""}),
    ("target_prompt", {**ADDIFT, "target_prompt": "x"}),
]


@pytest.mark.parametrize(("field", "more"), REFUSED)
def test_what_means_nothing_for_an_objective_is_refused_by_name(train_options, field, more):
    options = {name: value for name, value in train_options.items() if name != "min_bucket_reso"}
    with pytest.raises(StudioError) as caught:
        check(from_mapping(TrainConfig, {**options, **more}))
    assert caught.value.field == field


def test_inpainting_is_refused_before_the_first_step(noise_options, tiny_checkpoints):
    checkpoint = tiny_checkpoints["SD1 inpainting"]
    with pytest.raises(StudioError, match="objective"):
        list(run(noise_options, pretrained_model_name_or_path=checkpoint, **ILECO).events())
