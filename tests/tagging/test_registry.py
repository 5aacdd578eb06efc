from __future__ import annotations

import sys
import textwrap

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.tagging import plugins, registry
from lib_lora.tagging.hub import HUB_MODELS
from lib_lora.tagging.options import TagConfig
from lib_lora.tagging.registry import available, find_offer
from tiny_taggers import LABELS, write_csv, write_json, write_model, write_tagger


def infos(folder) -> dict:
    return {info.name: info for info in available(folder)}


def test_thresholds_of_wd14_are_where_precision_equals_recall(tmp_path):
    expected = {
        **{"wd-v1-4-vit-tagger-v2": 0.3537, "wd-v1-4-convnext-tagger-v2": 0.3685},
        **{"wd-v1-4-convnextv2-tagger-v2": 0.371, "wd-v1-4-moat-tagger-v2": 0.3771, "wd-v1-4-swinv2-tagger-v2": 0.3771},
        **{"wd-vit-tagger-v3": 0.2614, "wd-convnext-tagger-v3": 0.2682, "wd-swinv2-tagger-v3": 0.2653},
        "wd-eva02-large-tagger-v3": 0.5296,
    }
    found = infos(tmp_path)
    assert {name: found[name].general for name in expected} == expected
    assert all(info.source == "hub" and not info.present for info in found.values())


def test_a_hubs_model_is_present_when_all_its_files_are(tmp_path):
    write_model(tmp_path / "wd-swinv2-tagger-v3" / "model.onnx")
    assert not infos(tmp_path)["wd-swinv2-tagger-v3"].present
    write_csv(tmp_path / "wd-swinv2-tagger-v3" / "selected_tags.csv")
    assert infos(tmp_path)["wd-swinv2-tagger-v3"].present
    assert len(infos(tmp_path)) == len(HUB_MODELS)


def test_any_local_model_with_its_list_is_a_tagger(tmp_path):
    write_tagger(tmp_path / "mine")
    write_model(tmp_path / "ümläut model" / "net.onnx")
    write_csv(tmp_path / "ümläut model" / "tags.csv")
    (tmp_path / "no model").mkdir()
    (tmp_path / "stray.onnx").write_bytes(b"")
    found = {name: info for name, info in infos(tmp_path).items() if info.source == "local"}
    assert {name: (info.present, info.problem) for name, info in found.items()} == {
        "mine": (True, None),
        "ümläut model": (True, None),
    }
    with find_offer("MINE", tmp_path).make(TagConfig()) as tagger:
        assert [label.name for label in tagger.labels] == [name for name, _ in LABELS]


@pytest.mark.parametrize(
    "name, general",
    [("tag_mapping.json", 0.55), ("model_vocabulary.json", 0.55), ("classes.json", 0.7), ("selected_tags.csv", 0.35)],
)
def test_the_list_says_what_its_kind_of_model_wants(tmp_path, name, general):
    write_model(tmp_path / "mine" / "model.onnx")
    write_json(tmp_path / "mine" / name, [label for label, _ in LABELS])
    assert infos(tmp_path)["mine"].general == general


def test_a_tagger_toml_says_what_the_list_does_not(tmp_path):
    write_tagger(tmp_path / "mine")
    (tmp_path / "mine" / "tagger.toml").write_text('output = "logits"\ngeneral = 0.6\n', encoding="utf-8")
    assert infos(tmp_path)["mine"].general == 0.6


@pytest.mark.parametrize(
    "toml, words", [("output = 'loggits'", "sigmoid, logits"), ("outptu = 'logits'", "unknown option"), ("= 1", "TOML")]
)
def test_a_mistake_in_it_is_told(tmp_path, toml, words):
    write_tagger(tmp_path / "mine")
    (tmp_path / "mine" / "tagger.toml").write_text(toml, encoding="utf-8")
    assert words in infos(tmp_path)["mine"].problem
    with pytest.raises(StudioError, match=words):
        find_offer("mine", tmp_path)


def test_a_model_without_a_list_and_a_folder_with_two_are_told(tmp_path):
    write_model(tmp_path / "bare" / "model.onnx")
    write_tagger(tmp_path / "two")
    write_model(tmp_path / "two" / "other.onnx")
    write_tagger(tmp_path / "lists")
    write_json(tmp_path / "lists" / "classes.json", [])
    found = infos(tmp_path)
    assert "no list of tags" in found["bare"].problem
    assert "several models" in found["two"].problem
    assert "more than one list" in found["lists"].problem


@pytest.mark.parametrize("name", ["", "..", "../outside", "/etc", "a/b", "outside", "C:\\x", "mine/../mine", "\0"])
def test_names_are_looked_up_and_never_become_paths(tmp_path, name):
    write_tagger(tmp_path / "outside")
    write_tagger(tmp_path / "models" / "mine")
    with pytest.raises(StudioError, match="unknown tagger") as caught:
        find_offer(name, tmp_path / "models")
    assert caught.value.field == "taggers" and "mine" in caught.value.allowed


def test_the_hosts_own_taggers_are_among_them(tmp_path, host_with_tagger):
    (info,) = [info for info in available(tmp_path, host_with_tagger) if info.source == "host"]
    assert (info.name, info.help, info.general, info.sentence) == ("theirs", "of the host", 0.5, False)
    assert find_offer("theirs", tmp_path, host_with_tagger).make(TagConfig()) is host_with_tagger.taggers()[0]


@pytest.fixture
def host_with_tagger(tmp_path, tiny_checkpoint):
    from lib_lora.tagging.simple import SimpleTagger
    from tiny_host import TinyHost

    host = TinyHost(tmp_path, tiny_checkpoint)
    tagger = SimpleTagger()
    tagger.name, tagger.help, tagger.general = "theirs", "of the host", 0.5
    host.own_taggers.append(tagger)
    return host


@pytest.fixture
def plugin_folder(tmp_path, monkeypatch):
    """A folder of plug-ins in place of the real one."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    monkeypatch.setattr(plugins, "__path__", [str(folder)])
    before = dict(registry.TAGGERS._entries)
    registry._load_plugins.cache_clear()
    yield folder
    registry._load_plugins.cache_clear()
    registry.TAGGERS._entries = before
    for name in [name for name in sys.modules if name.startswith(f"{plugins.__name__}.")]:
        del sys.modules[name]


def test_a_plug_in_is_a_file_with_one_registered_class(plugin_folder, tmp_path):
    example = textwrap.dedent(plugins.__doc__.partition("\n\n")[2])
    (plugin_folder / "grey.py").write_text(example, encoding="utf-8")
    info = infos(tmp_path)["brightness"]
    assert (info.source, info.help, info.present) == ("plugin", "light or dark", True)
    assert find_offer("brightness", tmp_path).make(TagConfig()).name == "brightness"


def test_a_plug_in_that_cannot_be_loaded_leaves_the_others(plugin_folder, tmp_path):
    (plugin_folder / "broken.py").write_text("import no_such_package\n", encoding="utf-8")
    assert "no_such_package" in infos(tmp_path)["broken"].problem
    with pytest.raises(StudioError, match="no_such_package"):
        find_offer("broken", tmp_path)
