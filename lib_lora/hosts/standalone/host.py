"""LoRA Studio on its own: folders laid out as a WebUI's, the bundled demo, and no model in memory."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib_lora import __version__
from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import Folders, HostTask, Lease, LoraCheck, ModelFile, Tagger, Waiting
from lib_lora.files.safetensors_file import read_header
from lib_lora.files.toml_file import read_toml
from lib_lora.files.walk import walk

if TYPE_CHECKING:
    from lib_lora.hosts.standalone.generator import StandaloneGenerator

_ROOT = Path(__file__).resolve().parents[3]
_DEMO = _ROOT / "demo"
_CHECKPOINTS = (".safetensors", ".ckpt", ".pt")
_VAES = (*_CHECKPOINTS, ".bin")
_INDEX = "model_index.json"  # of a folder in diffusers' layout
# What demo.toml says of a run on its own, and a page asks anew.
_NOT_FOR_A_FORM = ("output_dir", "overwrite")


class StandaloneHost:
    """A ``Host`` without a WebUI.

    Args:
        data_dir: jobs, presets and caches.
        models_dir: checkpoints in ``Stable-diffusion`` and VAEs in ``VAE`` below it, as a WebUI has them.
        lora_dir: where LoRAs go.
        dataset_dirs: where pictures are looked for first; others may choose nothing else.
        demo: the folder of the demo, whose checkpoint and pictures are offered too, where it is there.
        exposed: others than this machine's user can reach the page.
    """

    name = "standalone"
    version = __version__

    def __init__(
        self,
        data_dir: Path = Path("lora_studio"),
        *,
        models_dir: Path = Path("models"),
        lora_dir: Path = Path("models/Lora"),
        dataset_dirs: Sequence[Path] = (Path("datasets"),),
        demo: Path | None = _DEMO,
        exposed: bool = False,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self._models = models_dir.absolute()
        self._loras = lora_dir.absolute()
        self._demo = demo.absolute() if demo is not None and demo.is_dir() else None
        self._datasets = tuple(folder.absolute() for folder in dataset_dirs)
        self._exposed = exposed

    def checkpoints(self) -> list[ModelFile]:
        """The person's own first, then the demo's."""
        found = _model_files(self.checkpoint_dir(), _CHECKPOINTS)
        return found + (_model_files(self._demo / "model", _CHECKPOINTS) if self._demo else [])

    def vaes(self) -> list[ModelFile]:
        return _model_files(self._models / "VAE", _VAES)

    def samplers(self) -> list[str]:
        from lib_lora.models.samplers import SAMPLERS

        return SAMPLERS.names()

    def taggers(self) -> Sequence[Tagger]:
        return ()

    def lora_dir(self) -> Path:
        return self._loras

    def checkpoint_dir(self) -> Path:
        return self._models / "Stable-diffusion"

    def folders(self) -> Folders:
        demo = (self._demo / "dataset", self._demo / "reg") if self._demo else ()
        models = (self._models, self._demo / "model") if self._demo else (self._models,)
        return Folders((*self._datasets, *demo), models, (self._loras, self.data_dir))

    def exposed(self) -> bool:
        return self._exposed

    def train_defaults(self) -> Mapping[str, Any]:
        """The demo's run, as long as there is no other checkpoint: a first Start needs nothing else."""
        if self._demo is None or any(self._demo not in each.path.parents for each in self.checkpoints()):
            return {}
        values = read_toml(self._demo / "demo.toml")
        for name in ("pretrained_model_name_or_path", "train_data_dir", "reg_data_dir"):
            values[name] = str(self._demo.parent / values[name])
        return {name: value for name, value in values.items() if name not in _NOT_FOR_A_FORM}

    def lends(self) -> bool:
        return False

    def lend(self, config: Any) -> Lease:
        raise StudioError("no model is loaded here that could be lent", field="model_source", allowed="auto, file")

    def switch_to(self, checkpoint: Path) -> None:
        raise StudioError("there is no WebUI to switch", field="model_source", came="switch", allowed="auto, file")

    @contextlib.contextmanager
    def model_unloaded(self) -> Iterator[Waiting]:
        yield _Nobody()

    @contextlib.contextmanager
    def generator(self, checkpoint: Path | None = None) -> Iterator[StandaloneGenerator]:
        """The checkpoint in memory for a while.

        Raises:
            StudioError: none was named, or it cannot be loaded.
        """
        from lib_lora.hosts.standalone.generator import StandaloneGenerator
        from lib_lora.jobs.failure import free_memory
        from lib_lora.models.device import choose_device
        from lib_lora.models.loader import load_model

        if checkpoint is None:
            known = [each.name for each in self.checkpoints()]
            raise StudioError("no model is loaded here: one must be named", field="checkpoint", allowed=known)
        model = load_model(checkpoint, device=choose_device("auto"))
        generator = StandaloneGenerator(model, self.lora_dir(), self.data_dir)
        try:
            yield generator
        finally:
            generator.close()
            free_memory()

    @contextlib.contextmanager
    def task(self, title: str) -> Iterator[HostTask]:
        yield _NoDisplay()

    def lora_written(self, path: Path) -> None:
        """Nothing here remembers LoRAs."""

    def checkpoint_written(self, path: Path) -> None:
        """Nothing here remembers checkpoints: the folder is read each time."""

    def check_lora(self, path: Path, checkpoint: Path | None = None) -> LoraCheck:
        """As ``lora_check.check_lora``, in a process that ends: this one keeps neither torch nor a checkpoint.

        Args:
            checkpoint: what the LoRA was trained on; None takes the one that its metadata name.

        Raises:
            StudioError: the LoRA does not fit the checkpoint, or names one that is not known here.
        """
        base = checkpoint or self._base_of(path)
        command = [sys.executable, "-m", "lib_lora.hosts.standalone.lora_check", str(base), str(path)]
        known = os.environ.get("PYTHONPATH")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), known] if known else [str(_ROOT)])}
        done = subprocess.run(
            command, capture_output=True, text=True, encoding="utf-8", env=environment, stdin=subprocess.DEVNULL
        )
        if done.returncode:
            said = done.stderr.strip().splitlines()
            raise StudioError(f"cannot be loaded: {said[-1] if said else 'the check ended without a word'}", file=path)
        return LoraCheck(**json.loads(done.stdout.splitlines()[-1]))

    def _base_of(self, lora: Path) -> Path:
        """The checkpoint that a LoRA was trained on, by the file name in its metadata."""
        name = read_header(lora).metadata.get("ss_sd_model_name")
        for each in self.checkpoints():
            if name in (each.path.name, each.path.resolve().name):
                return each.path
        raise StudioError("its checkpoint is not among those known here", file=lora, came=name)


class _Nobody:
    """There is no model of the host's that others could want."""

    def somebody_waits(self) -> bool:
        return False


class _NoDisplay:
    """Jobs are shown on the page alone, and stopped there."""

    def step(self, done: int, total: int, text: str = "") -> None:
        """Shown nowhere else."""

    def interrupted(self) -> bool:
        return False


def _model_files(folder: Path, endings: tuple[str, ...]) -> list[ModelFile]:
    """Model files below a folder by their names within it, and folders in diffusers' layout as one each."""
    found = []
    for place, folders, files in walk(folder):
        if _INDEX in files:
            found.append(place)
            folders.clear()  # what lies in it are its parts
        else:
            found += [place / name for name in files if name.lower().endswith(endings)]
    return [ModelFile(path.relative_to(folder).as_posix(), path) for path in sorted(found, key=_by_name)]


def _by_name(path: Path) -> str:
    return str(path).lower()
