"""Batches: which latents, texts and sizes a sample gets, and that nothing but its owner decides."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Note
from lib_lora.base.options import from_mapping
from lib_lora.base.signals import Control
from lib_lora.dataset.plan import Bucket, Entry
from lib_lora.dataset.records import ImageRecord
from lib_lora.models.loader import load_model
from lib_lora.training.config import TrainConfig, check
from lib_lora.training.data import TrainingData, encode, size_conditions
from lib_lora.training.latents import Side
from lib_lora.training.planning import cache_folder, make_plan
from tiny import SDXL, write_checkpoint

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return load_model(tiny_checkpoint)


def data_of(model, options, texts=True, **more) -> tuple[TrainingData, list]:
    config = from_mapping(TrainConfig, {**options, "network_train_unet_only": texts, **more})
    data = TrainingData(make_plan(config), config, model)
    events = list(data.cache_latents(Control()))
    return data, events + (list(data.cache_texts(Control())) if texts else [])


def all_of(data: TrainingData, epoch: int = 1, size: int = 1) -> dict[int, dict]:
    """What each sample of an epoch gets."""
    found = {}
    for ids in data.epoch(epoch):
        for start in range(0, len(ids), size):
            batch = data.batch(ids[start : start + size], CPU, epoch)
            for row, sample in enumerate(batch.sample_ids):
                context = None if batch.conditioning is None else batch.conditioning.context[row]
                found[sample] = {"latent": batch.latents[row], "caption": batch.captions[row], "context": context}
    return found


def latents_of(data: TrainingData, epoch: int = 1) -> dict[int, torch.Tensor]:
    return {sample: own["latent"] for sample, own in all_of(data, epoch).items()}


def equal(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name]
        for name, value in first.items()
    )


def test_sizes_are_what_sdxl_was_told_in_its_own_training():
    # A picture of 1000 x 600 px, resized to 853 x 512 and cut to 832 x 512: 21 px go, 10 left and 11 right.
    record = ImageRecord("a.png", "", 1000, 600, 1, False, "")
    entry = Entry(record, Bucket((832, 512), (853, 512)), 0, 0)
    assert size_conditions(entry, Side(0, False)) == (600, 1000, 0, 10, 512, 832)
    assert size_conditions(entry, Side(0, True)) == (600, 1000, 0, 11, 512, 832)
    assert size_conditions(entry, Side(0, False, crop=(4, 0))) == (600, 1000, 0, 4, 512, 832)
    assert size_conditions(entry, Side(0, True, crop=(4, 0))) == (600, 1000, 0, 17, 512, 832)


def test_a_sample_is_the_same_whatever_stands_beside_it(model, train_options):
    data, _ = data_of(model, train_options, flip_aug=True, caption_dropout_rate=0.3, train_batch_size=4)
    one, four = all_of(data, size=1), all_of(data, size=4)
    assert one.keys() == four.keys() and all(equal(one[sample], four[sample]) for sample in one)


def test_half_of_the_samples_are_mirrored_and_each_epoch_draws_anew(model, train_options):
    data, _ = data_of(model, train_options, flip_aug=True, max_train_steps=None, max_train_epochs=1)
    plain, _ = data_of(model, train_options)
    latents = all_of(plain)
    flips = {
        epoch: [not torch.equal(found["latent"], latents[sample]["latent"]) for sample, found in sorted(own.items())]
        for epoch, own in ((epoch, all_of(data, epoch)) for epoch in range(1, 21))
    }
    share = sum(map(sum, flips.values())) / 200
    assert abs(share - 0.5) < 0.18  # 5 standard deviations of 0.035
    assert len(set(map(tuple, flips.values()))) > 15


def test_captions_that_do_not_change_are_encoded_once_and_as_at_each_step(model, train_options):
    data, _ = data_of(model, train_options, caption_dropout_rate=0.5)
    found = [sample for epoch in (1, 2, 3) for sample in all_of(data, epoch).values()]
    assert {sample["caption"] for sample in found} == {"", *(image.record.caption for image in data.plan.images)}
    for sample in found:
        torch.testing.assert_close(sample["context"], encode(model, (sample["caption"],), data.config).context[0])
    assert data.needed_parts() == []


def test_cached_captions_of_different_lengths_are_filled_up_as_at_each_step(model, train_options, pictures):
    sorted(pictures.rglob("*.txt"))[0].write_text("red cat, " * 60, encoding="utf-8")
    data, _ = data_of(model, train_options, max_token_length=225, train_batch_size=4)
    for ids in data.epoch(1):
        batch = data.batch(ids, CPU, 1)
        torch.testing.assert_close(batch.conditioning.context, encode(model, batch.captions, data.config).context)
    lengths = {encode(model, (image.record.caption,), data.config).context.shape[1] for image in data.plan.images}
    assert len(lengths) == 2


def test_captions_that_change_are_encoded_at_each_step_and_it_is_said(model, train_options):
    data, events = data_of(model, train_options, shuffle_caption=True)
    assert any(isinstance(event, Note) and "at each step" in event.text for event in events)
    assert data.needed_parts() == model.text_encoders
    batch = data.batch([0, 1], CPU, 1)
    assert batch.conditioning is None and len(batch.captions) == 2


def test_encoded_captions_come_from_the_disk_and_follow_every_change(model, train_options, pictures, tmp_path):
    options = {**train_options, "cache_text_encoder_outputs_to_disk": True, "cache_dir": tmp_path / "cache"}

    def files():
        return len(list((tmp_path / "cache" / "texts").rglob("*.safetensors")))

    first, _ = data_of(model, options)
    memory, _ = data_of(model, train_options)
    captions = len({image.record.caption for image in first.plan.images})
    assert files() == captions
    again = dataclasses.replace(model, text_encoders=model.text_encoders)
    second, _ = data_of(again, options)
    expected = all_of(memory)
    assert all(equal(own, expected[sample]) for data in (first, second) for sample, own in all_of(data).items())
    assert files() == captions
    (pictures / "2_zorb" / "2.txt").write_text("zorb, another cat", encoding="utf-8")
    changed, _ = data_of(model, options)
    assert files() == captions + 1
    assert all_of(changed)[4]["caption"] == "zorb, another cat"
    skipped, _ = data_of(model, options, clip_skip=2)
    assert not torch.equal(all_of(skipped)[0]["context"], all_of(first)[0]["context"])
    other = load_model(write_checkpoint(tmp_path / "other", seed=4))
    assert not torch.equal(all_of(data_of(other, options)[0])[0]["context"], expected[0]["context"])


def test_pictures_encoded_at_each_step_are_the_cached_ones(model, train_options):
    cached, _ = data_of(model, train_options, flip_aug=True)
    fresh, events = data_of(model, train_options, flip_aug=True, cache_latents=False)
    assert model.vae in fresh.needed_parts()
    assert not [event for event in events if getattr(event, "what", "") == "latents"]
    expected = all_of(cached)
    for sample, own in all_of(fresh).items():
        torch.testing.assert_close(own["latent"], expected[sample]["latent"], rtol=1e-5, atol=1e-6)


def test_the_cache_is_beside_the_dataset_and_never_in_it(model, train_options, pictures):
    data, _ = data_of(model, train_options, cache_latents_to_disk=True)
    assert cache_folder(data.config) == pictures.parent / ".lora_studio_cache"
    assert len(list(cache_folder(data.config).rglob("*.safetensors"))) == 5
    assert {path.suffix for path in pictures.rglob("*") if path.is_file()} == {".png", ".txt"}


def test_sdxl_batches_hold_both_encoders_states_and_the_pooled_one(train_options, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "sdxl", shape=SDXL)
    options = {**train_options, "pretrained_model_name_or_path": checkpoint}
    model = load_model(checkpoint)
    for more in ({}, {"cache_text_encoder_outputs_to_disk": True, "cache_latents_to_disk": True}):
        data, _ = data_of(model, options, **more)
        batch = data.batch([0, 1], CPU, 1)
        expected = encode(model, batch.captions, data.config)
        torch.testing.assert_close(batch.conditioning.context, expected.context, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(batch.conditioning.pooled, expected.pooled, rtol=1e-4, atol=1e-5)
        assert batch.sizes.tolist() == [[128, 128, 0, 0, 64, 64]] * 2 and batch.sizes.dtype == torch.float32


def test_regularisation_pictures_have_their_own_weight(model, train_options, tmp_path):
    folder = tmp_path / "reg" / "1_dog"
    folder.mkdir(parents=True)
    Image.new("RGB", (128, 128), "blue").save(folder / "dog.png")
    data, _ = data_of(model, train_options, reg_data_dir=tmp_path / "reg", prior_loss_weight=0.25)
    weights = [data.batch([sample], CPU, 1).weights.item() for sample in range(len(data.plan.entries))]
    assert weights == [1.0] * 10 + [0.25] * 10


def test_a_mask_is_cut_and_mirrored_with_its_picture(model, train_options, pictures):
    """The left half of each picture counts: of a latent 8 cells wide the first 4, in the mirror image the last."""
    for path in sorted(pictures.rglob("*.png")):
        with Image.open(path) as picture:
            mask = Image.new("L", picture.size, 0)
        mask.paste(255, (0, 0, mask.width // 2, mask.height))
        (path.parent / "masks").mkdir(exist_ok=True)
        mask.save(path.parent / "masks" / f"{path.stem}.png")
    data, _ = data_of(model, train_options, masked_loss=True)
    batch = data.batch([0, 1], CPU, 1)
    assert batch.mask.shape == (2, 1, *batch.latents.shape[2:])
    half = batch.mask.shape[-1] // 2
    assert batch.mask[..., :half].eq(1).all() and batch.mask[..., half:].eq(0).all()
    mirrored = data.masks.mask(Side(0, True))
    assert mirrored[..., :half].eq(0).all() and mirrored[..., half:].eq(1).all()


def test_a_mask_of_another_size_is_refused_and_a_missing_one_is_white(model, train_options, pictures):
    data, _ = data_of(model, train_options, masked_loss=True)
    assert data.batch([0], CPU, 1).mask.eq(1).all()
    first = sorted(pictures.rglob("*.png"))[0]
    (first.parent / "masks").mkdir()
    Image.new("L", (3, 3)).save(first.parent / "masks" / f"{first.stem}.png")
    data, _ = data_of(model, train_options, masked_loss=True)
    spoilt = next(n for n, entry in enumerate(data.plan.entries) if entry.record.path == first)
    with pytest.raises(StudioError, match="another size"):
        data.batch([spoilt], CPU, 1)


def test_what_is_transparent_does_not_count(model, train_options, pictures):
    first = sorted(pictures.rglob("*.png"))[0]
    with Image.open(first) as picture:
        see_through = picture.convert("RGBA")
    see_through.putalpha(Image.new("L", see_through.size, 51))
    see_through.save(first)
    data, _ = data_of(model, train_options, alpha_mask=True)
    means = {data.batch([sample], CPU, 1).mask.mean().item() for sample in range(len(data.plan.entries))}
    assert sorted(means) == pytest.approx([0.2, 1.0])
    plain, _ = data_of(model, train_options)
    assert plain.batch([0], CPU, 1).mask is None


def test_pictures_are_cut_elsewhere_and_coloured_otherwise_each_time(model, train_options, pictures):
    for path in sorted(pictures.rglob("*.png")):
        noise = torch.randint(256, (96, 160, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
        Image.fromarray(noise.numpy()).save(path)
    options = {**train_options, "cache_latents": False, "enable_bucket": False}
    plain = latents_of(data_of(model, options)[0])
    cut, _ = data_of(model, options, random_crop=True, masked_loss=True)
    lefts = {cut.batch([sample], CPU, epoch).sizes[0, 3].item() for sample in range(6) for epoch in (1, 2)}
    assert len(lefts) > 6 and all(0 <= left <= 107 - 64 for left in lefts)
    assert equal(latents_of(cut), latents_of(cut)) and not equal(latents_of(cut), plain)
    toned, _ = data_of(model, options, color_aug=True)
    first = latents_of(toned)
    assert {torch.equal(latent, plain[sample]) for sample, latent in first.items()} == {True, False}
    assert not equal(first, latents_of(toned, 2))


@pytest.mark.parametrize("name", ["random_crop", "color_aug"])
def test_cached_latents_and_pictures_that_change_exclude_each_other(train_options, name):
    with pytest.raises(StudioError, match="cached latents"):
        check(from_mapping(TrainConfig, {**train_options, name: True}))
