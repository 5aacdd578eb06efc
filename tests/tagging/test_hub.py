"""Downloads from a small HTTP server that stands in for the hub."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Progress
from lib_lora.base.signals import Control
from lib_lora.tagging import hub
from lib_lora.tagging.form import Form
from lib_lora.tagging.hub import HubModel, download
from lib_lora.tagging.options import TagConfig
from lib_lora.tagging.registry import available, find_offer
from lib_lora.tagging.run import tag
from tiny_taggers import write_tagger

from .conftest import EXPECTED, captions

MODEL = HubModel("somebody/tiny", "for tests", Form())


@dataclass
class Hub:
    """Files by their paths in the repository; ``wait`` holds back all but the first bytes of a large one."""

    files: dict[str, bytes]
    go_on: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def served(tmp_path, monkeypatch) -> Iterator[Hub]:
    """The repository somebody/tiny, and huggingface_hub told to ask here."""
    source = write_tagger(tmp_path / "source")
    served = Hub({path.name: path.read_bytes() for path in source.iterdir()})
    served.go_on.set()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(served))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub home"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield served
    served.go_on.set()
    server.shutdown()
    server.server_close()


def _handler(served: Hub) -> type:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            served.asked.append(f"{self.command} {self.path}")
            start = "/somebody/tiny/resolve/main/"
            data = served.files.get(self.path.removeprefix(start)) if self.path.startswith(start) else None
            if data is None:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("X-Error-Message", "Entry not found")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            begin = 0
            if "Range" in self.headers:
                begin = int(self.headers["Range"].removeprefix("bytes=").partition("-")[0])
            self.send_response(206 if begin else 200)
            self.send_header("ETag", f'"{len(data)}-{hash(data) & 0xFFFFFF:x}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", str(len(data) - begin))
            self.send_header("Accept-Ranges", "bytes")
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            if body:
                middle = (begin + len(data)) // 2 if len(data) > 2**20 else len(data)
                self.wfile.write(data[begin:middle])
                served.go_on.wait(30)
                self.wfile.write(data[middle:])

        def log_message(self, *arguments: object) -> None:
            """Nothing on the terminal."""

    return Handler


def test_all_files_come_with_progress_in_megabytes(served, tmp_path):
    served.files["model.onnx"] += bytes(24 * 2**20)
    served.go_on.clear()
    progress = []
    for event in download("tiny", MODEL, tmp_path / "models", Control()):
        progress.append(event)
        if event.done >= 10:
            served.go_on.set()
    assert {name: (tmp_path / "models" / name).read_bytes() for name in served.files} == served.files
    assert {(event.what, event.total) for event in progress} == {("downloading tiny (MB)", 25)}
    done = [event.done for event in progress]
    assert done == sorted(done) and any(0 < each < 25 for each in done)


def test_a_stop_ends_it_at_once_and_the_next_time_all_is_there(served, tmp_path):
    served.files["model.onnx"] += bytes(4 * 2**20)
    served.go_on.clear()
    control = Control()
    for event in download("tiny", MODEL, tmp_path / "models", control):
        assert isinstance(event, Progress)
        control.stop()
    assert not MODEL.is_in(tmp_path / "models")
    served.go_on.set()
    list(download("tiny", MODEL, tmp_path / "models", Control()))
    assert (tmp_path / "models" / "model.onnx").read_bytes() == served.files["model.onnx"]


def test_what_the_hub_does_not_have_is_told_with_the_way_by_hand(served, tmp_path):
    del served.files["selected_tags.csv"]
    with pytest.raises(StudioError, match=r"tiny cannot be downloaded: .*by hand") as caught:
        list(download("tiny", MODEL, tmp_path / "models", Control()))
    assert caught.value.field == "taggers"
    assert "model.onnx and selected_tags.csv of huggingface.co/somebody/tiny" in caught.value.allowed


def test_a_tagger_that_is_not_here_is_fetched_and_tags(served, collection, tmp_path, monkeypatch):
    monkeypatch.setitem(hub.HUB_MODELS, "tiny", MODEL)
    folder = tmp_path / "other models"
    assert not find_offer("tiny", folder).info.present
    events = list(tag(collection, collection.ids, TagConfig(taggers=("tiny",)), folder, Control()))
    assert captions(collection.folder) == EXPECTED
    assert any(isinstance(event, Progress) and event.what == "downloading tiny (MB)" for event in events)
    (info,) = [info for info in available(folder) if info.name == "tiny"]
    assert info.present and info.source == "hub"
    asked = len(served.asked)
    list(tag(collection, collection.ids, TagConfig(taggers=("tiny",), again=True), folder, Control()))
    assert len(served.asked) == asked


def test_files_put_there_by_hand_are_taken_without_asking_the_hub(tmp_path, collection, monkeypatch):
    monkeypatch.setitem(hub.HUB_MODELS, "tiny", MODEL)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    write_tagger(Path(tmp_path) / "models" / "tiny")
    list(tag(collection, collection.ids, TagConfig(taggers=("tiny",)), tmp_path / "models", Control()))
    assert captions(collection.folder) == EXPECTED
