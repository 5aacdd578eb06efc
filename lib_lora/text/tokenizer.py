"""CLIP's byte-level BPE through the ``tokenizers`` library, or through a tokenizer that a host already holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from lib_lora.base.errors import StudioError
from lib_lora.text.clean import clean

END_OF_WORD = "</w>"
_BOS, _EOS = "<|startoftext|>", "<|endoftext|>"
# The pieces that BPE never joins, as in OpenAI's clip/simple_tokenizer.py; each digit stands alone.
_PIECES = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class Tokenizer:
    """Text to CLIP's token ids and back. Made by ``from_folder`` or ``from_hf``.

    Attributes:
        bos_id, eos_id: what begins and ends a chunk of 77.
        pad_id: what fills a chunk after its end: ``eos_id`` in SD1, 0 in SD2.
        comma_id: the token of a comma that ends a word, or None when the vocabulary has none.
        vocab_size: the number of ids.
    """

    def __init__(
        self,
        encode: Callable[[str], list[int]],
        decode: Callable[[list[int]], str],
        vocab: dict[str, int],
        *,
        bos_id: int,
        eos_id: int,
        pad_id: int,
    ) -> None:
        self._encode, self._decode = encode, decode
        self.bos_id, self.eos_id, self.pad_id = bos_id, eos_id, pad_id
        self.comma_id = vocab.get("," + END_OF_WORD)
        self.vocab_size = len(vocab)

    @classmethod
    def from_folder(cls, folder: str | Path, *, pad_id: int | None = None) -> Tokenizer:
        """From ``vocab.json`` and ``merges.txt``.

        Names of the special tokens come from ``special_tokens_map.json`` or ``tokenizer_config.json`` where
        these are; otherwise they are CLIP's own, and a chunk is filled with the end token.

        Args:
            pad_id: overrides what fills a chunk (0 for SD2, whose vocabulary is otherwise OpenAI's).

        Raises:
            StudioError: a file is missing or unreadable, or a special token is not in the vocabulary.
        """
        folder = Path(folder)
        vocab, merges = _read_vocab(folder / "vocab.json"), _read_merges(folder / "merges.txt")
        special = _special_tokens(folder)
        for role, token in special.items():
            if token not in vocab:
                raise StudioError(f"the vocabulary lacks the {role}", file=folder / "vocab.json", came=token)
        backend = _backend(folder, vocab, merges, special)
        tokens = {token_id: token for token, token_id in vocab.items()}
        decoder = decoders.ByteLevel()

        def encode(text: str) -> list[int]:
            return backend.encode(clean(text), add_special_tokens=False).ids

        def decode(ids: list[int]) -> str:
            return decoder.decode([tokens[token_id] for token_id in ids]).replace(END_OF_WORD, " ").strip()

        return cls(
            encode,
            decode,
            vocab,
            bos_id=vocab[special["bos_token"]],
            eos_id=vocab[special["eos_token"]],
            pad_id=vocab[special["pad_token"]] if pad_id is None else pad_id,
        )

    @classmethod
    def from_hf(cls, hf_tokenizer: Any, *, pad_id: int | None = None) -> Tokenizer:
        """A live CLIPTokenizer of transformers, slow or fast, such as the WebUI holds.

        Its ``tokenize`` is used, which neither truncates nor warns about long texts.
        """
        fallback = hf_tokenizer.pad_token_id
        return cls(
            lambda text: hf_tokenizer.convert_tokens_to_ids(hf_tokenizer.tokenize(text)),
            lambda ids: hf_tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip(),
            hf_tokenizer.get_vocab(),
            bos_id=hf_tokenizer.bos_token_id,
            eos_id=hf_tokenizer.eos_token_id,
            pad_id=pad_id if pad_id is not None else hf_tokenizer.eos_token_id if fallback is None else fallback,
        )

    def encode(self, text: str) -> list[int]:
        """Token ids without begin, end and filling; of any length."""
        return list(self._encode(text)) if text else []

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``: words apart by one space, in lower case."""
        return self._decode([int(token_id) for token_id in ids])

    def count(self, text: str) -> int:
        """How many of a chunk's 75 places ``text`` takes."""
        return len(self.encode(text))


def _read_vocab(path: Path) -> dict[str, int]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudioError(f"the vocabulary cannot be read ({error})", file=path) from error


def _read_merges(path: Path) -> list[tuple[str, str]]:
    try:
        # Not splitlines: merges may contain characters that it takes for the end of a line.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise StudioError(f"the list of merges cannot be read ({error})", file=path) from error
    pairs = [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version")]
    if any(len(pair) != 2 for pair in pairs):
        raise StudioError("a line of the list of merges is not a pair", file=path)
    return pairs


def _special_tokens(folder: Path) -> dict[str, str]:
    """The begin, end, padding and unknown tokens by role."""
    named: dict[str, str] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        if path.is_file():
            for role, token in _read_vocab(path).items():
                content = token.get("content") if isinstance(token, dict) else token
                if isinstance(content, str):
                    named[role] = content
    eos = named.get("eos_token", _EOS)
    return {
        "bos_token": named.get("bos_token", _BOS),
        "eos_token": eos,
        "unk_token": named.get("unk_token", eos),
        "pad_token": named.get("pad_token", eos),
    }


def _backend(
    folder: Path, vocab: dict[str, int], merges: list[tuple[str, str]], special: dict[str, str]
) -> tokenizers.Tokenizer:
    try:
        model = models.BPE(
            vocab=vocab,
            merges=merges,
            continuing_subword_prefix="",
            end_of_word_suffix=END_OF_WORD,
            fuse_unk=False,
            unk_token=special["unk_token"],
        )
    except Exception as error:  # the library raises bare Exceptions
        raise StudioError(f"vocabulary and merges do not belong together ({error})", file=folder) from error
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(_PIECES), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.add_special_tokens([special["bos_token"], special["eos_token"]])
    return backend
