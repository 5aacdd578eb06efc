"""LoRA Studio as an extension of the WebUI: what is registered at its start, and what is kept in its process.

"Reload UI" runs the extension's script again, as a new module; this one stays, and with it the queue and its worker.
"""

from __future__ import annotations

import atexit
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from lib_lora.base.errors import StudioError
from lib_lora.hosts.webui import block_weights
from lib_lora.hosts.webui.settings import add_settings, read_settings

if TYPE_CHECKING:
    from lib_lora.jobs.queue import JobQueue

_SAVING_SECONDS = 60.0  # a step may be under way, on the CPU a long one
ROOT = Path(__file__).parents[3]  # as the WebUI knows it: a link stays what it is


@dataclass(frozen=True)
class Door:
    """How the WebUI was started, as far as it concerns who may come in.

    Attributes:
        page: there is a gradio page (no ``--nowebui``).
        api: scripts may come, too (``--api``).
        api_auth: the accounts of scripts, as ``--api-auth`` has them.
        names: names by which people reach the page, beside this machine's own.
    """

    page: bool
    api: bool
    api_auth: str | None
    names: tuple[str, ...]


def register(make_page: Callable[[], Any], add_routes: Callable[[Any, JobQueue, Door], None]) -> None:
    """Ask the WebUI for a tab, for routes and for a section of its settings.

    Args:
        make_page: gives the tab's ``gr.Blocks``.
        add_routes: adds the routes to the WebUI's app.
    """
    with ThreadPoolExecutor(1) as short_stack:
        # For each callback the WebUI reads the sources of all that is on the stack: in a thread that is little.
        short_stack.submit(_ask, make_page, add_routes).result()
    _leave_at_the_end()


def _ask(make_page: Callable[[], Any], add_routes: Callable[[Any, JobQueue, Door], None]) -> None:
    from modules import script_callbacks

    script_callbacks.on_ui_tabs(lambda: [(make_page(), "LoRA Studio", "lora_studio")])
    script_callbacks.on_app_started(lambda demo, app: _open(app, _door(demo), add_routes))
    script_callbacks.on_ui_settings(add_settings)
    script_callbacks.on_before_ui(_teach_block_weights)
    script_callbacks.on_cfg_denoiser(block_weights.follow_schedules)
    script_callbacks.on_script_unloaded(_leave_when_disabled)


def _teach_block_weights() -> None:
    """All scripts are loaded now, the WebUI's own for LoRAs among them, and its page is not made yet."""
    if block_weights.install():
        from lib_lora.hosts.webui.xyz import add_axes

        add_axes()


@cache
def queue() -> JobQueue:
    """The process's queue, with its worker."""
    from lib_lora.hosts.webui.host import WebuiHost
    from lib_lora.jobs.queue import JobQueue

    made = JobQueue(WebuiHost())
    made.start()
    return made


def _open(app: Any, door: Door, add_routes: Callable[[Any, JobQueue, Door], None]) -> None:
    try:
        add_routes(app, queue(), door)
    except StudioError as error:
        print(f"LoRA Studio: {error}", file=sys.stderr)  # another WebUI has its jobs, say


def _leave() -> None:
    """A job that runs saves its state and is marked as interrupted."""
    if not queue.cache_info().currsize:
        return
    from lib_lora.jobs.state import ACTIVE

    if any(job.status in ACTIVE for job in queue().jobs()):
        print("LoRA Studio: the training at hand saves its state; Ctrl-C ends at once", flush=True)
    queue().close(_SAVING_SECONDS)
    queue.cache_clear()


def _door(demo: Any) -> Door:
    from modules import shared

    options = shared.cmd_opts
    return Door(demo is not None, options.api, options.api_auth, read_settings().names)


def _leave_when_disabled() -> None:
    """On "Reload UI" the WebUI unloads every script, and loads those of enabled extensions again."""
    from modules import shared

    if ROOT.name in shared.opts.disabled_extensions or shared.opts.disable_all_extensions != "none":
        block_weights.uninstall()
        _leave()


@cache
def _leave_at_the_end() -> None:
    """However the WebUI ends: by itself, by Ctrl-C, at which it ends the process on the spot, or told by a service."""
    atexit.register(_leave)
    if threading.current_thread() is threading.main_thread():
        _leave_before(signal.SIGINT)
        _leave_before(signal.SIGTERM)


def _leave_before(number: int) -> None:
    handler = signal.getsignal(number)

    def leave(_number: int, _frame: FrameType | None) -> None:
        signal.signal(number, handler)  # asked a second time, it does not wait any more
        _leave()
        signal.raise_signal(number)

    signal.signal(number, leave)
