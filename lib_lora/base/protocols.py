"""What inner rooms need from outer ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from lib_lora.base.signals import Control


@dataclass(frozen=True)
class PictureRequest:
    """One picture to make; sizes in px. The prompt may hold ``<lora:name:te:unet>``."""

    prompt: str
    negative: str = ""
    seed: int = 1
    steps: int = 20
    sampler: str = "Euler a"
    cfg_scale: float = 7.0
    width: int = 512
    height: int = 512
    clip_skip: int | None = 1  # None: the host's own setting


class Generator(Protocol):
    """Whoever can turn a request into a picture: the WebUI's txt2img, or our own sampler.

    Attributes:
        settings: what a picture depends on beside its request: the checkpoint and the host's own settings. Two
            pictures of one request made with the same settings are the same.
    """

    settings: str

    def generate(self, request: PictureRequest, *, control: Control | None = None) -> Any:
        """A ``PIL.Image.Image`` in RGB, or None when ``control`` asked to stop, or somebody interrupted it.

        Raises:
            StudioError: the request names a LoRA or a sampler that is not there.
        """

    def prediction_changes(self, texts: Sequence[tuple[str, str, int]]) -> list[float]:
        """|e(other) - e(prompt)| / |e(prompt)| of each (prompt, other, seed), e being the UNet's predictions of the
        seed's noise without LoRAs."""


class Previewer(Protocol):
    """Whoever makes a run's preview pictures with the LoRA under training acting: the WebUI's own generator."""

    def generate(self, request: PictureRequest, network: Any) -> Any:
        """A ``PIL.Image.Image`` in RGB, or None when it was interrupted.

        Args:
            network: the ``adapters.network.Network`` under training, attached to the run's model.
        """


class Label(NamedTuple):
    """One thing that a tagger can say.

    ``category``: "general", "character", "copyright", "artist", "meta", "quality", "model", "rating", or "sentence"
    where ``name`` is prose.
    """

    name: str
    category: str = "general"


class Tagger(Protocol):
    """Whoever can say what pictures show. A context manager: what it needs is loaded inside, and put away after it.

    Attributes:
        help: one line for a person who chooses.
        general: its own threshold of all tags but characters; character: that of characters.
        sentence: it gives prose.
        labels: all that it can say, where that is known, once it is loaded.
        model: what tells its weights from others of the same name.
        note: what a person should know of how it runs, once it is loaded.
        batch_size: how many pictures it takes at once, once it is loaded; None for any number.
    """

    name: str
    help: str
    general: float
    character: float
    sentence: bool
    labels: Sequence[Label]
    model: str
    note: str | None
    batch_size: int | None

    def __enter__(self) -> Any:
        """Raises StudioError where its weights or its packages cannot be had."""

    def __exit__(self, *exception: object) -> None: ...

    def prepare(self, picture: Any) -> Any:
        """What ``__call__`` wants of a picture; called from other threads, while it works on others.

        Args:
            picture: a ``PIL.Image.Image`` in RGB, upright, on white.
        """

    def __call__(self, prepared: Sequence[Any]) -> Sequence[Mapping[Label, float]]:
        """What each picture shows, and how sure it is, from 0 to 1."""


@dataclass(frozen=True)
class ModelFile:
    """A checkpoint or VAE that a host knows. ``loaded``: the host has it in memory."""

    name: str
    path: Path
    loaded: bool = False


@dataclass(frozen=True)
class Folders:
    """Where people may read and write. Symbolic links in them are followed before a path is compared.

    Attributes:
        datasets: pictures and captions are read and written here.
        models: checkpoints and VAEs are read here, and new checkpoints written.
        outputs: LoRAs, jobs and caches are written here.
    """

    datasets: tuple[Path, ...]
    models: tuple[Path, ...]
    outputs: tuple[Path, ...]


@dataclass(frozen=True)
class LoraCheck:
    """What a host's own loader makes of a LoRA file. ``change`` is |with - without| / |without| of a prediction."""

    keys: int
    matched: int
    unmatched: Sequence[str] = ()
    change: float | None = None


class Waiting(Protocol):
    """What a job sees of others while it keeps them from the host's model."""

    def somebody_waits(self) -> bool:
        """Whether somebody wants to use the host's model now: has pressed Generate or chosen another checkpoint."""


class Lease(Waiting, Protocol):
    """The host's loaded model, lent to a job. While it is held nobody else uses or switches the model.

    ``model`` and ``previewer`` stay the same objects until the end, and may be used while the lease is held.
    """

    model: Any  # models.model.DiffusionModel over the host's own tensors
    previewer: Previewer | None  # None: the host cannot show the LoRA under training
    notes: Sequence[str]  # what a person should know of how the model is lent

    def give_back(self) -> None:
        """Leave the host's weights, flags, mode and device exactly as they were. Twice is once."""

    def take_again(self, *, put_back: bool) -> None:
        """Borrow again what was given back; ``model`` stays the same object.

        Args:
            put_back: load the lent checkpoint and VAE again where the user has switched.

        Raises:
            StudioError: another model is loaded now, or its weights have changed; nothing is held then.
        """


class HostTask(Protocol):
    """A job as the host's own progress display shows it."""

    def step(self, done: int, total: int, text: str = "") -> None:
        """How far it is."""

    def interrupted(self) -> bool:
        """Whether somebody pressed the host's own Interrupt since the last look."""


class Host(Protocol):
    """Where the program lives: inside a WebUI, or on its own."""

    name: str  # "webui" or "standalone"
    version: str
    data_dir: Path  # jobs, presets and caches

    def checkpoints(self) -> list[ModelFile]: ...

    def vaes(self) -> list[ModelFile]: ...

    def samplers(self) -> list[str]: ...

    def taggers(self) -> Sequence[Tagger]:
        """Those that the host has itself."""

    def lora_dir(self) -> Path: ...

    def checkpoint_dir(self) -> Path:
        """Where a new checkpoint goes."""

    def folders(self) -> Folders: ...

    def exposed(self) -> bool:
        """Whether others than this machine's user can reach the page."""

    def train_defaults(self) -> Mapping[str, Any]:
        """What the host's settings say of our options, by option name."""

    def lends(self) -> bool:
        """Whether there is a loaded model to train on."""

    def lend(self, config: Any) -> Lease:
        """Borrow the loaded model; waits for whoever uses it.

        Args:
            config: the run's ``TrainConfig``; its precision and device are those of the computation.

        Raises:
            StudioError: there is none, or one that cannot be trained on.
        """

    def switch_to(self, checkpoint: Path) -> None:
        """Make the host load another checkpoint.

        Raises:
            StudioError: it does not know the file.
        """

    def model_unloaded(self) -> AbstractContextManager[Waiting]:
        """The host's model leaves the card for a while and is loaded again afterwards; nobody uses it meanwhile."""

    def generator(self, checkpoint: Path | None = None) -> AbstractContextManager[Generator]:
        """Whoever makes pictures here, with the host's current settings.

        Args:
            checkpoint: loaded for a while; None for the host's loaded one.

        Raises:
            StudioError: it cannot be loaded, or none is loaded.
        """

    def task(self, title: str) -> AbstractContextManager[HostTask]: ...

    def lora_written(self, path: Path) -> None:
        """A LoRA file is new or has changed: the host's lists and what it remembers of it are refreshed."""

    def checkpoint_written(self, path: Path) -> None:
        """A checkpoint's file is new or has changed: the host's list is refreshed, and a loaded one loaded anew."""

    def check_lora(self, path: Path, checkpoint: Path | None = None) -> LoraCheck:
        """Load the file as the host would for a picture; the model is as before afterwards.

        Args:
            checkpoint: what the LoRA was trained on, for a host without a loaded model.
        """
