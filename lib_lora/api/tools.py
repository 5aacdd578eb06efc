"""The tools' forms and charts. Their work is a job like any other: ``POST jobs`` with the tool's name as its kind."""

from __future__ import annotations

from typing import Any

from lib_lora.api.call import Call, not_found
from lib_lora.api.jobs import find_job
from lib_lora.api.pictures import file_response
from lib_lora.api.studio import Studio
from lib_lora.jobs.tool_form import plan_view, tools_schema
from lib_lora.jobs.tool_job import chart_of
from lib_lora.weights.tools import TOOLS


def all_tools(studio: Studio, call: Call) -> Any:
    return tools_schema(studio.host)


def plan(studio: Studio, call: Call) -> Any:
    name = call.path["name"]
    if name not in TOOLS:
        raise not_found("no such tool", field="name", came=name, allowed=TOOLS)
    return plan_view(TOOLS[name], call.given("values", dict), studio.host)


def chart(studio: Studio, call: Call) -> Any:
    """The chart of a tool that looks at LoRAs."""
    job = find_job(studio, call.path["id"])
    path = chart_of(job)
    if path is None:
        raise not_found("this job has made no chart", field="id", came=job.id)
    return file_response(call, path, (job.folder,), "image/png")
