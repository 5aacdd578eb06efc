"""A small CLIP-style byte-pair tokenizer, written in the files that CLIPTokenizer reads.

The vocabulary has CLIP's layout: 256 byte characters, the same 256 with `</w>` (end of word), one token for
each merge, `<|startoftext|>`, `<|endoftext|>`. The merges are learnt from a word list, so that every listed
word becomes one token; any other word falls apart into known pieces."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

from world import TAGS

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 77

COMMON_WORDS = """
a an the and or of in on at to by with without from for is are be it its this that one two three four five
many no not very some all more most other another each both i you he she we they my your his her their who
what where man woman girl boy child person people baby friend king queen face eye eyes ear ears nose mouth
lips teeth hair head neck hand hands arm arms leg legs foot feet body skin smile tail horn horns wing wings
fur feather cat dog horse bird fish cow sheep pig mouse bear lion tiger wolf fox rabbit frog snake bee
dragon robot monster house home door window wall floor roof room table chair bed lamp book paper pen cup
glass bottle box bag ball toy car bus train boat ship plane bike road street city town bridge tower castle
park garden farm field forest tree flower leaf grass plant fruit apple bread cake water river lake sea beach
island mountain hill rock stone sand sky sun moon stars cloud rain snow ice fire smoke wind light shadow
night day morning evening summer winter spring autumn black white gray grey brown orange pink cyan teal gold
silver dark bright pale colour color colorful big small large tiny huge tall short long wide thin thick
round flat sharp soft hard smooth rough old new young good bad best worst high low quality beautiful pretty
cute happy sad angry calm funny simple complex detailed clean photo picture image drawing painting sketch
art artist style poster logo icon symbol sign letter word text pattern shape circle square triangle star
ring disc oval line dot cross heart diamond cube sphere cone stripe stripes left right center centre middle
top bottom up down front back side above below behind near far inside outside background foreground border
edge corner plain solid empty full half whole part piece red green blue yellow purple shirt dress skirt hat
coat shoes boots gloves glasses scarf belt crown mask sword standing sitting walking running jumping flying
sleeping eating looking holding wearing playing open closed character creature animal hero masterpiece
portrait landscape view close closeup wide scene object thing subject
""".split()  # noqa: SIM905 - a list literal would be four times as long


def byte_characters() -> list[str]:
    """CLIP's 256 printable stand-ins for the byte values, in vocabulary order (GPT-2's bytes_to_unicode)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def world_words() -> list[str]:
    """Every word of the world's captions."""
    return sorted({name for names in TAGS.values() for name in names} | {"background"})


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent pair first, until each of the words (ASCII letters) is one token."""
    segments = {word: (*word[:-1], word[-1] + "</w>") for word in words}
    merges = []
    while pairs := Counter(pair for parts in segments.values() for pair in pairwise(parts)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        segments = {word: merge_pair(parts, best) for word, parts in segments.items()}
    return merges


def merge_pair(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """The parts with every occurrence of the pair joined, from left to right."""
    joined, i = [], 0
    while i < len(parts):
        if parts[i : i + 2] == pair:
            joined.append(parts[i] + parts[i + 1])
            i += 2
        else:
            joined.append(parts[i])
            i += 1
    return tuple(joined)


def write_tokenizer(folder: Path) -> int:
    """Write the four files of a slow CLIPTokenizer; returns the vocabulary size."""
    merges = learn_merges(sorted({*world_words(), *COMMON_WORDS}))
    characters = byte_characters()
    tokens = [*characters, *(c + "</w>" for c in characters), *("".join(pair) for pair in merges), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "vocab.json", {token: i for i, token in enumerate(tokens)})
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    write_json(folder / "special_tokens_map.json", special)
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_TOKENS, "do_lower_case": True}
    write_json(folder / "tokenizer_config.json", {**config, "add_prefix_space": False, **special})
    return len(tokens)


def write_json(path: Path, content: dict) -> None:
    """Readable JSON with a final newline."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
