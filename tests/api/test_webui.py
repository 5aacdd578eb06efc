"""A real WebUI that others can reach, with logins: what they may and may not do."""

from __future__ import annotations

import http.cookiejar
import json
import urllib.error
import urllib.parse
import urllib.request

import pytest

from tiny_loras import write_lora

pytestmark = [pytest.mark.webui, pytest.mark.slow]

ROBOT = {"Authorization": "Basic cm9ib3Q6ZWxlY3RyaWM="}  # robot:electric


@pytest.fixture(scope="module")
def server(start_webui):
    return start_webui("--listen", "--gradio-auth", "ann:secret", "--api", "--api-auth", "robot:electric")


@pytest.fixture
def stranger(server):
    """Sends requests without any login: ``stranger(path, body)`` gives the status and the answer."""
    return _sender(server)


@pytest.fixture
def ann(server):
    """Sends requests after having signed in on the page."""
    send = _sender(server)
    assert send("login", form={"username": "ann", "password": "secret"})[0] == 200
    return send


def _sender(server):
    jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
    opener = urllib.request.build_opener(jar, urllib.request.ProxyHandler({}))

    def send(path, body=None, headers=None, form=None):
        data = urllib.parse.urlencode(form).encode() if form else None if body is None else json.dumps(body).encode()
        kind = {} if form or body is None else {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{server.url}/{path}", data, {**kind, **(headers or {})})
        try:
            with opener.open(request, timeout=60) as answer:
                return answer.status, _read(answer)
        except urllib.error.HTTPError as error:
            return error.code, _read(error)

    return send


def _read(answer):
    text = answer.read().decode("utf-8")
    return json.loads(text) if "json" in answer.headers.get("Content-Type", "") else text


def _values(server, **changes):
    return {
        "pretrained_model_name_or_path": str(server.checkpoint),
        "train_data_dir": str(server.extension / "demo" / "dataset"),
        "output_name": "guarded",
        **changes,
    }


PAGE_ROUTES = ["form", "jobs", "folder", "presets", "loras", "tools", "static/main.js", "static/style.css", "nowhere"]


@pytest.mark.parametrize("path", PAGE_ROUTES)
def test_the_pages_login_covers_every_route(stranger, ann, path):
    assert stranger(f"lora-studio/{path}")[0] == 401
    assert stranger(f"lora-studio/{path}", headers=ROBOT)[0] == 401
    assert ann(f"lora-studio/{path}")[0] == (404 if path == "nowhere" else 200)


def test_nobody_changes_anything_without_a_login(stranger, ann, server):
    assert stranger("lora-studio/jobs", {"kind": "train", "values": _values(server)})[0] == 401
    assert stranger("lora-studio/queue", {"when_done": "sound"})[0] == 401
    assert ann("lora-studio/jobs")[1]["jobs"] == []


def test_scripts_have_their_own_account(stranger, ann):
    assert stranger("lora-studio/api/jobs")[0] == 401
    assert ann("lora-studio/api/jobs")[0] == 401
    assert stranger("lora-studio/api/jobs", headers=ROBOT)[0] == 200


def test_another_web_page_is_refused_with_the_login_of_its_visitor(ann):
    body = {"when_done": "sound"}
    assert ann("lora-studio/queue", body, {"Origin": "http://evil.example"})[0] == 403
    assert ann("lora-studio/queue", body, {"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert ann("lora-studio/queue", body, {"Content-Type": "text/plain"})[0] == 415
    assert ann("lora-studio/jobs")[1]["when_done"] == "nothing"


@pytest.mark.parametrize(
    "field, value",
    [
        ("output_name", "../x"),
        ("output_name", "C:\\x"),
        ("output_name", "/tmp/x"),
        ("output_name", "a\nb"),
        ("output_subfolder", "../x"),
        ("output_dir", "/tmp"),
        ("train_data_dir", "/etc"),
        ("train_data_dir", "../../../../etc"),
        ("reg_data_dir", "C:\\pictures"),
        ("pretrained_model_name_or_path", "/etc/passwd"),
        ("vae", "/etc/passwd"),
        ("resume", "/tmp"),
        ("sample_prompts", "/etc/passwd"),
    ],
)
def test_a_remote_user_stays_in_the_folders_that_are_set(ann, stranger, server, field, value):
    body = {"kind": "train", "values": _values(server, **{field: value})}
    for status, answer in (
        ann("lora-studio/jobs", body),
        ann("lora-studio/plan", body),
        stranger("lora-studio/api/jobs", body, ROBOT),
    ):
        assert status == 422 and answer["error"]["field"] == field and answer["error"]["allowed"], answer
    assert ann("lora-studio/jobs")[1]["jobs"] == []


@pytest.mark.parametrize(
    "kind, field, value",
    [
        ("bake", "checkpoint", "/etc/passwd"),
        ("bake", "vae", "/etc/passwd"),
        ("bake", "prompt", "<lora:../../../etc/passwd:1>"),
        ("bake", "output", "../x"),
        ("bake", "output_subfolder", "../x"),
        ("bake", "output_subfolder", "/tmp"),
        ("bake", "lora_dir", "/etc"),
        ("bake", "models", ["/etc/passwd"]),
        ("extract", "model_tuned", "/etc/passwd"),
        ("resize", "model", "/etc/passwd"),
        ("resize", "model", "../../config.json"),
        ("inspect", "thumbnail", "/etc/passwd"),
        ("inspect", "picture", "/tmp/x.png"),
    ],
)
def test_a_remote_user_gives_the_tools_no_other_file(ann, stranger, server, kind, field, value):
    write_lora(server.lora_dir / "x.safetensors")
    values = {
        "bake": {"checkpoint": str(server.checkpoint), "prompt": "<lora:a:1>", "output": "x"},
        "extract": {"model_org": str(server.checkpoint), "output": "x"},
        "resize": {"output": "x"},
        "inspect": {"model": "x"},
    }
    body = {"kind": kind, "values": {**values[kind], field: value}}
    for status, answer in (
        ann("lora-studio/jobs", body),
        ann(f"lora-studio/tools/{kind}/plan", body),
        stranger("lora-studio/api/jobs", body, ROBOT),
    ):
        assert status == 422 and answer["error"]["field"] == field, answer
    assert ann("lora-studio/jobs")[1]["jobs"] == []


@pytest.mark.parametrize("path", ["/", "/etc", "..", "C:\\", "\\\\server\\share", "/tmp\n"])
def test_a_remote_user_looks_into_no_other_folder(ann, path):
    status, answer = ann(f"lora-studio/folder?path={urllib.parse.quote(path)}")
    assert status == 422 and answer["error"]["field"] == "path"


@pytest.mark.parametrize("name", ["..%2f..%2fx", "%2fetc%2fpasswd", "C:%5cx", "a%0ab", "..%5cx", "a%00"])
def test_a_remote_user_reads_and_writes_no_other_file(ann, name):
    assert ann(f"lora-studio/loras/{name}/card")[0] in (404, 422)
    assert ann(f"lora-studio/loras/{name}/card", {"notes": "x"})[0] in (404, 422)
    assert ann(f"lora-studio/presets/{name}", {"values": {}})[0] in (404, 422)
    assert ann(f"lora-studio/static/{name}")[0] in (404, 422)
    assert ann("lora-studio/metadata", {"file": urllib.parse.unquote(name)})[0] in (404, 422)
