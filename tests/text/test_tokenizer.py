"""The same ids as transformers' CLIPTokenizer, of whichever version is installed."""

from __future__ import annotations

import json

import pytest
from transformers import CLIPTokenizer

from lib_lora.base.errors import StudioError
from lib_lora.text import clean as clean_module
from lib_lora.text.clean import clean, plain_characters
from lib_lora.text.tokenizer import Tokenizer
from tiny import write_clip_folder

TEXTS = [
    "red cat",
    "  Red,\tBLUE \n dog ",
    "it's 1girl, 2025!!! (red:1.2) <lora:x:1>",
    "blå hår, 猫 and 🙂, naïve",
    "don't, we'll; they're... I'm he'd you've 'quoted'",
    "red<|endoftext|>blue",
    "a_b-c/d\\e | [x] \\(y\\)",
    "Café é ß İ",
    "",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.from_folder(folder)


@pytest.fixture(scope="module")
def theirs(folder):
    return CLIPTokenizer.from_pretrained(str(folder))


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_transformers(text, tokenizer, theirs):
    expected = theirs(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.encode(text) == expected
    assert tokenizer.count(text) == len(expected)


@pytest.mark.parametrize("text", TEXTS)
def test_a_live_tokenizer_gives_the_same_ids(text, tokenizer, theirs):
    live = Tokenizer.from_hf(theirs)
    assert live.encode(text) == tokenizer.encode(text)
    assert (live.bos_id, live.eos_id, live.pad_id) == (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    assert (live.comma_id, live.vocab_size) == (tokenizer.comma_id, tokenizer.vocab_size)


def test_merges_are_applied_in_their_order(tokenizer, folder):
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    assert tokenizer.encode("RED cats,") == [vocab[t] for t in ("red</w>", "ca", "t", "s</w>", ",</w>")]
    assert tokenizer.comma_id == vocab[",</w>"]


def test_long_texts_are_not_cut(tokenizer):
    assert tokenizer.count("red " * 500) == 500


def test_decoding_gives_the_words_back(tokenizer):
    assert tokenizer.decode(tokenizer.encode("Red  blå 猫, dog")) == "red blå 猫 , dog"


def test_sd2_fills_up_with_another_token(folder, tmp_path):
    assert Tokenizer.from_folder(folder, pad_id=0).pad_id == 0
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    specials = {"pad_token": "!", "eos_token": {"content": "<|endoftext|>", "lstrip": False}}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(specials), encoding="utf-8")
    assert Tokenizer.from_folder(tmp_path).pad_id == 0


def test_special_tokens_have_clips_names_where_no_file_names_them(folder, tmp_path):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.pad_id == tokenizer.eos_id == tokenizer.bos_id + 1


def test_unusable_folders_are_named(folder, tmp_path):
    with pytest.raises(StudioError, match="vocab.json"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0}', encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    with pytest.raises(StudioError, match="bos_token"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "vocab.json").write_bytes((folder / "vocab.json").read_bytes())
    (tmp_path / "merges.txt").write_text("#version: 0.2\nzz qq\n", encoding="utf-8")
    with pytest.raises(StudioError, match="do not belong together"):
        Tokenizer.from_folder(tmp_path)


ODD = [
    ("\u201ccurly\u201d \u2018quotes\u2019", "\"curly\" 'quotes'"),
    ("\uff21\uff22\uff23\u3000\uff11", "ABC 1"),
    ("\ufb01ne o\ufb03ce", "fine office"),
    ("salt &amp; pepper &eacute;", "salt & pepper \u00e9"),
    ("a < b &amp; c", "a < b &amp; c"),
    ("cafe\u0301", "caf\u00e9"),
    ("a\u0000b\ufeffc", "abc"),
    ("a\u2028b\r\nc", "a\nb\nc"),
]


@pytest.mark.parametrize(("text", "expected"), ODD)
def test_odd_characters_become_plain(text, expected):
    assert plain_characters(text) == expected


@pytest.mark.parametrize("text", [odd for odd, _ in ODD] + TEXTS)
def test_plain_characters_agree_with_ftfy(text):
    ftfy = pytest.importorskip("ftfy", reason="ftfy is not installed")
    assert plain_characters(text) == ftfy.fix_text(text)


def test_without_ftfy_the_same_text_comes_out(monkeypatch):
    before = [clean(text) for text, _ in ODD]
    monkeypatch.setattr(clean_module, "ftfy", None)
    assert [clean(text) for text, _ in ODD] == before
