"""The jobs that make files of LoRAs and checkpoints or look at them: a kind for each tool."""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Event, Note, Progress, Saved, ToolDone
from lib_lora.base.options import from_mapping, to_mapping
from lib_lora.base.protocols import Host
from lib_lora.base.signals import Control
from lib_lora.files.atomic import remove_leftovers, write_bytes
from lib_lora.jobs.failure import is_out_of_memory
from lib_lora.jobs.job import Job
from lib_lora.jobs.options import LIVE
from lib_lora.jobs.spec import JOB_KINDS, Prepared
from lib_lora.jobs.tool_form import CHART, DATA_URL, THUMBNAIL, lora_name, read_form
from lib_lora.weights.tools import TOOLS, Tool

_PROGRESS_SECONDS = 0.2


class _ToolWork:
    """In a thread of this process: a tool has no state to go on from, and ends between two layers."""

    pausable = False

    def __init__(self, tool: Tool) -> None:
        self._tool = tool

    def check(self, values: Mapping[str, Any], host: Host, folder: Path) -> Prepared:
        config = read_form(self._tool, values, host, folder)
        if str(values.get(THUMBNAIL)).startswith(DATA_URL):
            _decoded(values[THUMBNAIL])
        plan = {"config": to_mapping(config), "lora": _lora_written(self._tool, config, host)}
        if not self._tool.writes:
            name, result = " and ".join(path.stem for path in _loras(config)), None
        else:
            name, result = config.output.stem, None if config.overwrite else config.output
            if result is not None and result.exists():
                raise StudioError(
                    "a file of this name exists", field="output", file=result, allowed="another name, or overwrite"
                )
        return Prepared(name, plan, LIVE, "it works on files alone", result, result_option="output")

    def run(self, job: Job, host: Host, control: Control) -> Iterator[Event]:
        tool, config = self._tool, from_mapping(self._tool.config, job.spec.plan["config"])
        if tool.writes:
            config.output.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(config.output.parent, re.escape(config.output.name[:32]))  # of a try that was killed
        url = job.spec.values.get(THUMBNAIL)
        if str(url).startswith(DATA_URL):
            write_bytes(job.folder / THUMBNAIL, _decoded(url))
        with _told_of_memory(), contextlib.closing(tool.run(config, control)) as events:
            for event in _thinned(events):
                if isinstance(event, ToolDone):
                    job.write_log(tool.report_text(event.report))
                yield event
                if isinstance(event, Saved) and event.final:
                    yield from _hand_over(job, tool, event.path, host)


for _tool in TOOLS.values():
    JOB_KINDS.register(_tool.name)(_ToolWork(_tool))


def tool_view(job: Job) -> dict[str, Any] | None:
    """What a finished tool has to say: ``Job.view()["tool"]``, with ``report`` and ``text``; None before its end."""
    if job.state.tool is None:
        return None
    events, _ = job.log.read()
    report = next(each["report"] for each in reversed(events) if each["event"] == ToolDone.__name__)
    return {**job.view()["tool"], "report": report, "text": job.log_text()}


def chart_of(job: Job) -> Path | None:
    """The file of a tool's chart; None where it has made none."""
    return job.folder / CHART if job.state.tool and job.state.tool["picture"] else None


def _lora_written(tool: Tool, config: Any, host: Host) -> str | None:
    """The name of the LoRA that is written or changed; None where none is, or outside of the host's folder."""
    if tool.writes == "lora":
        return lora_name(config.output, host)
    edits = any(getattr(config, name, None) for name in ("set", "remove", THUMBNAIL))
    return lora_name(config.model, host) if edits else None


def _loras(config: Any) -> list[Path]:
    return [getattr(config, name) for name in ("model", "first", "second") if hasattr(config, name)]


def _decoded(url: str) -> bytes:
    """The picture in a data URL.

    Raises:
        StudioError: there is none in it.
    """
    _, comma, text = url.partition(";base64,")
    try:
        if not comma:
            raise ValueError("no base64")
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise StudioError(f"is no picture: {error}", field=THUMBNAIL, came=url[:40]) from error


@contextlib.contextmanager
def _told_of_memory() -> Iterator[None]:
    """Raises StudioError where memory is full: what a training job is advised would be no help here."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise StudioError(f"memory is full ({error})", allowed="other programs ended, or a smaller rank") from error


def _thinned(events: Iterable[Event]) -> Iterator[Event]:
    """Not every layer is news; the last of them is."""
    told = 0.0
    for event in events:
        if isinstance(event, Progress) and event.done < event.total:
            now = time.monotonic()
            if now < told + _PROGRESS_SECONDS:
                continue
            told = now
        yield event


def _hand_over(job: Job, tool: Tool, path: Path, host: Host) -> Iterator[Event]:
    """Let the host know of a file; whatever is wrong with that, the file is there."""
    job.say_why(f"waits for its turn to tell {host.name} of the file")
    try:
        if tool.writes == "checkpoint":
            host.checkpoint_written(path)
        else:
            host.lora_written(path)
    except Exception as error:
        yield Note(f"{path.name} is written, but {host.name} could not be told of it: {error}", "warning")
    finally:
        job.say_why(None)
