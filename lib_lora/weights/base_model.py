"""A checkpoint as its layers: what LoRAs are applied to."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from lib_lora.arch.detect import detect_family
from lib_lora.base.errors import StudioError
from lib_lora.models.checkpoint_file import CheckpointFile, open_checkpoint
from lib_lora.models.mapped_tensors import shapes_of
from lib_lora.weights.layers import Layer, checkpoint_layers


class BaseModel:
    """The layers of a checkpoint by their names in LoRA files; tensors stay in the file until they are asked for.

    Raises:
        StudioError: no such file, or no checkpoint of a known family.
    """

    def __init__(self, path: Path) -> None:
        self.file: CheckpointFile = open_checkpoint(path)
        shapes = shapes_of(self.file.tensors)
        facts = self.file.facts
        self.family = detect_family(shapes, path) if facts is None else facts.family
        self.layers = checkpoint_layers(shapes, self.family)

    def layer(self, key: str) -> Layer:
        """A layer by its name in LoRA files.

        Raises:
            StudioError: the checkpoint has none of this name.
        """
        if key not in self.layers:
            raise StudioError(f"the checkpoint has no layer {key}: the LoRA is for another model", file=self.file.path)
        return self.layers[key]

    def weight(self, key: str) -> Tensor:
        """The layer's weight, in the file's precision; a view of the file."""
        layer = self.layer(key)
        weight = self.file.tensors[layer.weight]
        return weight if layer.rows is None else weight[slice(*layer.rows)]
