from __future__ import annotations

import pytest

from lib_lora.arch.prediction import EPSILON, V_PREDICTION, Prediction, find_prediction
from lib_lora.base.errors import StudioError

KEYS = ("model.diffusion_model.input_blocks.0.0.weight",)


def test_nothing_said_means_assumed_epsilon():
    found = find_prediction(KEYS, {})
    assert found == Prediction(EPSILON, False, "assumed") and found.assumed


@pytest.mark.parametrize(
    ("keys", "metadata", "others", "expected", "source"),
    [
        ((), {}, {"parameterization": "v"}, V_PREDICTION, "yaml"),
        ((), {}, {"parameterization": "eps"}, EPSILON, "yaml"),
        ((), {}, {"scheduler": {"prediction_type": "v_prediction"}}, V_PREDICTION, "scheduler_config.json"),
        ((), {}, {"scheduler": {"prediction_type": "epsilon"}}, EPSILON, "scheduler_config.json"),
        (("v_pred",), {}, {}, V_PREDICTION, "marker key v_pred"),
        ((), {"modelspec.prediction_type": "v"}, {}, V_PREDICTION, "modelspec.prediction_type"),
        ((), {"modelspec.prediction_type": "epsilon"}, {}, EPSILON, "modelspec.prediction_type"),
        ((), {"ss_base_model_version": "sd_v2_v"}, {}, V_PREDICTION, "ss_base_model_version"),
        ((), {"ss_base_model_version": "sd_v1"}, {}, EPSILON, "ss_base_model_version"),
    ],
)
def test_each_source_is_believed_and_named(keys, metadata, others, expected, source):
    found = find_prediction((*KEYS, *keys), metadata, **others)
    assert found.prediction_type == expected
    assert source in found.source and not found.assumed


def test_sdxls_base_version_does_not_tell():
    assert find_prediction(KEYS, {"ss_base_model_version": "sdxl_base_v1-0"}).assumed


def test_the_yaml_a_person_put_there_wins_over_markers_and_these_over_metadata():
    keys = (*KEYS, "v_pred")
    metadata = {"modelspec.prediction_type": "epsilon"}
    assert find_prediction(keys, metadata, parameterization="eps").prediction_type == EPSILON
    assert find_prediction(keys, metadata).prediction_type == V_PREDICTION
    assert find_prediction(KEYS, metadata).prediction_type == EPSILON


@pytest.mark.parametrize(
    ("keys", "metadata", "others"),
    [
        (("v_pred", "ztsnr"), {}, {}),
        ((), {"ss_zero_terminal_snr": "True"}, {}),
        ((), {}, {"scheduler": {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}}),
        (("ztsnr",), {}, {"parameterization": "v"}),
    ],
)
def test_zero_terminal_snr_is_taken_from_whoever_names_it(keys, metadata, others):
    assert find_prediction((*KEYS, *keys), metadata, **others).zero_terminal_snr


def test_zero_terminal_snr_is_off_unless_it_is_named():
    assert not find_prediction((*KEYS, "v_pred"), {"ss_zero_terminal_snr": "False"}).zero_terminal_snr
    assert not find_prediction(KEYS, {}, scheduler={"rescale_betas_zero_snr": False}).zero_terminal_snr


@pytest.mark.parametrize(
    "others", [{"parameterization": "x0"}, {"scheduler": {"prediction_type": "sample"}}], ids=["yaml", "scheduler"]
)
def test_a_prediction_that_cannot_be_trained_is_refused(others):
    with pytest.raises(StudioError, match="epsilon, v_prediction") as caught:
        find_prediction(KEYS, {}, file="x.ckpt", **others)
    assert (caught.value.field, caught.value.file) == ("prediction_type", "x.ckpt")
