from __future__ import annotations

import pytest

from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from lib_lora.models.config_yaml import published_config, read_model_yaml, yaml_beside
from tiny import SD1, SD2, SDXL, write_checkpoint, yaml_text


def test_ldms_form_is_read(tmp_path):
    config = yaml_beside(write_checkpoint(tmp_path, shape=SD2))
    assert (config.heads, config.head_channels) == (None, 16)
    assert config.penultimate and config.parameterization == "v" and config.scale_factor == 0.18215
    assert config.text_folders == (tmp_path / "open_clip",)
    assert (config.beta_start, config.beta_end) == (0.00085, 0.012)


def test_sgms_form_is_read(tmp_path):
    config = yaml_beside(write_checkpoint(tmp_path, shape=SDXL))
    assert (config.heads, config.head_channels, config.scale_factor) == (None, 16, 0.13025)
    assert config.parameterization == "eps"
    assert config.text_folders == (tmp_path / "clip", tmp_path / "open_clip")
    path = tmp_path / "tiny.yaml"
    path.write_text(path.read_text().replace("denoiser_scaling.EpsScaling", "denoiser_scaling.VScaling"))
    assert read_model_yaml(path).parameterization == "v"
    path.write_text(
        path.read_text().replace(
            "LegacyDDPMDiscretization", "LegacyDDPMDiscretization\n          params:\n            linear_end: 0.02"
        )
    )
    assert read_model_yaml(path).beta_end == 0.02


def test_names_of_published_text_encoders_are_no_folders(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text(yaml_text(SD2).replace("version: open_clip", "version: laion2b_s32b_b79k"))
    assert read_model_yaml(path).text_folders == (None,)
    path.write_text(yaml_text(SD1).replace("version: clip", "version: openai/clip-vit-large-patch14"))
    assert read_model_yaml(path).text_folders == (None,)
    path.write_text(yaml_text(SD1))
    with pytest.raises(StudioError, match="folder that the yaml names is missing"):
        read_model_yaml(path)


def test_without_a_yaml_the_published_configurations_hold(tmp_path):
    """Stability's v1-inference.yaml, v2-inference.yaml and sd_xl_base.yaml."""
    assert yaml_beside(tmp_path / "none.safetensors") is None
    configs = [published_config(family) for family in (Family.SD1, Family.SD2, Family.SDXL)]
    assert [config.heads for config in configs] == [8, None, None]
    assert [config.head_channels for config in configs] == [None, 64, 64]
    assert [config.scale_factor for config in configs] == [0.18215, 0.18215, 0.13025]
    assert [config.parameterization for config in configs] == [None] * 3
    assert configs[1].penultimate and not configs[0].penultimate
