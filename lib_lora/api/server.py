"""The page on its own: gradio's server with our routes, until Ctrl-C."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
import time
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib_lora.api.app import add_routes
from lib_lora.api.guard import Guard, accounts
from lib_lora.api.studio import Studio
from lib_lora.base.errors import StudioError
from lib_lora.hosts.standalone.host import StandaloneHost
from lib_lora.jobs.queue import JobQueue
from lib_lora.jobs.state import ACTIVE

FIRST_PORT = 7861
_PORTS_TRIED = 100


def serve(flags: Mapping[str, Any]) -> int:
    """Serve the page until Ctrl-C; a job that runs then saves its state, to be resumed.

    Args:
        flags: those of ``cli.ui.add_ui_flags``.

    Raises:
        StudioError: the port is taken, or an account cannot be read.
    """
    people = {**accounts(flags["auth"], field="auth"), **_accounts_of_file(flags["auth_path"])}
    names = tuple(name.lower() for name in flags["allow_host"])
    guard = Guard(api=flags["api"], accounts=accounts(flags["api_auth"], field="api_auth"), names=names)
    address = "0.0.0.0" if flags["listen"] else "127.0.0.1"
    port = _free_port(address, flags["port"])
    host = StandaloneHost(
        flags["data_dir"],
        models_dir=flags["models_dir"],
        lora_dir=flags["lora_dir"],
        dataset_dirs=flags["dataset_dir"] or (Path("datasets"),),
        exposed=flags["listen"] or bool(names),
    )
    # A shell that starts a program in the background may leave it deaf to Ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        queue = JobQueue(host)
    except StudioError as error:
        raise StudioError(error.problem, file=error.file, allowed="another folder, by --data-dir") from error
    blocks, app = _open_page(address, port, people)
    add_routes(app, Studio(host, queue), guard)
    try:
        queue.start()
        _greet(port, flags, people)
        while True:
            time.sleep(1)  # not for ever: on Windows a longer wait is deaf to Ctrl-C
    except KeyboardInterrupt:
        busy = any(job.status in ACTIVE for job in queue.jobs())
        print("ending; the job that runs saves its state first" if busy else "ending", flush=True)
    finally:
        queue.close()
        blocks.close(verbose=False)
    return 0


def _open_page(address: str, port: int, people: Mapping[str, str]) -> tuple[Any, Any]:
    """Gradio's page and its app, served by threads of gradio's own."""
    # Gradio asks its own server whether it answers, by way of a proxy where one is set.
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost"]))
    # Rooms of one brace do not import each other: the page is looked up by its name.
    page, gradio = (importlib.import_module(f"lib_lora.ui.{name}") for name in ("page", "compat_gradio"))
    blocks = page.make_app()
    try:
        app, _, _ = gradio.launch(
            blocks,
            server_name=address,
            server_port=port,
            auth=list(people.items()) or None,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            blocked_paths=[Path.cwd().anchor],  # gradio 3 serves any file below the working folder
        )
    except OSError as error:
        raise _taken(port) from error
    return blocks, app


def _free_port(address: str, asked: int | None) -> int:
    """The port that was asked for, or the first free one.

    Raises:
        StudioError: it is taken, or all are.
    """
    if asked is not None:
        if not 0 < asked < 2**16:
            raise StudioError("no port", field="port", came=asked, allowed="a number from 1 to 65535")
        if not _is_free(address, asked):
            raise _taken(asked)
        return asked
    tried = range(FIRST_PORT, FIRST_PORT + _PORTS_TRIED)
    for port in tried:
        if _is_free(address, port):
            return port
    raise StudioError(f"all from {tried[0]} to {tried[-1]} are taken", field="port", allowed="--port with a free one")


def _taken(port: int) -> StudioError:
    return StudioError(
        "another program uses it", field="port", came=port, allowed="a free one; without --port the next free one"
    )


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        # Each system's way to refuse a port that is in use, and no other.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE if os.name == "nt" else socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def _accounts_of_file(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        return accounts(path.read_text(encoding="utf-8-sig"), field="auth_path")
    except (OSError, UnicodeDecodeError) as error:
        raise StudioError(f"cannot be read ({error})", field="auth_path", file=path) from error


def _greet(port: int, flags: Mapping[str, Any], people: Mapping[str, str]) -> None:
    url = f"http://127.0.0.1:{port}"
    print(f"LoRA Studio: {url}   (Ctrl-C ends it)", flush=True)
    if flags["listen"]:
        print(f"Other machines reach it at http://{socket.gethostname()}:{port} or by this machine's address.")
        if not people:
            print("Warning: whoever reaches this machine can use the page; --auth user:password asks for a password.")
    if flags["inbrowser"] and _has_screen():
        webbrowser.open(url)


def _has_screen() -> bool:
    """Without one, Linux may open a text browser in the terminal."""
    return not sys.platform.startswith("linux") or bool({"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ))
