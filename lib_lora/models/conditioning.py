"""What the UNet is told of a picture's text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

CHUNK_STATES = 77  # rows of the context that one chunk of a text becomes


@dataclass(frozen=True)
class Conditioning:
    """The encoded texts of a batch.

    Attributes:
        context: [B, 77 n, d], what cross-attention looks at; in SDXL both encoders' states side by side.
        pooled: [B, p], the text as one vector, from the first chunk; None where the family has none.
    """

    context: torch.Tensor
    pooled: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.context)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Conditioning:
        pooled = None if self.pooled is None else self.pooled.to(device=device, dtype=dtype)
        return Conditioning(self.context.to(device=device, dtype=dtype), pooled)

    def rows(self, index: slice | Sequence[int] | torch.Tensor) -> Conditioning:
        """Some of the texts, in the order of ``index``."""
        return Conditioning(self.context[index], None if self.pooled is None else self.pooled[index])

    def expand(self, batch: int) -> Conditioning:
        """One text for ``batch`` pictures."""
        pooled = None if self.pooled is None else self.pooled.expand(batch, -1)
        return Conditioning(self.context.expand(batch, -1, -1), pooled)

    def zeros(self) -> Conditioning:
        """All zeros of the same shapes: SDXL's way to say nothing."""
        pooled = None if self.pooled is None else torch.zeros_like(self.pooled)
        return Conditioning(torch.zeros_like(self.context), pooled)


def stack(parts: Sequence[Conditioning], empty: Conditioning | None = None) -> Conditioning:
    """Conditionings one under the other.

    Args:
        parts: each [B, 77 n, d], whose n may differ where ``empty`` is given.
        empty: [1, 77, d] of the empty text; fills up those with fewer chunks, as ``prompt.encode_captions`` does.
    """
    longest = max(part.context.shape[1] for part in parts)
    context = torch.cat([_lengthen(part.context, longest, empty) for part in parts])
    pooled = [part.pooled for part in parts if part.pooled is not None]
    return Conditioning(context, torch.cat(pooled) if pooled else None)


def _lengthen(context: torch.Tensor, rows: int, empty: Conditioning | None) -> torch.Tensor:
    missing = (rows - context.shape[1]) // CHUNK_STATES
    if not missing:
        return context
    if empty is None:
        raise ValueError("the texts have different numbers of chunks, and there is nothing to fill them up with")
    return torch.cat([context, *[empty.context.expand(len(context), -1, -1)] * missing], dim=1)
