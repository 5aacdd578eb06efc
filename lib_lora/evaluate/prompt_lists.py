"""Lists of prompts that people try their LoRAs with again and again: text files with a prompt a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lib_lora.base.errors import StudioError
from lib_lora.files.atomic import safe_name, write_text

_ENDING = ".txt"


class PromptLists:
    """The lists of a folder. Empty lines and those that begin with # count for nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        found = (path for path in self.folder.iterdir() if path.suffix == _ENDING and not path.name.startswith("."))
        return sorted((path.stem for path in found), key=str.lower)

    def read(self, name: str) -> tuple[str, ...]:
        """The prompts of a list.

        Raises:
            StudioError: there is none of this name, or it cannot be read.
        """
        if name not in self.names():
            raise StudioError("no such list of prompts", field="prompt_list", came=name, allowed=self.names())
        path = self.folder / f"{name}{_ENDING}"
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise StudioError(f"cannot be read: {error}", field="prompt_list", file=path) from error
        return tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))

    def save(self, name: str, prompts: Sequence[str]) -> None:
        """Keep a list; one of the same name is replaced.

        Raises:
            StudioError: its name cannot be used, or a prompt is none.
        """
        safe_name(name, field="name")
        for prompt in prompts:
            if not isinstance(prompt, str) or not prompt.strip() or len(prompt.splitlines()) > 1:
                raise StudioError("not allowed", field="prompts", came=prompt, allowed="texts of one line")
            if prompt.lstrip().startswith("#"):
                raise StudioError("would be taken for a remark", field="prompts", came=prompt)
        if not prompts:
            raise StudioError("must be given", field="prompts", allowed="texts of one line")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / f"{name}{_ENDING}", "".join(f"{prompt.strip()}\n" for prompt in prompts))

    def remove(self, name: str) -> None:
        """Raises StudioError where there is none of this name."""
        if name not in self.names():
            raise StudioError("no such list of prompts", field="name", came=name, allowed=self.names())
        (self.folder / f"{name}{_ENDING}").unlink()
