from __future__ import annotations

import builtins
import os

import numpy as np
import pytest
from onnx import TensorProto
from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import Label
from lib_lora.tagging import session
from lib_lora.tagging.form import Form, pixels
from lib_lora.tagging.onnx_tagger import OnnxTagger
from lib_lora.tagging.session import choose_providers
from tiny_taggers import LABELS, TINY, TinyModel, write_csv, write_json, write_model, write_tagger

PICTURES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 16 + seed, 3), dtype=np.uint8))
    for seed in range(5)
]


def tagger(folder, form=None, labels="selected_tags.csv") -> OnnxTagger:
    return OnnxTagger("tiny", folder / "model.onnx", folder / labels, form or Form(), threads=1)


def run(tagger: OnnxTagger) -> np.ndarray:
    with tagger:
        return tagger.probabilities([tagger.prepare(picture) for picture in PICTURES])


def expected(form: Form, size: int = 32, model: TinyModel = TINY) -> np.ndarray:
    return np.stack([model.scores(pixels(picture, form, size, channels_first=False)) for picture in PICTURES])


@pytest.mark.parametrize("batch", [1, 2, 4, "batch"])
@pytest.mark.parametrize("channels_first", [False, True])
def test_every_batch_and_layout_gives_the_same_scores(tmp_path, batch, channels_first):
    write_tagger(tmp_path, batch=batch, channels_first=channels_first)
    found = run(tagger(tmp_path))
    assert found.shape == (5, len(LABELS)) and found.dtype == np.float32
    assert np.allclose(found, expected(Form()), atol=1e-5)


def test_a_fixed_batch_is_known_once_it_is_loaded(tmp_path):
    write_tagger(tmp_path, batch=1)
    one = tagger(tmp_path)
    with one:
        assert one.batch_size == 1
    write_tagger(tmp_path)
    with one:
        assert one.batch_size is None


def test_logits_of_cl_tagger(tmp_path):
    model = TinyModel(TINY.channel, weight=[1.5] * 8, bias=[-0.2] * 8)
    write_model(tmp_path / "model.onnx", model, channels_first=True)
    write_json(
        tmp_path / "tag_mapping.json",
        {str(number): {"tag": name, "category": "General"} for number, (name, _) in enumerate(LABELS)},
    )
    form = Form(values="-1..1", output="logits")
    logits = expected(form, model=model)
    found = run(tagger(tmp_path, form, "tag_mapping.json"))
    assert np.allclose(found, 1 / (1 + np.exp(-logits)), atol=1e-5)


def test_sigmoid_within_the_model_is_taken_as_it_is(tmp_path):
    model = TinyModel(TINY.channel, weight=[0.01] * 8, bias=[-1.0] * 8)
    write_tagger(tmp_path, model, sigmoid_of_logits=True)
    assert np.allclose(run(tagger(tmp_path)), 1 / (1 + np.exp(-expected(Form(), model=model))), atol=1e-5)


def test_a_model_of_any_size_gets_the_forms(tmp_path):
    write_tagger(tmp_path, size_px="side")
    form = Form(size=48)
    assert np.allclose(run(tagger(tmp_path, form)), expected(form, 48), atol=1e-5)


def test_half_precision_input(tmp_path):
    write_tagger(tmp_path, element=TensorProto.FLOAT16)
    assert np.allclose(run(tagger(tmp_path)), expected(Form()), atol=1e-3)


def test_the_output_with_a_number_for_each_tag_is_taken(tmp_path):
    write_tagger(tmp_path, extra_output=True)
    assert np.allclose(run(tagger(tmp_path)), expected(Form()), atol=1e-5)


def test_what_it_says_has_the_csvs_categories(tmp_path):
    write_tagger(tmp_path)
    one = tagger(tmp_path)
    with one:
        (said,) = one([one.prepare(PICTURES[0])])
        assert one.labels[2] == Label("zorb_(hero)", "character")
    scores = expected(Form())[0]
    assert said[Label("zorb_(hero)", "character")] == pytest.approx(scores[2], abs=1e-5)
    assert said[Label("general", "rating")] == pytest.approx(scores[1], abs=1e-5)
    assert len(said) == len(LABELS)


def test_its_fingerprint_changes_with_weights_tags_and_form(tmp_path):
    def fingerprint(form: Form) -> str:
        with tagger(tmp_path, form) as one:
            return one.model

    write_tagger(tmp_path)
    first = fingerprint(Form())
    assert first == fingerprint(Form()) != fingerprint(Form(channels="RGB"))
    write_tagger(tmp_path, TinyModel(TINY.channel, TINY.weight, [0.1] * 8))
    second = fingerprint(Form())
    write_csv(tmp_path / "selected_tags.csv", [("other", "0"), *LABELS[1:]])
    assert len({first, second, fingerprint(Form())}) == 3


def test_as_many_tags_as_numbers(tmp_path):
    write_tagger(tmp_path, labels=LABELS[:-1])
    with pytest.raises(StudioError, match="8 numbers, and the list beside it has 7 tags"):
        run(tagger(tmp_path))


def test_logits_taken_for_probabilities_are_refused_with_the_remedy(tmp_path):
    write_tagger(tmp_path, TinyModel(TINY.channel, [1.0] * 8, [0.0] * 8))
    with pytest.raises(StudioError, match=r"no probabilities.*tagger\.toml.*output = \"logits\""):
        run(tagger(tmp_path))


def test_numbers_that_are_none_are_refused(tmp_path):
    write_tagger(tmp_path, TinyModel(TINY.channel, TINY.weight, [float("nan")] * 8))
    with pytest.raises(StudioError, match="NaN"):
        run(tagger(tmp_path))


@pytest.mark.parametrize("how", [{"size_px": 32, "element": TensorProto.INT32}])
def test_models_that_take_no_pictures_are_refused(tmp_path, how):
    write_tagger(tmp_path, **how)
    with pytest.raises(StudioError, match="no tagger that we can run"), tagger(tmp_path):
        pass


def test_a_damaged_model_is_named(tmp_path):
    write_tagger(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"<html>not found</html>")
    with pytest.raises(StudioError, match="onnxruntime cannot load the model") as caught, tagger(tmp_path):
        pass
    assert caught.value.file == str(tmp_path / "model.onnx")


def test_without_onnxruntime_the_error_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")
        return real(name, *rest)

    write_tagger(tmp_path)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(StudioError, match=r"not installed.*pip install \"onnxruntime\".*never two") as caught:
        tagger(tmp_path).__enter__()
    assert caught.value.field == "taggers"


def test_the_best_provider_that_is_there_and_the_processor_behind_it():
    cuda, dml, cpu = "CUDAExecutionProvider", "DmlExecutionProvider", "CPUExecutionProvider"
    assert choose_providers(["TensorrtExecutionProvider", cuda, cpu]) == [cuda, cpu]
    assert choose_providers([dml, cpu]) == [dml, cpu]
    assert choose_providers(["AzureExecutionProvider", cpu]) == [cpu]


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_card_that_cannot_be_used_is_told(tmp_path, monkeypatch):
    write_tagger(tmp_path)
    monkeypatch.setattr(
        session, "choose_providers", lambda available: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    with tagger(tmp_path) as one:
        assert one.note == "onnxruntime could not start CUDA; the tagger runs on the processor"
    with OnnxTagger("tiny", tmp_path / "model.onnx", tmp_path / "selected_tags.csv", Form(), device="cpu") as one:
        assert one.note is None


@pytest.mark.parametrize("threads, expected", [(3, 3), (0, max(1, min(8, (os.cpu_count() or 2) // 2)))])
def test_threads_are_bounded(tmp_path, monkeypatch, threads, expected):
    write_tagger(tmp_path)
    one = session.open_session(tmp_path / "model.onnx", "cpu", threads)
    assert one.get_session_options().intra_op_num_threads == expected
