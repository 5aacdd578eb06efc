"""The health report of an open dataset, and its fixes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lib_lora.api.call import Call
from lib_lora.api.dataset import applied_view, collection_of, find
from lib_lora.api.dataset_tasks import Tell, tasks_of
from lib_lora.api.forms import allowed_folder
from lib_lora.api.open_datasets import OpenDataset
from lib_lora.api.studio import Studio
from lib_lora.base.errors import StudioError
from lib_lora.base.signals import Control

if TYPE_CHECKING:
    from lib_lora.dataset.health import Finding, HealthReport, HealthSettings


def form(studio: Studio, call: Call) -> Any:
    from lib_lora.base.options import options_of
    from lib_lora.dataset.health import HealthSettings
    from lib_lora.jobs.forms import in_groups, option_view, plain

    infos = options_of(HealthSettings)
    return {
        "groups": in_groups((info.group, option_view(info)) for info in infos),
        "defaults": {info.name: plain(info.default) for info in infos},
    }


def check(studio: Studio, call: Call) -> Any:
    """Look at everything, in the background; the task's result is the report."""
    from lib_lora.dataset.health import health

    found, collection = find(studio, call), collection_of(studio, call)
    settings = _settings(studio, call)

    def work(tell: Tell, control: Control) -> Any:
        report = health(collection, settings, progress=tell, control=control)
        found.keep("health", dict)["report"] = report
        return None if report is None else report.to_json()

    return tasks_of(found).start(work)


def report(studio: Studio, call: Call) -> Any:
    """The last report; ``stale`` where the dataset has changed since."""
    found, collection = find(studio, call), collection_of(studio, call)
    last: HealthReport | None = found.keep("health", dict).get("report")
    if last is None:
        return {"report": None, "stale": False}
    return {"report": last.to_json(), "stale": last.version != collection.version}


def preview_fix(studio: Studio, call: Call) -> Any:
    """What a fix would change: captions before and after where it edits captions, else only its pictures."""
    from lib_lora.dataset.health import EditFix

    found, collection = find(studio, call), collection_of(studio, call)
    finding = _finding(found, call)
    if not isinstance(finding.fix, EditFix):
        return {"changed": len(finding.items) + len(finding.files), "examples": []}
    preview = collection.preview(finding.fix.edit, finding.items)
    return {"changed": preview.changed, "examples": preview.examples}


def apply_fix(studio: Studio, call: Call) -> Any:
    """Do what a finding offers, in the background; the task's result is what was done."""
    from lib_lora.dataset import health

    found, collection = find(studio, call), collection_of(studio, call)
    finding = _finding(found, call)

    def work(tell: Tell, control: Control) -> Any:
        def progress(done: int, total: int) -> None:
            tell(finding.kind, done, total)

        return applied_view(found, health.apply_fix(collection, finding, health.Watch(progress, control)))

    return tasks_of(found).start(work)


def _finding(found: OpenDataset, call: Call) -> Finding:
    """The finding that a body names by its place in the report of a version.

    Raises:
        StudioError: there is another report meanwhile.
    """
    last: HealthReport | None = found.keep("health", dict).get("report")
    place = call.given("finding", int)
    if last is None or last.version != call.given("version", int) or not 0 <= place < len(last.findings):
        raise StudioError("the report is an older one; check again", field="finding", came=place)
    return last.findings[place]


def _settings(studio: Studio, call: Call) -> HealthSettings:
    from lib_lora.base.options import from_mapping
    from lib_lora.dataset.health import HealthSettings

    settings = from_mapping(HealthSettings, call.given("values", dict))
    if settings.reg_data_dir is not None:
        allowed_folder(str(settings.reg_data_dir), studio.host, field="reg_data_dir")
    return settings
