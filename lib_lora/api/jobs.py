"""The queue and its jobs."""

from __future__ import annotations

import secrets
from typing import Any

from starlette.responses import PlainTextResponse, Response

from lib_lora.api.call import Call, json_response, not_found
from lib_lora.api.studio import Studio
from lib_lora.base.errors import StudioError
from lib_lora.jobs.evaluate_job import evaluation_view
from lib_lora.jobs.job import Job
from lib_lora.jobs.spec import is_id
from lib_lora.jobs.state import ACTIVE
from lib_lora.jobs.tool_job import tool_view

_PROCESS = secrets.token_hex(4)  # versions count from 0 in each
_MOST_EVENTS = 2000  # in one answer, some half a megabyte
_PLAIN_ACTIONS = ("pause", "resume", "stop", "abort", "save", "retry")
_ACTIONS = (*_PLAIN_ACTIONS, "remove", "duplicate", "move")


def all_jobs(studio: Studio, call: Call) -> Any:
    """Every job, in the queue's order. A page that has this very answer already is told so, and nothing is made."""
    queue = studio.queue
    version = queue.version
    tag = f'"{_PROCESS}-{version}"'
    if call.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"ETag": tag})
    views = [job.view() for job in queue.jobs()]
    answer = {
        "jobs": views,
        "running": next((view["id"] for view in views if view["status"] in ACTIVE), None),
        "when_done": queue.when_done,
        "shutdown_at": queue.shutdown.at,
        "version": version,
    }
    return json_response(answer, headers={"ETag": tag, "Cache-Control": "no-cache"})


def add(studio: Studio, call: Call) -> Any:
    name = call.given("name", str) if "name" in call.body else None
    return studio.queue.add(call.given("kind", str), call.given("values", dict), name).view()


def one(studio: Studio, call: Call) -> Any:
    """A job with all that it has to say; the list of all jobs leaves out what may be large: a tool's report, a grid's
    cells."""
    job = find_job(studio, call.path["id"])
    return {**job.view(), "tool": tool_view(job), **evaluation_view(job)}


def events(studio: Studio, call: Call) -> Any:
    """The events from a number on; of many the first, and ``next`` is where to go on."""
    job = find_job(studio, call.path["id"])
    found, following = studio.queue.events(job.id, call.number("after", 0), _MOST_EVENTS)
    return {"events": found, "next": following}


def log(studio: Studio, call: Call) -> Any:
    return PlainTextResponse(find_job(studio, call.path["id"]).log_text(), headers={"Cache-Control": "no-store"})


def act(studio: Studio, call: Call) -> Any:
    job, action, queue = find_job(studio, call.path["id"]), call.path["action"], studio.queue
    if action in _PLAIN_ACTIONS:
        getattr(queue, action)(job.id)
    elif action == "remove":
        queue.remove(job.id)
    elif action == "duplicate":
        return queue.duplicate(job.id, call.given("changes", dict)).view()
    elif action == "move":
        before = call.body.get("before")
        queue.move(job.id, None if before is None else find_job(studio, call.given("before", str)).id)
    else:
        raise not_found("no such action", field="action", came=action, allowed=_ACTIONS)
    return job.view()


def stop(studio: Studio, call: Call) -> Any:
    job = find_job(studio, call.path["id"])
    studio.queue.stop(job.id)
    return job.view()


def when_done(studio: Studio, call: Call) -> Any:
    studio.queue.when_done = call.given("when_done", str)
    return {"when_done": studio.queue.when_done}


def find_job(studio: Studio, id: str) -> Job:
    """The job with this id.

    Raises:
        Refusal: there is none.
    """
    if not is_id(id):
        raise not_found("no such job", field="id", came=id)
    try:
        return studio.queue.job(id)
    except StudioError as error:
        raise not_found(error.problem, field=error.field, came=error.came) from error
