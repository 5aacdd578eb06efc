"""The datasets that pages look at: opened in the background, looked at again for others' changes, closed when idle."""

from __future__ import annotations

import functools
import hashlib
import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib_lora.base.errors import StudioError

if TYPE_CHECKING:
    from lib_lora.dataset.collection import Collection

IDLE_SECONDS = 15 * 60  # pages ask every few seconds
_LOOK_SECONDS = 2.0  # between two looks at the disk
_LOOK_SHARE = 0.05  # of the time at most, where the disk is slow

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """How a folder is read. Two readings of one folder are two open datasets, which no page takes from another; what is
    done in one is seen in the other as another program's doing is, and both have the folder's one history.

    Attributes:
        caption_extension: of new captions, and of the caption that counts where a picture has several.
        recursive: with the folders in it.
    """

    caption_extension: str = ".txt"
    recursive: bool = True

    def __post_init__(self) -> None:
        from lib_lora.dataset.records import CAPTION_EXTENSIONS

        if self.caption_extension not in CAPTION_EXTENSIONS:
            came, allowed = self.caption_extension, CAPTION_EXTENSIONS
            raise StudioError("not allowed", field="caption_extension", came=came, allowed=allowed)


class OpenDataset:
    """A folder that is being opened, or is open.

    Attributes:
        id: the same for the same folder, read the same way, also after a restart.
        token: another one each time that the folder is opened; the pictures' numbers belong to it.
        collection: None until it is open.
        progress: (pictures read, pictures in all) while it is being opened.
        error: why it could not be opened.
        lost: why it could not be looked at the last time: the folder is gone, say.
        within: as ``Collection.open`` has it.
    """

    def __init__(self, folder: Path, within: tuple[Path, ...] | None = None, reading: Reading | None = None) -> None:
        self.reading = reading or Reading()
        self.id = _id(folder, self.reading)
        self.token = secrets.token_hex(4)
        self.folder = folder
        self.collection: Collection | None = None
        self.progress = (0, 0)
        self.error: StudioError | None = None
        self.lost: StudioError | None = None
        self.within = within
        self._kept: dict[str, Any] = {}
        self._keeping = threading.Lock()
        self._used = time.monotonic()
        self._closed = False
        self._state = threading.Lock()
        self._look_at = 0.0
        self._looking = threading.Lock()
        self._opened = threading.Event()
        threading.Thread(target=self._open, name="open dataset", daemon=True).start()

    def wait(self, seconds: float) -> None:
        """Until it is open, or cannot be opened, but no longer than so."""
        self._opened.wait(seconds)

    def use(self) -> OpenDataset:
        """Somebody asks for it: it is not idle."""
        self._used = time.monotonic()
        return self

    def holds(self, folder: Path) -> bool:
        """Whether the pictures in ``folder`` are of this dataset."""
        return folder == self.folder or (self.reading.recursive and self.folder in folder.parents)

    def keep(self, name: str, make: Callable[[], Any]) -> Any:
        """Something that is made once for as long as the dataset is open."""
        with self._keeping:
            if name not in self._kept:
                self._kept[name] = make()
            return self._kept[name]

    @property
    def idle_seconds(self) -> float:
        return time.monotonic() - self._used

    def look_again(self) -> None:
        """Take what other programs did to the folder, in the background, and not too often."""
        if self.collection is None or time.monotonic() < self._look_at or not self._looking.acquire(blocking=False):
            return
        threading.Thread(target=self._look, name="look at dataset", daemon=True).start()

    def close(self) -> None:
        with self._state:
            closed, self._closed, collection = self._closed, True, self.collection
        if not closed and collection is not None:
            collection.close()

    def _open(self) -> None:
        from lib_lora.dataset.collection import Collection

        try:
            collection = Collection.open(
                self.folder,
                recursive=self.reading.recursive,
                caption_extension=self.reading.caption_extension,
                within=self.within,
                progress=self._count,
            )
        except StudioError as error:
            self.error = error
        except Exception as error:
            _log.exception("opening %s", self.folder)
            self.error = StudioError(f"{type(error).__name__}: {error}", file=self.folder)
        else:
            with self._state:
                closed = self._closed
                self.collection = None if closed else collection
            if closed:
                collection.close()
        finally:
            self._opened.set()
        if self.collection is not None:
            self.collection.count_tokens = token_counter()

    def _count(self, done: int, total: int) -> None:
        self.progress = (done, total)

    def _look(self) -> None:
        began = time.monotonic()
        try:
            self.collection.refresh()
            self.lost = None
        except StudioError as error:
            if self.lost is None:
                _log.warning("%s", error)
            self.lost = error
        except Exception:
            _log.exception("looking at %s", self.folder)
        finally:
            took = time.monotonic() - began
            self._look_at = time.monotonic() + max(_LOOK_SECONDS, took / _LOOK_SHARE)
            self._looking.release()


class OpenDatasets:
    """Those of this process, by their id."""

    def __init__(self) -> None:
        self._open: dict[str, OpenDataset] = {}
        self._lock = threading.Lock()

    def open(self, folder: Path, within: tuple[Path, ...] | None = None, reading: Reading | None = None) -> OpenDataset:
        """The dataset in ``folder``; it is opened in the background where it is not open yet, or was for others.

        Args:
            folder: with links followed.
            within: as ``Collection.open`` has it.
        """
        self.close_idle()
        id = _id(folder, reading or Reading())
        with self._lock:
            found = self._open.get(id)
            if found is not None and found.error is None and found.within == within:
                return found.use()
            new = self._open[id] = OpenDataset(folder, within, reading)
            self._come_back()
        if found is not None:
            found.close()
        return new.use()

    def get(self, id: str) -> OpenDataset | None:
        """None where it has not been opened, or was idle for too long."""
        with self._lock:
            found = self._open.get(id)
            return found.use() if found else None

    def holding(self, folder: Path) -> OpenDataset | None:
        """The innermost one that is open and in which ``folder`` lies, with links followed; of several readings of it
        the one that was used last."""
        with self._lock:
            holding = [each for each in self._open.values() if each.collection and each.holds(folder)]
            found = max(holding, key=lambda each: (len(each.folder.parts), -each.idle_seconds), default=None)
            return found.use() if found else None

    def close_idle(self, longer_than: float = IDLE_SECONDS) -> None:
        with self._lock:
            idle = [each for each in self._open.values() if each.idle_seconds >= longer_than]
            for each in idle:
                del self._open[each.id]
        for each in idle:
            each.close()

    def _come_back(self) -> None:
        timer = threading.Timer(IDLE_SECONDS + 1, self._sweep)
        timer.daemon = True
        timer.start()

    def _sweep(self) -> None:
        self.close_idle()
        if self._open:
            self._come_back()


# One for the process, as there is one queue: "Reload UI" makes the routes anew, and the datasets stay open.
DATASETS = OpenDatasets()


@functools.cache
def token_counter() -> Callable[[str], int] | None:
    """``clip_assets.token_counter``; None where there is no vocabulary. May wait for the network."""
    from lib_lora.models import clip_assets

    try:
        return clip_assets.token_counter()
    except StudioError as error:
        _log.info("tokens are not counted: %s", error)
        return None


def _id(folder: Path, reading: Reading) -> str:
    name = f"{folder}\0{reading.caption_extension}\0{reading.recursive}"
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
