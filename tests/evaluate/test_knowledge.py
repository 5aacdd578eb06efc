"""What a checkpoint knows of tags: pictures without a LoRA, and how much a tag changes the prediction."""

from __future__ import annotations

import pytest
import torch

from lib_lora.base.events import CellReady, GridLaidOut, ToolDone
from lib_lora.evaluate.knowledge import look_up
from lib_lora.evaluate.options import KnowledgeConfig
from lib_lora.evaluate.prediction_change import prediction_change
from lib_lora.models.prompt import encode_prompt


def test_a_text_that_is_the_same_changes_nothing(tiny_model_for_pictures):
    assert prediction_change(tiny_model_for_pictures, "a zorb", "a zorb", 1) == 0.0


def test_the_change_is_that_of_the_unet_s_predictions(tiny_model_for_pictures, monkeypatch):
    """The UNet's part is replaced by the text's own mean: then the change can be worked out."""
    model = tiny_model_for_pictures

    def mean_of_text(noisy, timesteps, conditioning, *rest):
        return torch.ones_like(noisy) * conditioning.context.mean()

    monkeypatch.setattr(type(model), "predict", lambda self, *args: mean_of_text(*args))
    first, second = (encode_prompt(model, text).context.mean() for text in ("a cat", "a dog"))
    expected = float(abs(second - first) / abs(first))
    assert prediction_change(model, "a cat", "a dog", 1) == pytest.approx(expected, rel=1e-5)


def test_every_tag_has_a_row_and_its_figure(open_generator, album, tmp_path, control):
    config = KnowledgeConfig(tags=("1girl", "zorb"), prompts=("a picture",), seeds=(1, 2), steps=1, width=64, height=64)
    events = list(look_up(config, open_generator, album, tmp_path / "sheet.png", control))
    assert isinstance(events[0], GridLaidOut)
    assert events[0].axes["rows"]["labels"] == ["without a tag", "1girl", "zorb"]
    cells = {tuple(place): event for event in events if isinstance(event, CellReady) for place in event.places}
    assert set(cells) == {(row, column) for row in range(3) for column in range(2)}
    assert cells[0, 0].change == 0 and cells[1, 0].change > 0
    report = events[-1].report
    assert isinstance(events[-1], ToolDone) and (tmp_path / "sheet.png").exists()
    for row in report["tags"]:
        assert row["effect"] > 0 and row["over_nonsense"] == pytest.approx(row["effect"] / report["nonsense"])
    assert "times the effect of a word that nobody knows" in cells[1, 0].label
