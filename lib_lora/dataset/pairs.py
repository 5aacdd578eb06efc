"""Which caption file belongs to which picture of a folder."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence


class CaptionPairs:
    """The caption files of one folder's pictures, by name.

    Extensions count in any case. A stem in another case counts where no picture claims that file exactly: such
    a pair is one name on Windows and macOS, and what is trained must not depend on the system.
    """

    def __init__(self, pictures: Sequence[str], captions: Sequence[str], preferred: str) -> None:
        """``preferred``: the extension, in lower case, that wins where a picture has several caption files."""
        self._captions = captions
        self._preferred = preferred
        stems = [_stem(name) for name in pictures]
        self._claimed = set(stems)
        self._shared = {stem for stem, count in Counter(stems).items() if count > 1}
        self._exact: dict[str, list[str]] = defaultdict(list)
        self._loose: dict[str, list[str]] = defaultdict(list)
        for name in captions:
            stem = _stem(name)
            self._exact[stem].append(name)
            if stem not in self._claimed:
                self._loose[stem.casefold()].append(name)

    def of(self, picture: str) -> list[str]:
        """The picture's caption files, the one that counts first."""
        stem = _stem(picture)
        files = self._exact.get(stem) or self._loose.get(stem.casefold()) or []
        if len(files) < 2:
            return files
        return sorted(files, key=lambda name: not name.lower().endswith(self._preferred))

    def is_shared(self, picture: str) -> bool:
        """Whether another picture has the same stem, and so the same caption file."""
        return _stem(picture) in self._shared

    def orphans(self) -> list[str]:
        """Caption files that no picture belongs to."""
        taken = self._claimed | {
            _stem(name)
            for picture in self._claimed
            if picture not in self._exact
            for name in self._loose.get(picture.casefold(), [])
        }
        return [name for name in self._captions if _stem(name) not in taken]


def _stem(name: str) -> str:
    """The name without its extension; hidden names, which begin with a dot, do not come here."""
    return name.rpartition(".")[0]
