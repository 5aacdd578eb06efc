"""Latents of real pictures by a tiny VAE; a cache is filled, damaged and fooled."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
import torch
from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Progress
from lib_lora.base.seeds import derive_seed
from lib_lora.base.signals import Control
from lib_lora.dataset.plan import build_plan
from lib_lora.dataset.records import scan
from lib_lora.models.loader import load_model
from lib_lora.training.cache import TensorCache
from lib_lora.training.half import autocast
from lib_lora.training.latents import LatentStore, Side
from tiny import write_checkpoint


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return load_model(tiny_checkpoint)


@pytest.fixture
def folder(tmp_path):
    """Five bitmaps of noise, of two shapes; a bitmap's size does not depend on its colours."""
    folder = tmp_path / "1_noise"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(5):
        height, width = (64, 64) if index < 4 else (64, 160)
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{index}.bmp")
    return folder


def plan_of(folder, resolution=64):
    return build_plan(
        scan(folder), resolution=(resolution, resolution), min_bucket_reso=32, bucket_reso_steps=32, epochs=1
    )


def filled(model, plan, **more) -> LatentStore:
    store = LatentStore(plan, 7, **more)
    events = list(store.fill(model, Control()))
    count = len(plan.images) * (2 if more.get("flips") else 1)
    assert events[-1] == Progress("latents", count, count)
    return store


def latents(store: LatentStore, flips=False) -> list[torch.Tensor]:
    return [
        store.latent(Side(index, flipped))
        for index in range(len(store.plan.images))
        for flipped in ((False, True) if flips else (False,))
    ]


def same(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class Unused:
    """A VAE that must not be used."""

    def __init__(self, vae):
        self.encoder, self.quant_conv, self.config = vae.encoder, vae.quant_conv, vae.config

    def encode(self, pixels):
        raise AssertionError("the VAE was used")


def without_vae(model):
    return dataclasses.replace(model, vae=Unused(model.vae))


@pytest.mark.parametrize(("flipped", "owner"), [(False, []), (True, ["flipped"])])
def test_a_latent_is_one_scaled_sample_of_the_posterior_of_the_picture_or_of_its_mirror_image(
    model, folder, flipped, owner
):
    plan = plan_of(folder)
    store = filled(model, plan, flips=True)
    index = [image.record.path.name for image in plan.images].index("2.bmp")
    pixels = np.asarray(Image.open(folder / "2.bmp")).astype(np.float32) / 127.5 - 1
    pixels = torch.from_numpy(pixels).permute(2, 0, 1)
    pixels = pixels.flip(-1) if flipped else pixels
    with torch.no_grad():
        posterior = model.vae.encode(pixels[None]).latent_dist
    side = Side(index, flipped)
    draw = (store.latent(side) / model.vae.config.scaling_factor - posterior.mean[0]) / posterior.std[0]
    generator = torch.Generator().manual_seed(derive_seed(7, "latent", "1_noise/2.bmp", 64, 64, *owner))
    torch.testing.assert_close(draw, torch.randn(4, 8, 8, generator=generator), rtol=0, atol=1e-3)
    assert torch.equal(store.pixels(side).float() / 127.5 - 1, pixels)


def test_batches_and_readers_change_nothing(model, folder):
    plan = plan_of(folder)
    one = latents(filled(model, plan, flips=True, readers=1), flips=True)
    assert same(one, latents(filled(model, plan, flips=True, readers=4), flips=True))
    calls = []
    hook = model.vae.encoder.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    three = latents(filled(model, plan, flips=True, batch_size=3), flips=True)
    hook.remove()
    assert sorted(calls) == [2, 2, 3, 3]  # eight squares, two wide ones
    for a, b in zip(one, three):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_second_run_takes_all_from_the_disk(model, folder, tmp_path):
    plan = plan_of(folder)
    memory = latents(filled(model, plan, flips=True, batch_size=2), flips=True)
    for each in (model, without_vae(model)):
        store = filled(each, plan, flips=True, batch_size=2, cache=TensorCache(tmp_path / "cache"))
        assert same(memory, latents(store, flips=True))
        assert store.cache.take_notes() == []
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 10


def test_another_seed_shares_the_cache_and_draws_its_own(model, folder, tmp_path):
    plan = plan_of(folder)
    first = filled(model, plan, cache=TensorCache(tmp_path / "cache"))
    other = LatentStore(plan, 8, cache=TensorCache(tmp_path / "cache"))
    list(other.fill(without_vae(model), Control()))
    memory = LatentStore(plan, 8)
    list(memory.fill(model, Control()))
    assert same(latents(other), latents(memory)) and not same(latents(other), latents(first))


def test_a_picture_changed_in_place_is_seen_though_size_and_time_are_the_same(model, folder, tmp_path):
    plan, cache = plan_of(folder), TensorCache(tmp_path / "cache")
    before = latents(filled(model, plan, cache=cache))
    path = plan.images[0].record.path
    status, data = path.stat(), bytearray(path.read_bytes())
    data[-64 * 3 :] = bytes(64 * 3)
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    after = latents(filled(model, plan, cache=cache))
    assert not torch.equal(before[0], after[0]) and same(before[1:], after[1:])
    assert same(after, latents(filled(model, plan)))


def test_another_vae_and_another_resolution_are_other_keys(model, folder, tmp_path):
    cache = TensorCache(tmp_path / "cache")
    filled(model, plan_of(folder), cache=cache)
    other = load_model(write_checkpoint(tmp_path / "other", seed=9))
    assert same(latents(filled(other, plan_of(folder), cache=cache)), latents(filled(other, plan_of(folder))))
    large = plan_of(folder, 128)
    assert same(latents(filled(model, large, cache=cache)), latents(filled(model, large)))
    half = filled(model, plan_of(folder), cache=cache, half=True)
    assert not same(latents(half), latents(filled(model, plan_of(folder))))
    for a, b in zip(latents(half), latents(filled(model, plan_of(folder)))):
        torch.testing.assert_close(a, b, rtol=0.1, atol=0.05)


def test_a_broken_file_is_made_anew_and_a_group_never_depends_on_what_was_there(model, folder, tmp_path):
    plan, cache = plan_of(folder), TensorCache(tmp_path / "cache")
    first = filled(model, plan, batch_size=3, cache=cache)
    whole = latents(first)
    path = cache.path(first._keys[Side(1, False)])
    path.write_bytes(path.read_bytes()[:-1])
    again = filled(model, plan, batch_size=3, cache=cache)
    assert same(whole, latents(again))
    assert [str(path) in note for note in cache.take_notes()] == [True]


def test_a_file_lost_during_the_run_is_an_error_that_names_it(model, folder, tmp_path):
    store = filled(model, plan_of(folder), cache=TensorCache(tmp_path / "cache"))
    path = store.cache.path(store._keys[Side(0, False)])
    path.unlink()
    with pytest.raises(StudioError, match=path.name):
        store.latent(Side(0, False))


def test_a_picture_without_finite_latents_is_named(tiny_checkpoint, folder):
    model = load_model(tiny_checkpoint)
    plan = plan_of(folder)
    seen = []

    def break_the_third(module, args, output):
        seen.append(len(output))
        return output * float("nan") if len(seen) == 3 else output

    model.vae.quant_conv.register_forward_hook(break_the_third)
    with pytest.raises(StudioError, match=plan.images[2].record.path.name):
        list(LatentStore(plan, 7).fill(model, Control()))


def test_a_stop_ends_the_work(model, folder):
    control = Control()
    events = []
    for event in LatentStore(plan_of(folder), 7).fill(model, control):
        events.append(event)
        control.stop()
    assert len(events) == 1


@pytest.mark.parametrize("half", [False, True])
def test_a_step_in_half_precision_leaves_the_vae_as_the_options_have_it(model, folder, half):
    """What is encoded at each step, within the forward pass's precision, equals what is encoded beforehand."""
    store = filled(model, plan_of(folder), half=half)
    sides = [Side(index, False) for index in range(len(store.plan.images))]
    for precision in ("no", "bf16"):
        with autocast(model.device, precision):
            assert same([each for side in sides for each in store.encode(model, [side])], latents(store))
