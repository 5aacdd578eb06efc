"""``dataset``: look at a folder of pictures and captions, and edit it. Every change can be undone."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lib_lora.base.errors import StudioError
from lib_lora.base.options import add_flags, from_mapping, option, options_of

if TYPE_CHECKING:
    from lib_lora.dataset.collection import Applied, Collection

_SHOWN = 10
_STOPPED = 130


@dataclass(frozen=True)
class DatasetOptions:
    """What every command takes."""

    recursive: bool = option(True, "folders below, too")
    caption_extension: str = option(".txt", "of caption files; where a picture has several, the one that counts")


@dataclass(frozen=True)
class Chosen:
    """Which pictures are meant."""

    where: str = option("", "a filter, such as '1girl -hat'; docs/dataset.md has its language; empty for all")


@dataclass(frozen=True)
class FilterOptions:
    sort: str = option("name", "what the pictures are sorted by")
    reverse: bool = option(False, "the other way round")
    captions: bool = option(False, "print the captions, too")


@dataclass(frozen=True)
class EditOptions:
    dry_run: bool = option(False, "only say what would change")
    remove_empty: bool = option(False, "delete a caption file of whose caption nothing is left; else it stays as it is")


@dataclass(frozen=True)
class PictureOptions:
    over: bool = option(False, "in place of the pictures, which go to the trash; else beside them")


class Command(NamedTuple):
    """``run(collection, flags)`` is the exit code; ``add_flags`` adds its flags, beside ``DatasetOptions``."""

    help: str
    run: Callable[[Collection, dict[str, Any]], int]
    add_flags: Callable[[argparse.ArgumentParser], None] = lambda parser: None


def add_dataset_flags(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(metavar="WHAT", required=True)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.help, description=command.help, allow_abbrev=False)
        sub.add_argument("folder", metavar="FOLDER", help="the dataset's folder")
        command.add_flags(sub)
        add_flags(sub, DatasetOptions)
        sub.set_defaults(command=_runner(command))


def _flags(*options: type, **arguments: str) -> Callable[[argparse.ArgumentParser], None]:
    """``arguments``: name and help of what stands without a flag."""

    def add(parser: argparse.ArgumentParser) -> None:
        for name, help in arguments.items():
            parser.add_argument(name, metavar=name.upper(), help=help)
        for config in options:
            add_flags(parser, config)

    return add


def _edit_flags(parser: argparse.ArgumentParser) -> None:
    from lib_lora.dataset.edits import EDITS

    _one_of(parser, "edit", {name: (EDITS.get(name), EDITS.get(name).help) for name in EDITS}, EditOptions)


def _picture_flags(parser: argparse.ArgumentParser) -> None:
    from lib_lora.dataset.picture_tools import TOOLS

    _one_of(parser, "tool", {name: (TOOLS.get(name), TOOLS.get(name).__doc__) for name in TOOLS}, PictureOptions)


def _one_of(
    parser: argparse.ArgumentParser, dest: str, kinds: dict[str, tuple[type, str | None]], options: type
) -> None:
    """A command for each kind, by its name: (option class, help)."""
    commands = parser.add_subparsers(metavar=dest.upper(), required=True, dest=dest)
    for name, (kind, help) in kinds.items():
        sub = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        _flags(kind, Chosen, options)(sub)


def _caption_flags(parser: argparse.ArgumentParser) -> None:
    acts = parser.add_subparsers(metavar="WHAT", required=True, dest="act")
    help = "delete caption files; the pictures stay"
    _flags(Chosen)(acts.add_parser("delete", help=help, description=help, allow_abbrev=False))


def _runner(command: Command) -> Callable[[dict[str, Any]], int]:
    def run(flags: dict[str, Any]) -> int:
        folder, options = flags.pop("folder"), _taken(DatasetOptions, flags)
        with _opened(folder, options) as collection:
            for note in [*collection.notes, *([collection.read_only] if collection.read_only else [])]:
                print(f"note: {note}")
            return command.run(collection, flags)

    return run


@contextmanager
def _opened(folder: str, options: DatasetOptions) -> Iterator[Collection]:
    from lib_lora.dataset.collection import Collection

    collection = Collection.open(folder, recursive=options.recursive, caption_extension=options.caption_extension)
    try:
        yield collection
    finally:
        collection.close()


def _taken(config: type, flags: dict[str, Any]) -> Any:
    """The config of those flags that are its own, which are taken out."""
    names = [info.name for info in options_of(config)]
    return from_mapping(config, {name: flags.pop(name) for name in names if name in flags})


def chosen(collection: Collection, flags: dict[str, Any]) -> list[int]:
    """The ids that ``--where`` chooses."""
    return _selected(collection, _taken(Chosen, flags).where)


def _selected(collection: Collection, query: str) -> list[int]:
    collection.count_tokens = _count_tokens
    return collection.select(query)


def _count_tokens(text: str) -> int:
    """Loads the vocabulary when the first text is counted. Raises StudioError where there is none."""
    from lib_lora.models import clip_assets

    return clip_assets.token_counter()(text)


def told(collection: Collection, applied: Applied) -> int:
    """Say what was done; 1 where something could not be."""
    done = sorted({*applied.changed, *applied.added, *applied.removed})
    print(f"{applied.what}: {len(done)} {'picture' if len(done) == 1 else 'pictures'}")
    for who, why in applied.conflicts[:_SHOWN]:
        name = collection.item(who).name if isinstance(who, int) and who in collection.ids else who
        print(f"  left as it is: {name}: {why}")
    if len(applied.conflicts) > _SHOWN:
        print(f"  and {len(applied.conflicts) - _SHOWN} more")
    return int(bool(applied.conflicts))


def _scan(collection: Collection, flags: dict[str, Any]) -> int:
    items = collection.items
    captioned = sum(bool(item.caption) for item in items)
    print(f"{len(items)} pictures, {captioned} with a caption, {len(collection.tag_counts())} different tags")
    for problem in [f"{item.name}: {item.problem}" for item in items if item.problem][:_SHOWN]:
        print(f"  {problem}")
    for tag, count in collection.tag_counts()[:_SHOWN]:
        print(f"{count:>8}  {tag}")
    return 0


def _filter(collection: Collection, flags: dict[str, Any]) -> int:
    options = _taken(FilterOptions, flags)
    ids = collection.sort(_selected(collection, flags["query"]), options.sort, options.reverse)
    for item in map(collection.item, ids):
        print(f"{item.name}: {item.caption or ''}" if options.captions else item.name)
    return 0


def _edit(collection: Collection, flags: dict[str, Any]) -> int:
    from lib_lora.dataset.edits import make_edit

    name, options, ids = flags.pop("edit"), _taken(EditOptions, flags), chosen(collection, flags)
    edit = make_edit(name, flags)
    if not options.dry_run:
        return told(collection, collection.apply(edit, ids, remove_empty=options.remove_empty))
    preview = collection.preview(edit, ids)
    print(f"{edit.describe()}: {preview.changed} of {len(ids)} captions would change")
    for number, before, after in preview.examples[:_SHOWN]:
        print(f"  {collection.item(number).name}\n    - {before}\n    + {after}")
    return 0


def _again(collection: Collection, act: Callable[[], Applied | None], nothing: str) -> int:
    applied = act()
    if applied is None:
        print(nothing)
        return 1
    return told(collection, applied)


def _history(collection: Collection, flags: dict[str, Any]) -> int:
    for entry in collection.history():
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.time))
        print(f"{entry.number:>6}  {when}  {entry.count:>6}  {entry.what}{' (undone)' if entry.undone else ''}")
    return 0


def _move(collection: Collection, flags: dict[str, Any]) -> int:
    return told(collection, collection.move(chosen(collection, flags), flags["target"]))


def _copy(collection: Collection, flags: dict[str, Any]) -> int:
    return told(collection, collection.copy(chosen(collection, flags), flags["target"]))


def _some(collection: Collection, flags: dict[str, Any]) -> list[int]:
    """The chosen pictures, where nothing chosen must not mean all."""
    if not flags.get("where"):
        raise StudioError("must be given", field="where", allowed="a filter; path:* for every picture")
    return chosen(collection, flags)


def _trash(collection: Collection, flags: dict[str, Any]) -> int:
    return told(collection, collection.trash(_some(collection, flags)))


def _rename(collection: Collection, flags: dict[str, Any]) -> int:
    item = collection.item_named(flags["picture"])
    if item is None:
        raise StudioError("there is no such picture", field="picture", came=flags["picture"])
    return told(collection, collection.rename(item.id, flags["name"]))


def _delete_captions(collection: Collection, flags: dict[str, Any]) -> int:
    return told(collection, collection.remove_captions(_some(collection, flags)))


def _picture(collection: Collection, flags: dict[str, Any]) -> int:
    from lib_lora.base.events import Progress
    from lib_lora.cli.progress import watched
    from lib_lora.dataset.picture_tools import TOOLS, use_tool

    name, options, ids = flags.pop("tool"), _taken(PictureOptions, flags), _some(collection, flags)
    tool = _taken(TOOLS.get(name), flags)
    with watched() as (printer, control):
        applied = use_tool(
            collection,
            ids,
            tool,
            over=options.over,
            progress=lambda done, total: printer.show(Progress(name, done, total)),
            control=control,
        )
    return told(collection, applied) or (_STOPPED if control.stopping else 0)


def _restore(collection: Collection, flags: dict[str, Any]) -> int:
    return told(collection, collection.restore_first(chosen(collection, flags)))


def _metadata_in(collection: Collection, flags: dict[str, Any]) -> int:
    from lib_lora.dataset.kohya_metadata import MetadataIn, read_metadata, take_captions

    config, ids = _taken(MetadataIn, flags), chosen(collection, flags)
    taken = take_captions(read_metadata(flags["file"]), map(collection.item, ids), config)
    not_taken = [f"{name}: no picture has this name" for name in taken.unknown]
    not_taken += [f"{name}: several pictures have this name" for name in taken.ambiguous]
    for line in not_taken[:_SHOWN]:
        print(f"  {line}")
    return told(collection, collection.set_captions(taken.captions, what=f"captions from {Path(flags['file']).name}"))


def _metadata_out(collection: Collection, flags: dict[str, Any]) -> int:
    from lib_lora.dataset.kohya_metadata import MetadataOut, metadata_of, metadata_text
    from lib_lora.files.atomic import write_text

    config, path = _taken(MetadataOut, flags), Path(flags["file"])
    entries = metadata_of([collection.item(number) for number in chosen(collection, flags)], config)
    if path.exists() and not config.overwrite:
        raise StudioError("is there already", file=path, allowed="--overwrite replaces it")
    write_text(path, metadata_text(entries, lines=path.suffix.lower() == ".jsonl"))
    print(f"{len(entries)} captions in {path}")
    return 0


def _metadata_flags(name: str) -> Callable[[argparse.ArgumentParser], None]:
    def add(parser: argparse.ArgumentParser) -> None:
        from lib_lora.dataset import kohya_metadata

        config = getattr(kohya_metadata, name)
        _flags(config, Chosen, file="a json file as kohya's scripts write it, or jsonl")(parser)

    return add


def _health(collection: Collection, flags: dict[str, Any]) -> int:
    from lib_lora.cli.dataset_health import run_health
    from lib_lora.models import clip_assets

    with contextlib.suppress(StudioError):  # the report says that tokens are not counted
        collection.count_tokens = clip_assets.token_counter(local_only=True)
    return run_health(collection, flags, told)


def _health_flags(parser: argparse.ArgumentParser) -> None:
    from lib_lora.cli.dataset_health import add_health_flags

    add_health_flags(parser)


def _tag(collection: Collection, flags: dict[str, Any]) -> int:
    from lib_lora.cli.dataset_tag import run_tag

    return run_tag(collection, chosen(collection, flags), flags, told)


def _tag_flags(parser: argparse.ArgumentParser) -> None:
    from lib_lora.cli.dataset_tag import add_tag_flags

    add_flags(parser, Chosen)
    add_tag_flags(parser)


def _mask(collection: Collection, flags: dict[str, Any]) -> int:
    from lib_lora.cli.dataset_mask import run_mask

    ids = chosen(collection, flags) if flags["act"] == "list" else _some(collection, flags)
    return run_mask(collection, ids, flags, told)


def _mask_flags(parser: argparse.ArgumentParser) -> None:
    from lib_lora.cli.dataset_mask import add_mask_flags

    add_mask_flags(parser, Chosen)


_TARGET = "a folder of the dataset (relative), or another one"

COMMANDS = {
    "scan": Command("say what a folder holds", _scan),
    "filter": Command(
        "print the pictures that a filter lets through", _filter, _flags(FilterOptions, query="the filter")
    ),
    "edit": Command("edit captions", _edit, _edit_flags),
    "health": Command("say what is wrong with a dataset, and mend it", _health, _health_flags),
    "tag": Command("let taggers look at pictures, and write captions", _tag, _tag_flags),
    "undo": Command("take back the last change", lambda c, flags: _again(c, c.undo, "there is nothing to undo")),
    "redo": Command("make again what was undone", lambda c, flags: _again(c, c.redo, "there is nothing to redo")),
    "history": Command("print what can be undone and redone", _history),
    "restore": Command("make captions what they were before their first change here", _restore, _flags(Chosen)),
    "move": Command("move pictures with their captions and masks", _move, _flags(Chosen, target=_TARGET)),
    "copy": Command("copy pictures with their captions and masks", _copy, _flags(Chosen, target=_TARGET)),
    "trash": Command("move pictures with their captions and masks to the trash", _trash, _flags(Chosen)),
    "rename": Command(
        "give a picture with its captions and mask another name",
        _rename,
        _flags(picture="its path in the dataset", name="the new name, without folder and extension"),
    ),
    "captions": Command("delete caption files", _delete_captions, _caption_flags),
    "picture": Command("make new pictures: crop, resize, split, flip", _picture, _picture_flags),
    "mask": Command("make, list and remove masks, which say where the loss counts", _mask, _mask_flags),
    "metadata_in": Command("take captions from a metadata file", _metadata_in, _metadata_flags("MetadataIn")),
    "metadata_out": Command("write captions to a metadata file", _metadata_out, _metadata_flags("MetadataOut")),
}
