"""Pictures from a checkpoint file and LoRA files, without a WebUI."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image
from torch import Tensor

from lib_lora.adapters.network import Network
from lib_lora.adapters.save import read_tensors
from lib_lora.adapters.spec import UNET, NetworkState
from lib_lora.arch.keys import split_key
from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import PictureRequest
from lib_lora.base.signals import Control
from lib_lora.evaluate.prediction_change import prediction_change
from lib_lora.files.atomic import safe_name
from lib_lora.models.model import DiffusionModel
from lib_lora.models.sampling import generate_picture
from lib_lora.text.extra_networks import split_tags
from lib_lora.weights.blocks.elements import BUILT_IN_ELEMENTS, Elements
from lib_lora.weights.blocks.presets import BUILT_IN, Presets
from lib_lora.weights.blocks.words import WeightedTag, read_tag
from lib_lora.weights.convert import first_ranks
from lib_lora.weights.delta import lora_from_tensors

_Cut = tuple[Path, int | None]  # a LoRA file, and the rank that it is cut down to


class StandaloneGenerator:
    """A ``Generator`` on our own modules.

    Args:
        model: the checkpoint.
        lora_dir: where ``<lora:name:1>`` looks for ``name.safetensors``, in its subfolders too.
        data_dir: where a person's own block weights are; None knows ours alone.
    """

    def __init__(self, model: DiffusionModel, lora_dir: Path, data_dir: Path | None = None) -> None:
        self.model = model
        self.lora_dir = lora_dir
        self.data_dir = data_dir
        self._networks: dict[_Cut, Network] = {}

    def generate(
        self,
        request: PictureRequest,
        *,
        control: Control | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Image.Image | None:
        """The request's picture, or None when ``control`` asked to stop. Its LoRAs act in this picture alone.

        Raises:
            StudioError: a LoRA that is not there, or whose tag cannot be understood; the sampler is not known.
        """
        prompt, _ = split_tags(request.prompt)
        with self.active(request.prompt, seed=request.seed, steps=request.steps) as follow:

            def after_step(done: int, total: int) -> None:
                follow(done)
                if on_step is not None:
                    on_step(done, total)

            request = replace(request, prompt=prompt, clip_skip=request.clip_skip or 1)
            return generate_picture(self.model, request, control=control, on_step=after_step)

    def prediction_changes(self, texts: Sequence[tuple[str, str, int]]) -> list[float]:
        """As ``evaluate.prediction_change`` has it."""
        return [prediction_change(self.model, *each) for each in texts]

    @property
    def settings(self) -> str:
        """The checkpoint's and the VAE's file: there are no settings here."""
        files = [file for file in (self.model.path, self.model.vae_path) if file]
        return " ".join(f"{file} {file.stat().st_mtime_ns}" for file in files)

    @contextlib.contextmanager
    def active(self, prompt: str, *, seed: int = 0, steps: int = 1) -> Iterator[Callable[[int], None]]:
        """The LoRAs that stand in a prompt act on the model for a while; one that stands twice acts with the sum.

        Args:
            seed: from which random block weights are drawn.
            steps: of the picture, by which schedules count.

        Yields:
            to be told each step before it is taken, from 0, which it has been told of already.
        """
        tags: dict[_Cut, list[WeightedTag]] = defaultdict(list)
        for tag in self._tags(prompt, seed):
            tags[self.find(tag.name), tag.dyn].append(tag)
        networks = {cut: self._network(*cut) for cut in tags}
        factors: dict[_Cut, list[float]] = {}

        def follow(step: int) -> None:
            for cut, network in networks.items():
                now = [tag.at(step, steps)[1] for tag in tags[cut]]
                if factors.get(cut) != now:
                    factors[cut] = now
                    _set_strengths(network, list(zip(tags[cut], now)))

        follow(0)
        with contextlib.ExitStack() as stack:
            for network in networks.values():
                network.attach()
                stack.callback(network.detach_from_model)
            yield follow

    def _tags(self, prompt: str, seed: int) -> list[WeightedTag]:
        presets = Presets.load(self.data_dir) if self.data_dir else BUILT_IN
        elements = Elements.load(self.data_dir) if self.data_dir else BUILT_IN_ELEMENTS
        family = self.model.family
        return [
            read_tag(items, family=family, presets=presets, elements=elements, seed=seed)
            for items in split_tags(prompt)[1]
        ]

    def close(self) -> None:
        """Keep nothing in memory; it makes no pictures any more."""
        self.model = None
        self._networks.clear()

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

    def _network(self, path: Path, rank: int | None) -> Network:
        if (path, rank) not in self._networks:
            tensors, _ = read_tensors(path)
            if rank is not None:
                tensors = _cut_down(tensors, rank)
            try:
                network = Network.from_file_tensors(self.model.unet, self.model.text_encoders, tensors)
            except StudioError as error:
                raise StudioError(error.problem, file=path, came=error.came, allowed=error.allowed) from error
            self._networks[path, rank] = network.to(self.model.device).eval()
        return self._networks[path, rank]


def _cut_down(tensors: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """A file's tensors with the first ranks of its LoRAs alone."""
    modules = lora_from_tensors(tensors).modules
    cut = {key: own for key, delta in modules.items() if (own := first_ranks(delta, rank)) is not delta}
    found = {key: tensor for key, tensor in tensors.items() if split_key(key)[0] not in cut}
    for key, delta in cut.items():
        found |= {f"{key}.{suffix}": tensor for suffix, tensor in delta.tensors.items()}
    return found


def _set_strengths(network: Network, tags: Sequence[tuple[WeightedTag, float]]) -> None:
    """Give each adapter the strength that its module has by the tags, and by what schedules leave of the UNet's."""
    for adapter in network:
        is_unet = adapter.target.part == UNET
        strengths = ((tag.unet * factor if is_unet else tag.te) * tag.ratio(adapter.key) for tag, factor in tags)
        adapter.state = NetworkState(multiplier=sum(strengths))
