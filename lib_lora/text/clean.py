"""What CLIP's tokenizer does to a text before it looks for tokens."""

from __future__ import annotations

import html
import re
import unicodedata

try:
    import ftfy
except ImportError:  # the WebUI has it, a standalone installation need not
    ftfy = None

_SINGLE_QUOTES = re.compile("[\u02bc\u2018-\u201b]")
_DOUBLE_QUOTES = re.compile("[\u201c-\u201f]")
_FULL_OR_HALF_WIDTH = re.compile("[\u3000\uff01-\uffef]+")
_LIGATURES = re.compile("[\u0132\u0133\u0149\u01f1-\u01f3\u01c4-\u01cc\ufb00-\ufb06]")
_LONG_S_T = {"\ufb05": "\u017ft"}
_CONTROLS = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]")
_ENTITY = re.compile(r"&#?[0-9A-Za-z]{1,24};")
_SPACES = re.compile(r"\s+")


def clean(text: str) -> str:
    """``text`` with odd characters made plain, runs of white space made one space, in lower case.

    OpenAI's CLIP (``clip/simple_tokenizer.py``) and transformers' CLIPTokenizer do this with ftfy where it is
    installed. Without it the repairs that captions need are made here (quotes, widths, ligatures, entities,
    control characters, NFC); what is left to ftfy alone is text decoded with a wrong encoding.
    """
    fixed = ftfy.fix_text(text) if ftfy is not None else plain_characters(text)
    return _SPACES.sub(" ", fixed).strip().lower()


def plain_characters(text: str) -> str:
    """The part of ``ftfy.fix_text`` that does not guess encodings."""
    if "<" not in text:  # ftfy takes a text with "<" for HTML, where entities mean something
        text = _ENTITY.sub(lambda match: html.unescape(match.group()), text)
    text = _LIGATURES.sub(lambda match: _LONG_S_T.get(match.group()) or _compatible(match), text)
    text = _FULL_OR_HALF_WIDTH.sub(_compatible, text)
    text = _DOUBLE_QUOTES.sub('"', _SINGLE_QUOTES.sub("'", text))
    text = re.sub("\r\n|\r|\u2028|\u2029|\x85", "\n", text)
    return unicodedata.normalize("NFC", _CONTROLS.sub("", text))


def _compatible(match: re.Match[str]) -> str:
    return unicodedata.normalize("NFKC", match.group())
