"""A host with a tiny model of its own, which it lends: a WebUI in small."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import Folders, LoraCheck, ModelFile


@dataclass
class TinyTask:
    title: str
    steps: list[tuple[int, int]] = field(default_factory=list)
    wish: bool = False

    def step(self, done: int, total: int, text: str = "") -> None:
        self.steps.append((done, total))

    def interrupted(self) -> bool:
        pressed, self.wish = self.wish, False
        return pressed


class TinyHost:
    """A lock, a model that is lent under it, checkpoints to switch between.

    Attributes:
        waiting: somebody wants the model.
        held: whether the model is lent now; ``unloaded``: whether it is put away.
        told: what it was told, in order.
    """

    name, version = "tiny", "1"

    def __init__(self, folder: Path, checkpoint: Path, *, lends: bool = True) -> None:
        self.data_dir = folder / "studio"
        self.loras = folder / "Lora"
        self.loras.mkdir(exist_ok=True)
        self.known = [checkpoint]
        self.loaded: Path | None = checkpoint if lends else None
        self.shared = False
        self.waiting = False
        self.held = self.unloaded = False
        self.turn = threading.Lock()
        self.told: list[Any] = []
        self.own_taggers: list[Any] = []
        self.tasks: list[TinyTask] = []
        self._model: Any = None

    @property
    def model(self) -> Any:
        """What it has in memory; a switch loads anew."""
        from lib_lora.models.loader import load_model

        if self._model is None or self._model.path != self.loaded:
            self._model = load_model(self.loaded)
            self._model.borrowed = True
        return self._model

    def checkpoints(self) -> list[ModelFile]:
        return [ModelFile(path.name, path, path == self.loaded) for path in self.known]

    def vaes(self) -> list[ModelFile]:
        return []

    def samplers(self) -> list[str]:
        return ["Euler a"]

    def taggers(self) -> list[Any]:
        return self.own_taggers

    def lora_dir(self) -> Path:
        return self.loras

    def checkpoint_dir(self) -> Path:
        return self.known[0].parent

    def folders(self) -> Folders:
        return Folders((), (), (self.loras, self.data_dir))

    def exposed(self) -> bool:
        return self.shared

    def train_defaults(self) -> dict[str, Any]:
        return {}

    def lends(self) -> bool:
        return self.loaded is not None

    def lend(self, config: Any) -> TinyLease:
        return TinyLease(self)

    def switch_to(self, checkpoint: Path) -> None:
        if checkpoint not in self.known:
            raise StudioError("not known here", field="checkpoint", file=checkpoint)
        self.told.append(("switch", checkpoint.name))
        self.loaded = checkpoint

    @contextlib.contextmanager
    def model_unloaded(self) -> Iterator[TinyHost]:
        with self.turn:
            self.unloaded = True
            try:
                yield self
            finally:
                self.unloaded = False

    def somebody_waits(self) -> bool:
        return self.waiting

    @contextlib.contextmanager
    def generator(self, checkpoint: Path | None = None) -> Iterator[Any]:
        from lib_lora.hosts.standalone.generator import StandaloneGenerator

        assert checkpoint is None or checkpoint in self.known
        self.told.append(("pictures", checkpoint and checkpoint.name))
        with self.turn:
            yield StandaloneGenerator(self.model, self.loras, self.data_dir)

    @contextlib.contextmanager
    def task(self, title: str) -> Iterator[TinyTask]:
        self.tasks.append(TinyTask(title))
        yield self.tasks[-1]

    def lora_written(self, path: Path) -> None:
        assert path.exists()
        self.told.append(("written", path.name))

    def checkpoint_written(self, path: Path) -> None:
        assert path.exists()
        self.told.append(("checkpoint written", path.name))

    def check_lora(self, path: Path, checkpoint: Path | None = None) -> LoraCheck:
        from lib_lora.hosts.standalone.lora_check import check_lora

        assert not self.held and not self.unloaded
        self.told.append(("checked", path.name))
        return check_lora(self.model, path)


class TinyLease:
    previewer = None
    notes = ("lent by a tiny host",)

    def __init__(self, host: TinyHost) -> None:
        self._host = host
        host.turn.acquire()
        host.held = True
        self.model = host.model
        self._before = _fingerprint(self.model)

    def somebody_waits(self) -> bool:
        return self._host.waiting

    def give_back(self) -> None:
        if not self._host.held:
            return
        assert _fingerprint(self.model) == self._before
        assert not any(module._forward_hooks for part in self.model.modules() for module in part.modules())
        self._host.held = False
        self._host.turn.release()
        self._host.told.append("given back")

    def take_again(self, *, put_back: bool) -> None:
        self._host.turn.acquire()
        self._host.held = True
        if self._host.loaded != self.model.path:
            if not put_back:
                self._host.held = False
                self._host.turn.release()
                raise StudioError("another checkpoint is loaded", field="on_switch", came=self._host.loaded.name)
            self._host.loaded, self._host._model = self.model.path, self.model
            self._host.told.append("put back")
        self._host.told.append("taken again")


def _fingerprint(model: Any) -> list[tuple[int, float]]:
    return [
        (parameter._version, float(parameter.detach().double().sum()))
        for part in model.modules()
        for parameter in part.parameters()
    ]
