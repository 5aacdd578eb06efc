"""Who may use the routes.

A WebUI's ``--gradio-auth`` and ``--api-auth`` guard gradio's own routes and the WebUI's, and none that an extension
adds. So each request is looked at here: by what name it was sent, from which page, and whether its sender is signed
in, as gradio itself looks at its session cookie (``gradio.routes.App``).
"""

from __future__ import annotations

import base64
import binascii
import inspect
import ipaddress
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request

from lib_lora.base.errors import StudioError

_CHANGING = ("POST", "PUT", "PATCH", "DELETE")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Refusal(StudioError):
    """A request that is not answered. ``status`` is HTTP's; ``headers`` go with the reply."""

    def __init__(self, status: int, problem: str, *, headers: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(problem, **kwargs)
        self.status = status
        self.headers = dict(headers or {})


@dataclass(frozen=True)
class Guard:
    """What is asked of a request.

    Attributes:
        page: there is a gradio page, whose login counts; not so under ``--nowebui``.
        api: whether there are routes for scripts.
        accounts: passwords by name, of the routes for scripts, and of all routes where there is no page. Without any,
            the page's login counts there too.
        names: names, beside this machine's own, by which people reach the page: a reverse proxy's, say. Where there
            are any, others are refused.
    """

    page: bool = True
    api: bool = False
    accounts: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    async def check_page(self, request: Request, *, exposed: bool) -> None:
        """For the page's own routes.

        Args:
            exposed: others than this machine's user can reach the page.

        Raises:
            Refusal: 401 without a login, 403 from another web page, 415 for a change that is not JSON.
        """
        self._check_sender(request, exposed)
        if self.page:
            if not await _signed_in(request):
                raise Refusal(401, "not signed in", allowed="sign in on the page first")
        elif self.accounts:
            self._check_account(request)

    async def check_api(self, request: Request, *, exposed: bool) -> None:
        """For the routes for scripts: the same, with an account of their own where there are any."""
        if not self.accounts:
            return await self.check_page(request, exposed=exposed)
        self._check_sender(request, exposed)
        self._check_account(request)
        return None

    def _check_sender(self, request: Request, exposed: bool) -> None:
        host = request.headers.get("host", "")
        # Against DNS rebinding: a page of somebody else's whose name was made to mean this machine. Where others
        # come by names that nobody has listed, there is nothing to tell these names by.
        if (self.names or not exposed) and not self._is_own_name(_name(host)):
            raise Refusal(
                403,
                "the page was asked for by a name that is not this machine's",
                came=host,
                allowed="localhost, an address, or a name that was allowed: --allow-host, in the WebUI its settings",
            )
        if not self._is_same_page(request):
            raise Refusal(403, "another web page sent this request", came=request.headers.get("origin"))
        has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
        json_only = request.method in _CHANGING and (request.method != "DELETE" or has_body)
        if json_only and _media_type(request) != "application/json":
            # What a form on another page can send without being asked is never JSON.
            raise Refusal(
                415, "not JSON", came=request.headers.get("content-type"), allowed="Content-Type: application/json"
            )

    def _is_own_name(self, name: str) -> bool:
        if name in ("localhost", socket.gethostname().lower(), *self.names) or name.endswith(".localhost"):
            return True
        try:
            return bool(ipaddress.ip_address(name))
        except ValueError:
            return False

    def _is_same_page(self, request: Request) -> bool:
        """Whether no web page sent it, or our own.

        Browsers tell Sec-Fetch-Site over https and on this machine, and no script can set it; elsewhere Origin is
        compared with the name that the request was sent to, as a proxy in between names it.
        """
        site = request.headers.get("sec-fetch-site", "none")
        if site != "none":
            return site == "same-origin"
        origin = request.headers.get("origin")
        if origin is None:
            return True
        scheme, _, sender = origin.partition("://")
        hosts = [request.headers.get("host", "")]
        if _came_by_proxy(request):
            hosts.append(request.headers.get("x-forwarded-host", "").partition(",")[0].strip())
        place = _place(sender, scheme)
        return place is not None and (place[0] in self.names or place in [_place(host, scheme) for host in hosts])

    def _check_account(self, request: Request) -> None:
        given = _basic_account(request)
        right = False
        for name, password in self.accounts.items():  # all of them, each to its end: the time tells nothing
            same_name = secrets.compare_digest(given[0], name.encode())
            same_password = secrets.compare_digest(given[1], password.encode())
            right |= same_name and same_password
        if not right:
            raise Refusal(401, "wrong or missing name and password", headers={"WWW-Authenticate": "Basic"})


def accounts(text: str | None, *, field: str) -> dict[str, str]:
    """``"name:password,name:password"``, as the WebUI's ``--gradio-auth`` and ``--api-auth`` take them.

    Raises:
        StudioError: one without a name or without a password.
    """
    found = {}
    for part in (text or "").replace("\n", ",").split(","):
        name, colon, password = part.strip().partition(":")
        if not part.strip():
            continue
        if not (name and colon and password):  # what came may be a password: it is not shown
            raise StudioError("an account lacks its name or its password", field=field, allowed="user:password")
        found[name] = password
    return found


async def _signed_in(request: Request) -> bool:
    """Whether gradio would let the sender of this request use the page."""
    gradio_apps = list(_gradio_apps(request.app))
    if not gradio_apps:
        raise Refusal(403, "the page's login cannot be found, so that nobody can be let in")
    return all([await _knows(app, request) for app in gradio_apps])


async def _knows(app: Any, request: Request) -> bool:
    by_own_rule = getattr(app, "auth_dependency", None)
    if by_own_rule is not None:
        user = by_own_rule(request)
        return (await user if inspect.isawaitable(user) else user) is not None
    if app.auth is None:
        return True
    ending = f"-{app.cookie_id}" if hasattr(app, "cookie_id") else ""
    cookies = [request.cookies.get(f"access-token{kind}{ending}") for kind in ("", "-unsecure")]
    return any(cookie and app.tokens.get(cookie) is not None for cookie in cookies)


def _gradio_apps(app: Any) -> list[Any]:
    """The gradio app that this is, or those that are mounted in it."""
    if any(kind.__module__.partition(".")[0] == "gradio" for kind in type(app).__mro__):
        return [app]
    inner = [getattr(route, "app", None) for route in getattr(app, "routes", ())]
    return [found for each in inner if hasattr(each, "routes") for found in _gradio_apps(each)]


def _came_by_proxy(request: Request) -> bool:
    """Whether a program on this machine passed the request on, so that its X-Forwarded-Host can be believed.

    Uvicorn believes such a program's X-Forwarded-For and gives the client that it names the port 0.
    """
    if request.client is None:
        return False
    host, port = request.client
    return port == 0 or host in ("127.0.0.1", "::1")


def _basic_account(request: Request) -> tuple[bytes, bytes]:
    """Name and password of the Authorization header, empty without one."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return b"", b""
    try:
        name, _, password = base64.b64decode(value.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return b"", b""
    return name, password


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _name(host: str) -> str:
    """The name of a Host header, without port and brackets; empty where it is none."""
    place = _place(host, "http")
    return place[0] if place else ""


def _place(host: str, scheme: str) -> tuple[str, int | None] | None:
    """Name and port of a Host header."""
    try:
        parts = urlsplit(f"//{host}")
        name, port = parts.hostname, parts.port
    except ValueError:
        return None
    return (name.rstrip("."), port or _DEFAULT_PORTS.get(scheme)) if name else None
