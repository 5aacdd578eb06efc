"""Pictures from a checkpoint file and LoRA files, without a WebUI."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from PIL import Image

from lib_lora.adapters.network import Network
from lib_lora.adapters.save import read_tensors
from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import PictureRequest
from lib_lora.base.signals import Control
from lib_lora.files.atomic import safe_name
from lib_lora.models.model import DiffusionModel
from lib_lora.models.sampling import generate_picture
from lib_lora.text.extra_networks import parse_lora_tags


class StandaloneGenerator:
    """A ``Generator`` on our own modules.

    Args:
        model: the checkpoint.
        lora_dir: where ``<lora:name:1>`` looks for ``name.safetensors``, in its subfolders too.
    """

    def __init__(self, model: DiffusionModel, lora_dir: Path) -> None:
        self.model = model
        self.lora_dir = lora_dir
        self._networks: dict[Path, Network] = {}

    def generate(
        self,
        request: PictureRequest,
        *,
        control: Control | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Image.Image | None:
        """The request's picture, or None when ``control`` asked to stop. Its LoRAs act in this picture alone."""
        prompt, _ = parse_lora_tags(request.prompt)
        with self.active(request.prompt):
            return generate_picture(self.model, replace(request, prompt=prompt), control=control, on_step=on_step)

    @contextlib.contextmanager
    def active(self, prompt: str) -> Iterator[None]:
        """The LoRAs that stand in a prompt act on the model for a while."""
        strengths: dict[Path, tuple[float, float]] = {}  # a LoRA that stands twice acts with the sum
        for tag in parse_lora_tags(prompt)[1]:
            path = self.find(tag.name)
            te, unet = strengths.get(path, (0.0, 0.0))
            strengths[path] = (te + tag.te, unet + tag.unet)
        with contextlib.ExitStack() as stack:
            for path, (te, unet) in strengths.items():
                network = self._network(path)
                network.attach()
                stack.callback(network.detach_from_model)
                stack.enter_context(network.strength(te=te, unet=unet))
            yield

    def find(self, name: str) -> Path:
        """The file that ``<lora:name:...>`` means.

        Raises:
            StudioError: there is none in the LoRA folder.
        """
        safe_name(name, field="lora")
        for path in sorted(self.lora_dir.rglob("*.safetensors")):
            if path.stem == name:
                return path
        raise StudioError("no LoRA of this name", field="lora", file=self.lora_dir, came=name)

    def _network(self, path: Path) -> Network:
        if path not in self._networks:
            tensors, _ = read_tensors(path)
            try:
                network = Network.from_file_tensors(self.model.unet, self.model.text_encoders, tensors)
            except StudioError as error:
                raise StudioError(error.problem, file=path, came=error.came, allowed=error.allowed) from error
            self._networks[path] = network.to(self.model.device).eval()
        return self._networks[path]
