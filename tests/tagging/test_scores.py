from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import Label
from lib_lora.tagging.scores import FLOOR, Key, ScoreStore, sparse, taggers_with_scores

CAT, DOG, HERO = Label("cat"), Label("dog"), Label("hero", "character")
ONE, TWO = Key("a.png", 100, 5), Key("ü \U0001f600.png", 2**40, -3)


def said(store: ScoreStore, key: Key) -> dict[Label, float]:
    return {store.labels[label]: pytest.approx(float(score)) for label, score in zip(*store.said[key])}


def test_what_was_said_is_there_for_others_at_once_and_after_a_restart(tmp_path):
    writer, reader = ScoreStore(tmp_path, "tiny"), ScoreStore(tmp_path, "tiny")
    assert reader.said == {} and reader.model is None
    with writer.writing("model 1"):
        writer.add(ONE, {CAT: 0.25, HERO: 0.5})
        reader.refresh()
        assert said(reader, ONE) == {CAT: 0.25, HERO: 0.5}
        before = reader.version
        reader.refresh()
        assert reader.version == before
        writer.add(TWO, {DOG: 1.0, CAT: 0.1})
        reader.refresh()
        assert reader.version > before
    for store in (writer, reader, ScoreStore(tmp_path, "tiny")):
        assert store.model == "model 1"
        assert said(store, ONE) == {CAT: 0.25, HERO: 0.5}
        assert said(store, TWO) == {DOG: 1.0, CAT: 0.1}
    assert taggers_with_scores(tmp_path) == ["tiny"]


def test_scores_are_added_to_by_the_next_run_of_the_same_model(tmp_path):
    for key in (ONE, TWO):
        store = ScoreStore(tmp_path, "tiny")
        with store.writing("model"):
            store.add_labels([HERO, CAT])
            store.add(key, {CAT: 0.5})
    store = ScoreStore(tmp_path, "tiny")
    assert store.labels == [HERO, CAT]
    assert set(store.said) == {ONE, TWO}


def test_scores_of_other_weights_are_dropped(tmp_path):
    store, reader = ScoreStore(tmp_path, "tiny"), ScoreStore(tmp_path, "tiny")
    with store.writing("old"):
        store.add(ONE, {CAT: 0.5})
    reader.refresh()
    with store.writing("new"):
        assert store.said == {}
        store.add(TWO, {DOG: 0.5})
    reader.refresh()
    assert set(reader.said) == {TWO} and reader.model == "new"


def test_a_picture_that_was_looked_at_again_has_its_last_scores(tmp_path):
    store = ScoreStore(tmp_path, "tiny")
    with store.writing("model"):
        store.add(ONE, {CAT: 0.5})
        store.add(ONE, {DOG: 0.75})
    assert said(ScoreStore(tmp_path, "tiny"), ONE) == {DOG: 0.75}


def test_a_file_of_mostly_outdated_scores_is_written_anew(tmp_path):
    reader, sizes = ScoreStore(tmp_path, "tiny"), []
    for number in range(300):
        store = ScoreStore(tmp_path, "tiny")
        with store.writing("model"):
            store.add(ONE, {CAT: 0.5, DOG: number / 300})
        sizes.append(os.path.getsize(store.path))
    reader.refresh()
    assert said(reader, ONE) == said(store, ONE) == {CAT: 0.5, DOG: 299 / 300}
    assert max(sizes) < sizes[0] + 110 * (sizes[1] - sizes[0])
    assert reader.labels == [CAT, DOG]


def test_a_full_disk_is_told_and_costs_nothing_that_was_said(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    store = ScoreStore(tmp_path, "tiny")
    with store.writing("model"):
        store.add(ONE, {CAT: 0.5})
        real = store._file
        with open("/dev/full", "ab", buffering=0) as full:
            store._file = full
            with pytest.raises(StudioError, match="cannot be written"):
                store.add(TWO, {CAT: 0.5})
        store._file = real
    assert set(ScoreStore(tmp_path, "tiny").said) == {ONE}


@pytest.mark.parametrize("score", [-0.01, 1.5, float("nan")])
def test_a_score_that_is_none_is_refused(tmp_path, score):
    store = ScoreStore(tmp_path, "tiny")
    with store.writing("model"), pytest.raises(StudioError, match="cat"):
        store.add(ONE, {CAT: score})
    assert ScoreStore(tmp_path, "tiny").said == {}


def test_a_zero_has_no_sign(tmp_path):
    store = ScoreStore(tmp_path, "tiny")
    with store.writing("model"):
        store.add(ONE, {CAT: -0.0})
    assert not np.signbit(store.said[ONE].scores).any()


def test_a_cut_file_gives_all_whole_records_and_is_gone_on_with(tmp_path):
    store = ScoreStore(tmp_path, "tiny")
    with store.writing("model"):
        store.add(ONE, {CAT: 0.5})
        whole = os.path.getsize(store.path)
        store.add(TWO, {DOG: 0.5, CAT: 0.25})
    data = store.path.read_bytes()
    for size in range(whole, len(data)):
        store.path.write_bytes(data[:size])
        cut = ScoreStore(tmp_path, "tiny")
        assert set(cut.said) == {ONE}
        with cut.writing("model"):
            cut.add(TWO, {DOG: 0.75})
        again = ScoreStore(tmp_path, "tiny")
        assert said(again, ONE) == {CAT: 0.5} and said(again, TWO) == {DOG: 0.75}


def test_a_damaged_record_ends_the_reading(tmp_path):
    store = ScoreStore(tmp_path, "tiny")
    with store.writing("model"):
        store.add(ONE, {CAT: 0.5})
        whole = os.path.getsize(store.path)
        store.add(TWO, {CAT: 0.25})
    data = bytearray(store.path.read_bytes())
    data[whole + 20] ^= 1
    store.path.write_bytes(data)
    assert set(ScoreStore(tmp_path, "tiny").said) == {ONE}


def test_a_writer_that_was_killed_leaves_what_it_had_said(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from lib_lora.base.protocols import Label\n"
        "from lib_lora.tagging.scores import Key, ScoreStore\n"
        "store = ScoreStore(Path(sys.argv[1]), 'tiny')\n"
        "with store.writing('model'):\n"
        "    for number in range(5): store.add(Key(f'{number}.png', 1, 1), {Label('cat'): 0.5})\n"
        "    os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 9
    store = ScoreStore(tmp_path, "tiny")
    assert [key.name for key in store.said] == [f"{number}.png" for number in range(5)]
    with store.writing("model"):
        store.add(ONE, {CAT: 0.5})


def test_two_writers_at_once_are_refused(tmp_path):
    first, second = ScoreStore(tmp_path, "tiny"), ScoreStore(tmp_path, "tiny")
    with first.writing("model"), pytest.raises(StudioError, match="in use"), second.writing("model"):
        pass


def test_another_file_under_the_name_is_refused_and_kept(tmp_path):
    path = ScoreStore(tmp_path, "tiny").path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something else\n")
    with pytest.raises(StudioError, match="delete the file"):
        ScoreStore(tmp_path, "tiny")
    assert path.read_bytes() == b"something else\n"


@pytest.mark.parametrize("name", ["../x", "a/b", "", "con", "a:b"])
def test_a_taggers_name_is_never_a_path(tmp_path, name):
    with pytest.raises(StudioError):
        ScoreStore(tmp_path, name)


def test_a_deleted_file_is_seen(tmp_path):
    store, reader = ScoreStore(tmp_path, "tiny"), ScoreStore(tmp_path, "tiny")
    with store.writing("model"):
        store.add(ONE, {CAT: 0.5})
    reader.refresh()
    store.path.unlink()
    reader.refresh()
    assert reader.said == {}


def test_kept_are_the_scores_above_the_floor_and_the_next_of_each_category():
    labels = [Label("a"), Label("b"), Label("c"), HERO, Label("villain", "character"), Label("safe", "rating")]
    scores = np.array([0.5, FLOOR / 2, FLOOR / 4, FLOOR, FLOOR / 8, 0.9], np.float32)
    assert sparse(labels, scores) == {
        labels[0]: 0.5,
        labels[1]: pytest.approx(FLOOR / 2),
        labels[3]: pytest.approx(FLOOR),
        labels[4]: pytest.approx(FLOOR / 8),
        labels[5]: pytest.approx(0.9),
    }
