"""Prompts and captions in the portions that CLIP reads: begin, 75 tokens, end."""

from __future__ import annotations

from dataclasses import dataclass

from lib_lora.base.errors import StudioError
from lib_lora.text.emphasis import BREAK, parse_emphasis
from lib_lora.text.tokenizer import Tokenizer

CHUNK_TOKENS = 75
COMMA_BACKTRACK_TOKENS = 20  # the WebUI's setting "Prompt word wrap length limit"


@dataclass(frozen=True)
class Chunk:
    """``ids`` [77] for the text encoder and the ``weights`` [77] of their emphasis."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


def make_chunk(tokenizer: Tokenizer, ids: list[int], weights: list[float] | None = None) -> Chunk:
    """Up to 75 tokens with begin, end and filling around them. Without tokens: an empty chunk.

    After the first end comes ``pad_id`` (in SD1 the same as the end, in SD2 0), as the WebUI does in
    ``sd_hijack_clip.process_tokens``.
    """
    missing = CHUNK_TOKENS - len(ids)
    weights = [1.0] * len(ids) if weights is None else weights
    filling = [tokenizer.eos_id] + [tokenizer.pad_id] * missing
    return Chunk((tokenizer.bos_id, *ids, *filling), (1.0, *weights, *[1.0] * (missing + 1)))


def chunk_prompt(
    prompt: str, tokenizer: Tokenizer, emphasis: bool = True, comma_backtrack: int = COMMA_BACKTRACK_TOKENS
) -> list[Chunk]:
    """A prompt of any length as chunks, the way A1111 v1.10.1 divides it (``sd_hijack_clip.tokenize_line``).

    Where a chunk is full, what follows its last comma moves into the next one, if that is at most
    ``comma_backtrack`` tokens; ``BREAK`` begins a new chunk. Textual inversion is not known here.

    Args:
        emphasis: read ``(a:1.2)`` and ``[a]`` as weights; otherwise as text.
    """
    packer = _Packer(tokenizer, comma_backtrack)
    for part in parse_emphasis(prompt) if emphasis else [(prompt, 1.0)]:
        if part == BREAK:
            packer.finish_chunk()
            continue
        text, weight = part
        for token in tokenizer.encode(text):
            packer.add(token, weight)
    return packer.finish()


class _Packer:
    """Fills one chunk after the other."""

    def __init__(self, tokenizer: Tokenizer, comma_backtrack: int) -> None:
        self.tokenizer, self.comma_backtrack = tokenizer, comma_backtrack
        self.chunks: list[Chunk] = []
        self._start([], [])

    def _start(self, ids: list[int], weights: list[float]) -> None:
        self.ids, self.weights = ids, weights
        self.last_comma: int | None = None

    def add(self, token: int, weight: float) -> None:
        is_comma = token == self.tokenizer.comma_id
        if len(self.ids) == CHUNK_TOKENS:
            # A comma that finds the chunk full begins the next one, where nobody remembers it as a comma.
            self.finish_chunk() if is_comma else self._wrap()
        elif is_comma:
            self.last_comma = len(self.ids)
        self.ids.append(token)
        self.weights.append(weight)

    def _wrap(self) -> None:
        """Finish the full chunk, taking what follows a near comma along into the next one."""
        near = self.last_comma is not None and len(self.ids) - self.last_comma <= self.comma_backtrack
        cut = self.last_comma + 1 if near else len(self.ids)
        rest_ids, rest_weights = self.ids[cut:], self.weights[cut:]
        self.ids, self.weights = self.ids[:cut], self.weights[:cut]
        self.finish_chunk()
        self._start(rest_ids, rest_weights)

    def finish_chunk(self) -> None:
        self.chunks.append(make_chunk(self.tokenizer, self.ids, self.weights))
        self._start([], [])

    def finish(self) -> list[Chunk]:
        if self.ids or not self.chunks:
            self.finish_chunk()
        return self.chunks


def chunk_caption(
    caption: str, tokenizer: Tokenizer, max_tokens: int = CHUNK_TOKENS, weighted: bool = False
) -> list[Chunk]:
    """A training caption as chunks: cut at every 75th token, and at ``max_tokens`` for good.

    The ids of each chunk are sd-scripts' (``max_token_length`` 75, 150, 225). Two things differ on purpose,
    so that a LoRA is trained on what the WebUI will show it: a short caption gives one chunk instead of being
    filled up to ``max_tokens``, and the encoded chunks keep their own begin and end (77 n rows), where
    sd-scripts keeps the first begin and the last end (75 n + 2 rows). A caption of up to 75 tokens with
    ``max_tokens`` 75 is identical in all three. Brackets in captions are text, as in sd-scripts.

    Args:
        weighted: brackets are weights, and the caption is divided as the WebUI divides a prompt; sd-scripts'
            ``weighted_captions`` reads them alike and divides at every 75th token.

    Raises:
        StudioError: ``max_tokens`` is not a multiple of 75.
    """
    if max_tokens < CHUNK_TOKENS or max_tokens % CHUNK_TOKENS:
        raise StudioError("not allowed", field="max_token_length", came=max_tokens, allowed="75, 150, 225")
    if weighted:
        return chunk_prompt(caption, tokenizer)[: max_tokens // CHUNK_TOKENS]
    ids = tokenizer.encode(caption)[:max_tokens]
    starts = range(0, max(len(ids), 1), CHUNK_TOKENS)
    return [make_chunk(tokenizer, ids[start : start + CHUNK_TOKENS]) for start in starts]
