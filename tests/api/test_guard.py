"""Who is let in, asked of real gradio pages and of apps without one."""

from __future__ import annotations

import base64

import gradio as gr
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from lib_lora.api.app import add_routes
from lib_lora.api.guard import Guard, accounts
from lib_lora.base.errors import StudioError

LOCAL = "http://127.0.0.1:7861"
JOBS = "/lora-studio/jobs"


def page(auth=None):
    """A page's own app, as a WebUI hands it to ``on_app_started``."""
    with gr.Blocks(analytics_enabled=False) as blocks:
        gr.HTML("page")
    parent = gr.mount_gradio_app(FastAPI(), blocks, path="/")
    app = parent.routes[-1].app
    app.auth = auth
    return parent, app


def sign_in(client, name="ann", password="secret"):
    return client.post("/login", data={"username": name, "password": password})


@pytest.mark.parametrize("mounted", [False, True])
def test_without_a_login_whoever_reaches_the_page_is_let_in(studio, mounted):
    parent, app = page()
    add_routes(parent if mounted else app, studio, Guard())
    assert TestClient(parent, base_url=LOCAL).get(JOBS).json()["jobs"] == []


@pytest.mark.parametrize("mounted", [False, True])
def test_with_a_login_each_route_needs_gradios_own_cookie(studio, mounted):
    parent, app = page({"ann": "secret"})
    add_routes(parent if mounted else app, studio, Guard())
    client = TestClient(parent, base_url=LOCAL)
    assert client.get(JOBS).status_code == 401
    assert client.get("/lora-studio/static/app.js").status_code == 401
    assert client.post("/lora-studio/queue", json={"when_done": "sound"}).status_code == 401
    assert sign_in(client, password="wrong").status_code == 400
    assert client.get(JOBS).status_code == 401
    assert sign_in(client).status_code == 200
    assert client.get(JOBS).status_code == 200
    assert client.post("/lora-studio/queue", json={"when_done": "sound"}).json() == {"when_done": "sound"}


def test_a_cookie_that_nobody_was_given_lets_nobody_in(studio):
    parent, app = page({"ann": "secret"})
    add_routes(app, studio, Guard())
    ending = f"-{app.cookie_id}" if hasattr(app, "cookie_id") else ""
    for value in ("x", "", "None"):
        client = TestClient(parent, base_url=LOCAL, cookies={f"access-token-unsecure{ending}": value})
        assert client.get(JOBS).status_code == 401


def test_a_rule_of_the_hosts_own_is_asked(studio):
    parent, app = page()
    add_routes(app, studio, Guard())
    app.auth_dependency = lambda request: request.headers.get("x-user")
    client = TestClient(parent, base_url=LOCAL)
    assert client.get(JOBS).status_code == 401
    assert client.get(JOBS, headers={"x-user": "ann"}).status_code == 200


def test_where_the_pages_login_cannot_be_found_nobody_is_let_in(client_of, studio):
    assert client_of(studio, Guard(page=True)).get(JOBS).status_code == 403


def test_a_page_that_asks_beforehand_is_refused_too(studio):
    parent, _ = page()  # gradio 3's app lets every page in that asks
    add_routes(parent, studio, Guard())
    asks = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    answer = TestClient(parent, base_url=LOCAL).options(JOBS, headers=asks)
    assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers


def test_adding_the_routes_again_replaces_them(studio, make_studio):
    parent, app = page()
    for _ in range(3):
        add_routes(app, studio, Guard(api=True))
    before = len(app.router.routes)
    add_routes(app, studio, Guard(api=True))
    assert len(app.router.routes) == before
    client = TestClient(parent, base_url=LOCAL)
    assert client.get("/lora-studio/api/jobs").status_code == 200
    add_routes(app, studio, Guard(api=False))
    assert client.get("/lora-studio/api/jobs").status_code == 404


def test_the_routes_are_found_behind_a_proxy_that_has_taken_the_sub_path_off(studio):
    app = FastAPI()
    app.root_path = "/sd"  # as gradio sets it for the WebUI's --subpath
    add_routes(app, studio, Guard(page=False))
    assert TestClient(app, base_url=LOCAL).get(JOBS).status_code == 200


# From other pages


@pytest.mark.parametrize(
    "headers, status",
    [
        ({}, 200),
        ({"origin": LOCAL}, 200),
        ({"sec-fetch-site": "same-origin", "origin": LOCAL}, 200),
        ({"sec-fetch-site": "none"}, 200),
        # A proxy that keeps the name and drops the port: the browser's own word counts.
        ({"sec-fetch-site": "same-origin", "origin": "https://127.0.0.1:8443"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:8000"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "http://127.0.0.1:99999999"}, 403),
        ({"origin": "http://evil.example/127.0.0.1:7861"}, 403),
        ({"origin": "http://127.0.0.1:7861@evil.example"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site", "origin": LOCAL}, 403),
        # A script of another page may set it where a host's CORS rules allow every header.
        ({"origin": "http://evil.example", "x-forwarded-host": "evil.example"}, 403),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_pages_are_refused(client_of, studio, method, headers, status):
    client = client_of(studio)
    if method == "GET":
        assert client.get(JOBS, headers=headers).status_code == status
    else:
        answer = client.post("/lora-studio/queue", json={"when_done": "nothing"}, headers=headers)
        assert answer.status_code == status


@pytest.mark.parametrize(
    "peer, status", [(("127.0.0.1", 5000), 200), (("10.0.0.9", 0), 200), (("10.0.0.9", 5000), 403)]
)
def test_a_proxy_on_this_machine_is_believed(client_of, studio, peer, status):
    client = client_of(studio)

    async def as_peer(scope, receive, send):
        await client.app({**scope, "client": peer}, receive, send)

    headers = {"origin": "http://box:8080", "x-forwarded-host": "box:8080"}
    assert TestClient(as_peer, base_url=LOCAL).get(JOBS, headers=headers).status_code == status


@pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
def test_what_a_form_of_another_page_could_send_is_refused(client, media):
    headers = {"content-type": media} if media else {}
    answer = client.post("/lora-studio/queue", content=b'{"when_done":"sound"}', headers=headers)
    assert answer.status_code == 415 and "JSON" in answer.json()["error"]["message"]
    assert client.get(JOBS).json()["when_done"] == "nothing"


# By other names


@pytest.mark.parametrize(
    "name, status",
    [
        ("localhost:7861", 200),
        ("LOCALHOST", 200),
        ("192.168.1.5:7861", 200),
        ("[::1]:7861", 200),
        ("studio.localhost", 200),
        ("evil.example:7861", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
        ("a b", 403),
        ("localhost:port", 403),
    ],
)
def test_on_ones_own_machine_other_names_are_refused(client, name, status):
    assert client.get(JOBS, headers={"host": name}).status_code == status


@pytest.mark.parametrize("exposed", [False, True])
def test_where_names_are_listed_no_others_will_do(client_of, make_studio, exposed):
    client = client_of(make_studio(exposed), Guard(page=False, names=("sd.example.com",)))
    assert client.get(JOBS, headers={"host": "SD.example.com"}).status_code == 200
    assert client.get(JOBS, headers={"host": "192.168.1.5:7861"}).status_code == 200
    assert client.get(JOBS, headers={"origin": "https://sd.example.com"}).status_code == 200
    assert client.get(JOBS, headers={"host": "evil.example"}).status_code == 403


def test_open_to_others_any_name_will_do_where_none_are_listed(exposed_client):
    assert exposed_client.get(JOBS, headers={"host": "box.example"}).status_code == 200


# Accounts


def basic(name, password):
    return {"authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def test_scripts_need_an_account_and_no_cookie(studio):
    parent, app = page({"ann": "secret"})
    add_routes(app, studio, Guard(api=True, accounts={"robot": "päss:word", "other": "x"}))
    client = TestClient(parent, base_url=LOCAL)
    url = "/lora-studio/api/jobs"
    refused = client.get(url)
    assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Basic"
    assert client.get(url, headers=basic("robot", "päss:word")).status_code == 200
    for headers in (
        basic("robot", "x"),
        basic("other", "päss:word"),
        basic("", ""),
        {"authorization": "Basic !!!"},
        {"authorization": "Bearer robot"},
    ):
        assert client.get(url, headers=headers).status_code == 401
    assert client.get(JOBS, headers=basic("robot", "päss:word")).status_code == 401  # the page's own want its cookie
    assert client.get(url, headers={**basic("other", "x"), "origin": "http://evil.example"}).status_code == 403


def test_scripts_without_accounts_are_asked_for_the_pages_login(studio):
    parent, app = page({"ann": "secret"})
    add_routes(app, studio, Guard(api=True))
    client = TestClient(parent, base_url=LOCAL)
    assert client.get("/lora-studio/api/jobs").status_code == 401
    sign_in(client)
    assert client.get("/lora-studio/api/jobs").status_code == 200


def test_without_a_page_its_routes_want_the_scripts_account(client_of, studio):
    client = client_of(studio, Guard(page=False, api=True, accounts={"robot": "x"}))
    assert client.get(JOBS).status_code == 401
    assert client.get(JOBS, headers=basic("robot", "x")).status_code == 200


def test_accounts_are_read_as_the_webui_reads_them():
    assert accounts("a:b, c:d:e\nf:g,", field="auth") == {"a": "b", "c": "d:e", "f": "g"}
    assert accounts(None, field="auth") == {}
    for text in ("a", ":b", "a:", "a:b,c"):
        with pytest.raises(StudioError) as raised:
            accounts(text, field="auth")
        assert raised.value.came is None  # it may be a password
