"""What is held out, and what is measured on it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Note, Saved, StateSaved, StepDone, TrainingEnded, Validated
from lib_lora.base.options import from_mapping
from lib_lora.base.signals import Control
from lib_lora.dataset.records import SETTINGS_FILE
from lib_lora.training.config import TrainConfig, check
from lib_lora.training.noise import sample_noise
from lib_lora.training.planning import make_plan
from lib_lora.training.processes import ALONE
from lib_lora.training.run import Run
from lib_lora.training.same_run import describe_pictures
from lib_lora.training.validation import History, Measurement, Validation


@pytest.fixture
def options(train_options):
    return {**train_options, "network_train_unet_only": True, "network_targets": "cross-attention",
            "validation_split": 0.4}  # fmt: skip


def config(options, **more) -> TrainConfig:
    return from_mapping(TrainConfig, {**options, **more})


def run(options, model, **more) -> Run:
    job = Run(config(options, **more))
    job.model = model
    return job


def names(plan) -> set[str]:
    return {image.record.path.name for image in plan.images}


def test_held_out_pictures_are_shown_once_and_never_trained(options):
    plan = make_plan(config(options))
    held = names(plan.validation)
    assert len(held) == 2 and not held & names(plan) and len(held | names(plan)) == 5
    assert plan.train_samples == 6 and plan.validation.train_samples == 2  # two repeats, and one
    assert names(make_plan(config(options, seed=1)).validation) == names(
        make_plan(config(options, validation_seed=1)).validation
    )
    assert "2 pictures are held out" in plan.describe()


def test_a_new_picture_leaves_the_others_where_they_are(options, pictures):
    before = names(make_plan(config(options)).validation)
    (pictures / "2_zorb" / "9.png").write_bytes((pictures / "2_zorb" / "0.png").read_bytes())
    after = names(make_plan(config(options)).validation)
    assert len(before & after) >= 1


def test_a_split_that_leaves_nothing_to_train_on_is_refused(options, pictures):
    for name in ("1.png", "2.png", "3.png", "4.png"):
        (pictures / "2_zorb" / name).unlink()
    with pytest.raises(StudioError, match="validation_split.*1 pictures"):
        make_plan(config(options))


def loss_by_hand(model, validation: Validation) -> float:
    """The plain squared error in float64, a picture and a timestep at a time."""
    unet, losses = model.unet.double(), []
    for sample, entry in enumerate(validation.data.plan.entries):
        batch = validation.data.batch([sample], torch.device("cpu"), epoch=0)
        assert batch.captions == (entry.record.caption,)
        latent = batch.latents.double()
        for t in (200, 400, 600, 800):
            noise = sample_noise(latent.shape[1:], 42, t, [sample]).double()
            a = model.alphas_cumprod[t]
            noisy = a.sqrt() * latent + (1 - a).sqrt() * noise
            context = batch.conditioning.context.double()
            predicted = unet(noisy, torch.tensor([t]), encoder_hidden_states=context).sample
            losses.append(((predicted - noise) ** 2).mean().item())
    model.unet.float()
    return sum(losses) / len(losses)


@pytest.mark.parametrize(
    "more",
    [{}, {"shuffle_caption": True, "flip_aug": True, "noise_offset": 0.1, "loss_type": "huber", "min_snr_gamma": 5}],
)
def test_the_measure_is_the_plain_error_whatever_is_trained_with(options, tiny_model, more):
    wanted = config(options, **more)
    validation = Validation(make_plan(wanted).validation, wanted, tiny_model)
    for _ in [*validation.data.cache_latents(Control()), *validation.data.cache_texts(Control())]:
        pass
    with torch.no_grad():
        expected = loss_by_hand(tiny_model, validation)
    assert validation.measure(ALONE) == pytest.approx(expected, rel=1e-5)
    assert validation.measure(ALONE) == validation.measure(ALONE)


def test_held_out_pictures_are_shown_as_they_are_whatever_their_folder_says(options, pictures, tiny_model):
    """Captions whole at the first step and in epoch 0; only the option that does not vary them acts."""
    lines = ["caption_dropout_every_n_epochs = 1", "flip_aug = true", "shuffle_caption = true",
             'caption_prefix = "photo"']  # fmt: skip
    (pictures / "2_zorb" / SETTINGS_FILE).write_text("\n".join(lines))
    wanted = config(options, token_warmup_step=0.5, token_warmup_min=0)
    validation = Validation(make_plan(wanted).validation, wanted, tiny_model)
    for _ in [*validation.data.cache_latents(Control()), *validation.data.cache_texts(Control())]:
        pass
    for sample, entry in enumerate(validation.data.plan.entries):
        (caption,) = validation.data.batch([sample], torch.device("cpu"), epoch=0).captions
        assert caption.startswith("photo") and caption.endswith(entry.record.caption)


def test_held_out_pictures_are_part_of_the_same_run(options, pictures):
    plan = make_plan(config(options))
    before = describe_pictures(plan)
    held = plan.validation.images[0].record.path
    assert f"2_zorb/{held.name} (held out)" in before
    held.with_suffix(".txt").write_text("another caption")
    after = describe_pictures(make_plan(config(options)))
    assert [name for name in before if before[name] != after[name]] == [f"2_zorb/{held.name} (held out)"]


def test_measurements_come_when_they_are_due_and_say_which_was_the_best(options, tiny_model):
    events = list(
        run(options, tiny_model, max_train_steps=14, validate_every_n_steps=4, lr_scheduler="constant").events()
    )
    measured = [event for event in events if isinstance(event, Validated)]
    assert [event.step for event in measured] == [4, 8, 12]
    events = list(run(options, tiny_model, max_train_steps=14, overwrite=True, save_every_n_epochs=1).events())
    measured = [event for event in events if isinstance(event, Validated)]
    assert [(event.step, event.epoch) for event in measured] == [(6, 1), (12, 2), (14, 3)]
    best = min(measured, key=lambda event: event.loss)
    assert [event.best for event in measured] == [
        event.loss == min(each.loss for each in measured[: index + 1]) for index, event in enumerate(measured)
    ]
    saved = [event for event in events if isinstance(event, Saved) and event.path.stem == "zorb-best"]
    assert saved[-1].step == best.step
    with safe_open(options["output_dir"] / "zorb-best.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert (metadata["ss_steps"], metadata["ss_validation_best_step"]) == (str(best.step), str(best.step))
    assert (metadata["ss_num_validation_images"], metadata["ss_validation_split"]) == ("2", "0.4")
    assert any(isinstance(event, Note) and f"the best was epoch {best.epoch}" in event.text for event in events)


def test_a_measurement_leaves_the_training_as_it_is(options, tiny_model):
    """Every step is measured, or none: the LoRA is the same bit for bit."""
    list(run(options, tiny_model, validate_every_n_steps=1, output_name="often", network_dropout=0.1).events())
    list(run(options, tiny_model, validate_every_n_steps=100, output_name="never", network_dropout=0.1).events())
    often, never = (load_file(options["output_dir"] / f"{name}.safetensors") for name in ("often", "never"))
    assert all(torch.equal(often[key], never[key]) for key in often)


def filled(losses: Sequence[float], patience: int | None = None) -> tuple[History, list[bool]]:
    history = History(patience)
    return history, [history.add(Measurement(step, 1, loss)) for step, loss in enumerate(losses, 1)]


def test_the_best_is_the_first_of_the_lowest():
    history, best = filled([3.0, 2.0, 2.0, 2.5])
    assert best == [True, True, False, False] and history.best.step == 2
    history, best = filled([float("nan"), 2.0])
    assert best == [True, True]


def test_patience_counts_what_came_after_the_best():
    assert [filled([3, 2, 2.5, 2.6][:count], 2)[0].is_exhausted for count in range(5)] == [False] * 4 + [True]
    assert not filled([3, 2, 2.5, 2.6])[0].is_exhausted


def test_patience_counts_what_is_measured_again_after_the_run_went_back_behind_the_best():
    history, _ = filled([3.0, 2.5, 2.6, 1.0, 1.5], 2)
    history.go_back(3)
    assert [history.is_exhausted, history.add(Measurement(4, 1, 2.0)), history.is_exhausted] == [False, False, False]
    again = History(2)
    again.load_state_dict(history.state_dict())
    assert not again.add(Measurement(5, 1, 1.9)) and again.is_exhausted


def test_a_best_one_stays_the_best_when_the_run_goes_back_behind_it():
    history, _ = filled([3.0, 2.0, 1.0])
    history.go_back(2)
    assert [each.step for each in history.measured] == [1, 2] and history.best.step == 3
    again = History()
    again.load_state_dict(history.state_dict())
    assert (again.measured, again.best) == (history.measured, history.best)


def test_a_run_that_gets_no_better_ends_early_and_resumed_at_the_same_step(options, tiny_model):
    """At a rate of 1 what is held out gets worse with each step."""
    more = {"learning_rate": 1.0, "lr_scheduler": "constant", "validate_every_n_steps": 1, "early_stop_patience": 2,
            "max_train_steps": 10, "save_state_every_n_steps": 1}  # fmt: skip
    events = list(run(options, tiny_model, **more, output_name="whole").events())
    steps = [event.step for event in events if isinstance(event, StepDone)]
    measured = [event for event in events if isinstance(event, Validated)]
    best = max(event.step for event in measured if event.best)
    assert steps[-1] == best + 2 < 10
    assert isinstance(events[-1], TrainingEnded) and not events[-1].stopped
    assert any(isinstance(event, Note) and "ended early" in event.text for event in events)
    for event in run(options, tiny_model, **more).events():
        if isinstance(event, StateSaved) and event.step == best + 1:
            break
    resumed = list(run(options, tiny_model, **more, resume=event.path).events())
    assert [event.step for event in resumed if isinstance(event, StepDone)] == [best + 2]
    whole, again = (load_file(options["output_dir"] / f"{name}.safetensors") for name in ("whole", "zorb"))
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_patience_without_held_out_pictures_is_refused(train_options):
    with pytest.raises(StudioError, match="early_stop_patience.*validation_split"):
        check(config(train_options, early_stop_patience=2))
