"""A tagger in one method, for plug-ins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lib_lora.base.protocols import Label


class SimpleTagger:
    """A ``Tagger`` that looks at one picture after the other; what it overrides beside ``tag`` is its own choice."""

    name = ""  # set by whoever makes it: the name that it is registered under
    help = "a plug-in"
    general = 0.35
    character = 0.35
    sentence = False
    labels: Sequence[Label] = ()
    model = ""
    note: str | None = None
    batch_size: int | None = 1

    def tag(self, picture: Any) -> Mapping[Label, float]:
        """What a picture (``PIL.Image.Image`` in RGB) shows."""
        raise NotImplementedError

    def __enter__(self) -> SimpleTagger:
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing is held."""

    def prepare(self, picture: Any) -> Any:
        return picture

    def __call__(self, prepared: Sequence[Any]) -> list[Mapping[Label, float]]:
        return [self.tag(picture) for picture in prepared]
