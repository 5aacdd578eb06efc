"""The job that tags a dataset, in a thread of this process. The WebUI's start does not wait for what it needs."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Event, Note, ToolDone
from lib_lora.base.options import REQUIRED, from_mapping, option, options_of, to_mapping
from lib_lora.base.protocols import Host
from lib_lora.base.signals import Control
from lib_lora.jobs.dataset_access import allowed_folder, within
from lib_lora.jobs.forms import in_groups, option_view, plain, refuse_unknown
from lib_lora.jobs.job import Job
from lib_lora.jobs.options import LIVE
from lib_lora.jobs.spec import JOB_KINDS, Prepared

if TYPE_CHECKING:
    from lib_lora.dataset.collection import Collection
    from lib_lora.tagging.options import TagConfig

_NAMED = 5


@dataclass(frozen=True)
class Pictures:
    """Which pictures a job is about."""

    folder: Path = option(REQUIRED, "folder of pictures", folder="datasets")
    pictures: tuple[str, ...] = option((), "names of pictures in it; none for all")
    filter: str = option("", "only those that this filter lets through")
    recursive: bool = option(True, "also those in folders below it")
    caption_extension: str = option(".txt", "extension of caption files")


def tag_schema(host: Host) -> dict[str, Any]:
    """``{"groups", "defaults", "taggers"}``: the form of all options but those of ``Pictures``."""
    from lib_lora.tagging.options import TagConfig
    from lib_lora.tagging.registry import available, model_folder

    infos = options_of(TagConfig)
    taggers = [info.to_json() for info in available(model_folder(host), host)]
    names = [each["name"] for each in taggers]
    views = [(info.group, option_view(info, names if info.name == "taggers" else None)) for info in infos]
    return {
        "groups": in_groups(views),
        "defaults": {info.name: plain(info.default) for info in infos},
        "taggers": taggers,
    }


class _Tag:
    """Not pausable: it is stopped at once, and done again goes on where it was, for what was said is kept."""

    pausable = False

    def check(self, values: Mapping[str, Any], host: Host, folder: Path) -> Prepared:
        from lib_lora.dataset.query import parse_query
        from lib_lora.dataset.records import CAPTION_EXTENSIONS
        from lib_lora.tagging.registry import model_folder
        from lib_lora.tagging.run import check

        pictures, config = _read(values)
        pictures = dataclasses.replace(pictures, folder=allowed_folder(pictures.folder, host, field="folder"))
        if pictures.caption_extension not in CAPTION_EXTENSIONS:
            came = pictures.caption_extension
            raise StudioError("not allowed", field="caption_extension", came=came, allowed=CAPTION_EXTENSIONS)
        parse_query(pictures.filter)
        check(config, model_folder(host), host)
        plan = {"pictures": to_mapping(pictures), "config": to_mapping(config)}
        return Prepared(f"tags for {pictures.folder.name}", plan, LIVE, "taggers run in this process")

    def run(self, job: Job, host: Host, control: Control) -> Iterator[Event]:
        from lib_lora.dataset.collection import Collection
        from lib_lora.tagging.options import TagConfig
        from lib_lora.tagging.registry import model_folder
        from lib_lora.tagging.run import report_text, tag

        pictures = from_mapping(Pictures, job.spec.plan["pictures"])
        config = from_mapping(TagConfig, job.spec.plan["config"])
        with Collection.open(
            allowed_folder(pictures.folder, host, field="folder"),  # the host may be open to others by now
            recursive=pictures.recursive,
            caption_extension=pictures.caption_extension,
            within=within(host),
        ) as collection:
            ids, lost = _chosen(collection, pictures)
            if lost:
                some = f"{', '.join(lost[:_NAMED])}{' ...' if len(lost) > _NAMED else ''}"
                yield Note(
                    f"{len(lost)} of {len(pictures.pictures)} pictures are not there any more: {some}", "warning"
                )
            with contextlib.closing(tag(collection, ids, config, model_folder(host), control, host)) as events:
                for event in events:
                    if isinstance(event, ToolDone):
                        job.write_log(report_text(event.report))
                        job.change(tool={"output": None, "name": None, "seconds": event.seconds, "picture": False})
                    yield event


JOB_KINDS.register("tag")(_Tag())


def _read(values: Mapping[str, Any]) -> tuple[Pictures, TagConfig]:
    from lib_lora.tagging.options import TagConfig

    own = [info.name for info in options_of(Pictures)]
    refuse_unknown(values, [*own, *(info.name for info in options_of(TagConfig))])
    given = {name: value for name, value in values.items() if name not in own}
    pictures = from_mapping(Pictures, {name: value for name, value in values.items() if name in own})
    return pictures, from_mapping(TagConfig, given)


def _chosen(collection: Collection, pictures: Pictures) -> tuple[list[int], list[str]]:
    """The pictures' ids, and the names of those that are not there."""
    if not pictures.pictures:
        return collection.select(pictures.filter), []
    items = {name: collection.item_named(name) for name in pictures.pictures}
    ids = [item.id for item in items.values() if item is not None]
    return collection.select(pictures.filter, within=ids), [name for name, item in items.items() if item is None]
