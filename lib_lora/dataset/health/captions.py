"""Caption files that training refuses, cuts short or takes for something else than was meant."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from lib_lora.dataset.collection import Applied, Collection
from lib_lora.dataset.edits import Parentheses, Truncate
from lib_lora.dataset.health.checks import CHECKS, many, some
from lib_lora.dataset.health.report import ActionFix, CaptionChange, EditFix, Finding, tag_fix
from lib_lora.dataset.health.view import View
from lib_lora.dataset.items import EMPTY_CAPTION, Item
from lib_lora.dataset.tag_groups import in_group
from lib_lora.dataset.tags import split_caption
from lib_lora.files.captions import decode_text

TOKEN_LIMITS = (75, 150, 225)
_EQUAL_ON = 3  # captions equal on fewer pictures are nothing to speak of
# Behind other words of its tag a bracket may be a name's: hatsune miku (vocaloid:1)
_BEHIND = re.compile(r"(?<=[^\s,(\[])(\s+)\(([^():,]*[^():,\s])(:\s*[+-]?[0-9]*\.?[0-9]+\s*)\)(?=\s*(?:,|$))")
_WEIGHTED = re.compile(r"\(+([^():]*[^():\s]):\s*[+-]?[0-9]*\.?[0-9]+\s*\)+")  # (red dress:1.2)
_DOUBLED = re.compile(r"\({2,}([^()]+)\){2,}|\[{2,}([^\[\]]+)\]{2,}")  # ((red dress)), [[red dress]]
_NETWORK = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>", re.IGNORECASE)
_ENCLOSED = re.compile(
    r"(?:^|(?<=,))(\s*)[(\[]([^()\[\],]*[a-zA-Z]{2}[^()\[\],]*)[)\]](?=\s*(?:,|$))"
)  # a, (red dress)
_ESCAPED = re.compile(r"\\([()\[\]])")


@CHECKS.register("caption_encoding")
def unreadable_captions(view: View) -> Iterator[Finding]:
    found = [item for item in view.items if item.caption_problem and item.caption_problem != EMPTY_CAPTION]
    why: dict[str, list[Item]] = defaultdict(list)
    for item in found:
        why["the text is not UTF-8" if _is_text(item) else item.caption_problem].append(item)
    for problem, items in why.items():
        fixable = all(map(_is_text, items))
        yield Finding(
            "caption_encoding",
            "error",
            f"{many(len(items), 'caption')}: {problem}",
            tuple(item.id for item in items),
            fix=ActionFix("Take them for Latin-1 (Windows-1252) and write UTF-8", _convert) if fixable else None,
        )


def _is_text(item: Item) -> bool:
    """Bytes of an 8-bit encoding: no zero bytes, as UTF-16 and binary files have them."""
    return item.caption_data is not None and b"\0" not in item.caption_data


def _convert(collection: Collection, items: Sequence[int], files: Sequence[str]) -> Applied:
    return collection.convert_captions(items, "cp1252")


@CHECKS.register("caption_empty")
def empty_captions(view: View) -> Iterator[Finding]:
    found = [item for item in view.items if item.caption_problem == EMPTY_CAPTION]
    if found:
        yield Finding(
            "caption_empty",
            "error",
            f"{many(len(found), 'caption file is', 'caption files are')} empty, which training refuses: "
            + some([item.caption_name or item.name for item in found]),
            tuple(item.id for item in found),
            fix=ActionFix(
                "Remove the empty files; the folder's name is the caption then",
                lambda collection, items, files: collection.remove_captions(items),
            ),
        )


@CHECKS.register("caption_missing")
def missing_captions(view: View) -> Iterator[Finding]:
    found = [item for item in view.items if item.caption_name is None and not item.picture_problem]
    if found:
        yield Finding(
            "caption_missing",
            "warning",
            f"{many(len(found))} without a caption file; the folder's name is the caption then",
            tuple(item.id for item in found),
        )


@CHECKS.register("caption_lines")
def several_lines(view: View) -> Iterator[Finding]:
    found = [item for item in view.items if item.lines_unused]
    if found:
        yield Finding(
            "caption_lines",
            "warning",
            f"{many(len(found), 'caption has', 'captions have')} several lines, of which training reads the first",
            tuple(item.id for item in found),
            fix=ActionFix("Join the lines with commas", _join_lines),
        )


def _join_lines(collection: Collection, items: Sequence[int], files: Sequence[str]) -> Applied:
    texts = {}
    for item in map(collection.item, items):
        if item.caption_data is not None and item.lines_unused:
            lines = re.split(r"\r\n|\r|\n", decode_text(item.caption_data, item.caption_path))
            parts = [line.strip().strip(",").strip() for line in lines]
            texts[item.id] = ", ".join(part for part in parts if part)
    return collection.rewrite(texts, "Join the lines of captions")


@CHECKS.register("same_caption")
def same_captions(view: View) -> Iterator[Finding]:
    """Nothing tells the pictures apart. A caption of one tag is often meant so."""
    carriers: dict[str, list[int]] = defaultdict(list)
    for item in view.items:
        if item.caption and (item.prose or len(item.tags) > 1):
            carriers[item.caption].append(item.id)
    for caption, ids in carriers.items():
        if len(ids) >= _EQUAL_ON:
            shown = caption if len(caption) <= 60 else caption[:57] + "..."
            yield Finding("same_caption", "hint", f"{many(len(ids))} have the same caption: {shown}", tuple(ids))


@CHECKS.register("too_many_tokens")
def too_many_tokens(view: View) -> Iterator[Finding]:
    limit = view.settings.max_token_length
    found = [id for id, count in view.tokens.items() if count > limit]
    if found:
        over = Counter(max(step for step in (limit, *TOKEN_LIMITS) if view.tokens[id] > step) for id in found)
        rows = ", ".join(f"{count} over {step}" for step, count in sorted(over.items()))
        yield Finding(
            "too_many_tokens",
            "warning",
            f"{many(len(found), 'caption is', 'captions are')} longer than the {limit} tokens that training takes; "
            f"the rest is cut off ({rows})",
            tuple(found),
            fix=EditFix("Leave out the last tags until they fit", Truncate(tokens=limit)),
        )


@CHECKS.register("weight_syntax")
def weight_syntax(view: View) -> Iterator[Finding]:
    """Brackets of a prompt: training reads them as letters."""
    found = [item for item in view.items if item.caption and without_weights(item.caption) != item.caption]
    if found:
        yield Finding(
            "weight_syntax",
            "warning",
            f"{many(len(found), 'caption')} with a prompt's weights, such as (tag:1.2) or <lora:name:1>; training "
            "takes them for text",
            tuple(item.id for item in found),
            fix=EditFix("Take the weights out", CaptionChange("take weights out", without_weights)),
        )


def without_weights(caption: str) -> str:
    """The caption without ``(tag:1.2)``, ``((tag))``, ``(tag)`` as a whole tag, and ``<lora:...>``.

    Brackets that are part of a name, such as ``saber (fate)``, escaped ones and faces stay. So do brackets behind other
    words that end a tag: of them only a weight goes, which has a sign or a point, as in ``saber (fate:1.2)``. A whole
    number may belong to the name.
    """
    text = _NETWORK.sub("", _hidden(caption))
    text = _BEHIND.sub(_name, text)
    text = _WEIGHTED.sub(r"\1", text)
    text = _DOUBLED.sub(lambda match: match[1] or match[2], text)
    text = _ENCLOSED.sub(r"\1\2", text)
    text = _shown(text)
    if text == caption:
        return caption
    parts = split_caption(text)
    return parts.with_tags(parts.tags)


def _name(match: re.Match[str]) -> str:
    space, name, weight = match.groups()
    is_weight = any(sign in weight for sign in ".+-")
    return f"{space}{_FACES['(']}{name}{'' if is_weight else weight}{_FACES[')']}"


# Escaped brackets, names and faces are out of the patterns' sight.
_HIDE = {"\\(": "\ue000", "\\)": "\ue001", "\\[": "\ue002", "\\]": "\ue003"}
_FACE = re.compile(r"[^\s,]*_[^\s,]*|[:;]-?[()\[\]]+")


def _hidden(text: str) -> str:
    for shown, hidden in _HIDE.items():
        text = text.replace(shown, hidden)
    return _FACE.sub(lambda match: _face(match[0]), text)


def _face(text: str) -> str:
    if in_group(text, "kaomoji") or text[0] in ":;":
        return "".join(_FACES.get(letter, letter) for letter in text)
    return text


_FACES = {"(": "\ue004", ")": "\ue005", "[": "\ue006", "]": "\ue007"}


def _shown(text: str) -> str:
    for shown, hidden in [*_HIDE.items(), *_FACES.items()]:
        text = text.replace(hidden, shown)
    return text


@CHECKS.register("escaped_brackets")
def escaped_brackets(view: View) -> Iterator[Finding]:
    """A prompt wants them; in a caption the backslash is a letter, and the tag another than the model knows."""
    found = [item for item in view.items if any(map(_ESCAPED.search, item.tags))]
    if found:
        yield Finding(
            "escaped_brackets",
            "warning",
            f"{many(len(found), 'caption')} with escaped brackets \\( \\), which belong into prompts",
            tuple(item.id for item in found),
            fix=EditFix("Take the backslashes out", Parentheses(into="plain")),
        )


@CHECKS.register("metadata_tag")
def metadata_tags(view: View) -> Iterator[Finding]:
    """What a booru says of the post, and not of the picture."""
    found = {tag: ids for tag, ids in view.carriers.items() if in_group(tag, "metadata")}
    if found:
        yield Finding(
            "metadata_tag",
            "warning",
            f"a booru's notes on the post, which are not to be seen in the picture: {some(sorted(found))}",
            view.in_order(id for ids in found.values() for id in ids),
            tags=tuple(sorted(found)),
            fix=tag_fix("Remove them", "remove a booru's notes", _without_metadata),
        )


def _without_metadata(tags: list[str]) -> list[str]:
    return [tag for tag in tags if not in_group(tag, "metadata")]
