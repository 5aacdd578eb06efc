from __future__ import annotations

import copy
import time
from dataclasses import replace

import pytest
import torch
from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.base.events import PreflightDone, Progress, event_from_json, event_to_json
from lib_lora.base.options import from_mapping
from lib_lora.base.signals import Control
from lib_lora.training import preflight as module
from lib_lora.training.config import TrainConfig
from lib_lora.training.planning import make_plan
from lib_lora.training.preflight import (
    STEPS,
    Measured,
    ending,
    is_out_of_memory,
    larger_batch,
    larger_resolution,
    preflight,
    rehearsal,
    run_seconds,
    ways_out,
)

FULL = "CUDA out of memory. Tried to allocate 20.00 MiB"


@pytest.fixture
def config(train_options) -> TrainConfig:
    return from_mapping(TrainConfig, {**train_options, "max_train_steps": 40, "lr_warmup_steps": 30})


@pytest.fixture
def two_steps(monkeypatch):
    """Each attempt makes as few steps as it may."""
    monkeypatch.setattr(module, "_ENOUGH_SECONDS", 0.0)


def done(events) -> PreflightDone:
    last = list(events)[-1]
    assert isinstance(last, PreflightDone)
    return last


def fill_up(model, monkeypatch, fits) -> list[tuple[int, ...]]:
    """A card that is full wherever ``fits`` does not say otherwise; the shapes that the UNet was asked for."""
    seen, forward = [], model.unet.forward

    def limited(x, *args, **kwargs):
        seen.append(tuple(x.shape))
        if not fits(x):
            raise torch.cuda.OutOfMemoryError(FULL)
        return forward(x, *args, **kwargs)

    monkeypatch.setattr(model.unet, "forward", limited)
    return seen


def checkpointed(model) -> bool:
    """Whether the UNet's layers are computed again."""
    return any("forward" in vars(layer) for layer in model.unet.mid_block.resnets)


# The steps


def test_real_steps_are_made_and_told(config, tmp_path):
    events = list(preflight(config, Control()))
    steps = [event.done for event in events if isinstance(event, Progress) and event.what == "preflight"]
    assert steps == list(range(1, STEPS + 1))
    last = events[-1]
    assert last.steps == 40 and last.seconds_per_step > 0 and last.card_mb is None
    assert last.seconds_total > 40 * 0.5 * last.seconds_per_step and last.memory_mb > 100
    assert "it ends at" in last.advice[0]
    assert event_from_json(event_to_json(last)) == last


def test_no_lora_no_state_and_no_log_is_written(config, tmp_path, two_steps):
    done(preflight(replace(config, save_every_n_steps=1, save_state_every_n_steps=1, save_state=True), Control()))
    assert not config.output_dir.exists()


def test_the_model_is_left_as_it_was(config, tiny_model, two_steps):
    tiny_model.zero_terminal_snr = False
    weights = copy.deepcopy([part.state_dict() for part in tiny_model.modules()])
    facts = {name: value for name, value in vars(tiny_model).items() if isinstance(value, (str, bool))}
    changing = replace(
        config, prediction_type="v_prediction", zero_terminal_snr="on", gradient_checkpointing=True, device="auto"
    )
    done(preflight(changing, Control(), tiny_model))
    assert {name: getattr(tiny_model, name) for name in facts} == facts
    for part, before in zip(tiny_model.modules(), weights):
        assert all(torch.equal(value, before[name]) for name, value in part.state_dict().items())
        assert not any(parameter.requires_grad for parameter in part.parameters())
        assert not any(inner._forward_hooks or "forward" in vars(inner) for inner in part.modules())


def test_it_stops_when_it_is_told_to(config):
    control, events = Control(), []
    for event in preflight(config, control):
        events.append(event)
        if isinstance(event, Progress) and event.what == "preflight":
            control.stop()
    assert not any(isinstance(event, PreflightDone) for event in events)
    assert sum(isinstance(event, Progress) and event.what == "preflight" for event in events) == 1


def test_slow_steps_are_not_all_made(config, two_steps):
    events = list(preflight(config, Control()))
    assert sum(isinstance(event, Progress) and event.what == "preflight" for event in events) == 2


def test_the_first_step_does_not_count(config, tiny_model, monkeypatch, two_steps):
    forward, calls = tiny_model.unet.forward, []

    def slow_at_first(*args, **kwargs):
        calls.append(1)
        if len(calls) == 1:
            time.sleep(2)
        return forward(*args, **kwargs)

    monkeypatch.setattr(tiny_model.unet, "forward", slow_at_first)
    assert done(preflight(config, Control(), tiny_model)).seconds_per_step < 2


def test_faults_of_options_are_errors(config):
    with pytest.raises(StudioError) as caught:
        list(preflight(replace(config, optimizer_type="nothing"), Control()))
    assert caught.value.field == "optimizer_type"


# The plan of the steps


def test_the_heaviest_batch_is_tried(config, pictures):
    Image.new("RGB", (256, 64)).save(pictures / "2_zorb" / "wide.png")  # one bucket of 128x32, which is as large
    plan = make_plan(replace(config, resolution="64", bucket_reso_steps=32, min_bucket_reso=32, train_batch_size=4))
    small = rehearsal(plan)
    (size,) = small.buckets
    assert plan.buckets[size] >= 4 and small.batch_size == 4
    assert small.steps_per_epoch == STEPS and len(small.entries) == 4 * STEPS and small.total_steps == 40
    assert {entry.bucket.resolution for entry in small.entries} == {size}
    assert all(small.images[entry.image].record == entry.record for entry in small.entries)


def test_a_batch_that_no_bucket_fills_is_tried_as_it_is(config):
    plan = make_plan(replace(config, train_batch_size=64))
    assert rehearsal(plan).batch_size == max(plan.buckets.values())


def test_gathered_batches_make_one_step(config):
    plan = make_plan(replace(config, gradient_accumulation_steps=3, train_batch_size=2))
    small = rehearsal(plan, 2)
    assert (small.steps_per_epoch, small.batches_per_epoch, len(small.entries)) == (2, 6, 12)


def test_the_time_goes_with_the_pixels_of_all_steps(config):
    plan = make_plan(config)  # 10 samples of 64 x 64 or of the same area, one a step
    measured = Measured(2.0, 0.5, 0, 0, 0, 1)
    area = sum(entry.bucket.resolution[0] * entry.bucket.resolution[1] for entry in plan.entries) / len(plan.entries)
    largest = max(width * height for width, height in plan.buckets)
    assert run_seconds(plan, measured) == pytest.approx(5 * 0.5 + 40 * 2.0 * area / largest)


# Advice


def test_a_larger_batch_is_worked_out_from_what_was_measured():
    measured = Measured(1, 0, base_mb=4000, peak_mb=6000, whole_peak_mb=6000, samples=2)
    assert list(larger_batch(2, measured, 10_000)) == [
        "train_batch_size 4 would take about 8,000 MB and fits; the largest is about 5"
    ]
    assert list(larger_batch(2, measured, 8_000)) == ["train_batch_size 4 would take about 8,000 MB and does not fit"]


def test_a_batch_that_was_not_full_says_nothing_of_a_larger_one():
    assert list(larger_batch(4, Measured(1, 0, 4000, 6000, 6000, samples=2), 10_000)) == []


def test_a_larger_resolution_is_worked_out_from_the_area():
    measured = Measured(1, 0, base_mb=4000, peak_mb=6000, whole_peak_mb=6000, samples=1)
    # 2000 MB for 512 x 512; 8000 MB may be used: four times the area.
    assert list(larger_resolution("512", measured, 12_000 / 0.95 + 1)) == ["resolution may be about 1024 at most"]
    assert list(larger_resolution("512", measured, 6_100)) == []


def test_the_ways_out_are_tried_in_their_order(config):
    words = [words for words, _ in ways_out(replace(config, resolution="512", train_batch_size=4))]
    assert [text.split(", ")[-1] for text in words] == [
        "gradient_checkpointing",
        "train_batch_size 1 (with gradient_accumulation_steps 4 for the same result)",
        "network_train_unet_only",
        "resolution 384x384",
    ]
    last = list(ways_out(replace(config, resolution="512", train_batch_size=4)))[-1][1]
    assert (last.gradient_checkpointing, last.train_batch_size, last.gradient_accumulation_steps) == (True, 1, 4)


def test_the_end_is_told_with_its_day_where_that_is_another():
    noon = time.mktime((2026, 3, 1, 12, 0, 0, 0, 0, -1))
    assert ending(5400, noon) == "begun now, it ends at 13:30"
    assert ending(13 * 3600, noon) == "begun now, it ends at 01:00 on 2026-03-02"


# A full card


def test_a_full_card_becomes_advice(config, tiny_model, monkeypatch, two_steps):
    seen = fill_up(tiny_model, monkeypatch, lambda x: len(x) == 1)
    last = done(preflight(replace(config, train_batch_size=4), Control(), tiny_model))
    assert (last.seconds_per_step, last.seconds_total, last.memory_mb) == (None, None, None)
    assert "does not fit: the card's memory is full" in last.advice[0]
    assert "with gradient_checkpointing it does not fit either" in last.advice[1]
    assert "train_batch_size 1" in last.advice[2] and "it fits" in last.advice[2] and len(last.advice) == 3
    assert {shape[0] for shape in seen} == {4, 1}
    assert event_from_json(event_to_json(last)) == last


def test_where_checkpointing_is_enough_no_more_is_advised(config, tiny_model, monkeypatch, two_steps):
    fill_up(tiny_model, monkeypatch, lambda x: checkpointed(tiny_model))
    last = done(preflight(config, Control(), tiny_model))
    assert "with gradient_checkpointing it fits" in last.advice[1] and len(last.advice) == 2


def test_where_nothing_helps_that_is_said(config, tiny_model, monkeypatch, two_steps):
    fill_up(tiny_model, monkeypatch, lambda x: False)
    last = done(preflight(config, Control(), tiny_model))
    assert all("not fit" in text for text in last.advice) and len(last.advice) == 3
    assert not any(part._forward_hooks for part in tiny_model.unet.modules())


def test_a_card_that_is_full_while_pictures_are_encoded_is_advice_too(config, tiny_model, monkeypatch, two_steps):
    def full(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError(FULL)

    monkeypatch.setattr(tiny_model.vae, "encode", full)
    assert done(preflight(config, Control(), tiny_model)).seconds_per_step is None


def test_what_counts_as_a_full_memory():
    inner = torch.cuda.OutOfMemoryError(FULL)
    outer = StudioError("the card's memory is full")
    outer.__cause__ = inner
    assert is_out_of_memory(inner) and is_out_of_memory(outer)
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried"))
    assert not is_out_of_memory(RuntimeError("shapes")) and not is_out_of_memory(StudioError("out of memory"))


def test_with_room_on_a_card_what_else_fits_is_told(config, tiny_model, monkeypatch, two_steps):
    """Numbers of a card from outside; the steps are real."""
    allocated = iter([100.0])
    peaks = iter([120.0, 200.0, 110.0, 150.0])
    monkeypatch.setattr(module, "room_on_card_mb", lambda device: 1000.0)
    monkeypatch.setattr(module, "card_mb", lambda device: 2000.0)
    monkeypatch.setattr(module, "used_memory_mb", lambda device: next(peaks))
    monkeypatch.setattr(module, "_allocated_mb", lambda device: next(allocated, 100.0))
    last = done(preflight(replace(config, gradient_checkpointing=True), Control(), tiny_model))
    assert (last.memory_mb, last.card_mb) == (200.0, 2000.0)
    assert last.advice[1:4] == [
        "takes 200 MB of the 1,000 MB that are free for it on the card",
        "train_batch_size 2 would take about 300 MB and fits; the largest is about 8",
        "resolution may be about 128 at most",
    ]
    assert "without gradient_checkpointing it takes 150 MB" in last.advice[4]
