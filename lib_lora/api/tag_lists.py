"""Suggestions for tags, and the lists that people drop in for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lib_lora.api.call import Call, not_found
from lib_lora.api.open_datasets import OpenDataset
from lib_lora.api.studio import Studio
from lib_lora.base.errors import StudioError

if TYPE_CHECKING:
    from lib_lora.dataset.own_groups import OwnGroups
    from lib_lora.dataset.tag_lists import KnownTags, TagLists

_MOST = 24  # suggestions
_lists: dict[str, TagLists] = {}
_groups: dict[str, OwnGroups] = {}
# Where no list knows a tag, its group says something.
_GROUPS = {"counts": "people", "hair_colours": "looks", "eye_colours": "looks", "hair_lengths": "looks"}
_GROUPS |= {"several_hair_colours": "looks", "several_eye_colours": "looks", "poses": "pose", "metadata": "meta"}


def tag_lists(studio: Studio) -> TagLists:
    from lib_lora.dataset.tag_lists import TagLists

    folder = studio.host.data_dir / "tags"
    return _lists.setdefault(str(folder), TagLists(folder))


def own_groups(studio: Studio) -> OwnGroups:
    from lib_lora.dataset.own_groups import OwnGroups

    path = studio.host.data_dir / "tag_groups.txt"
    return _groups.setdefault(str(path), OwnGroups(path))


def groups(studio: Studio, call: Call) -> Any:
    """The groups of tags that a person has made."""
    own = own_groups(studio)
    return {"text": own.text, "groups": [group.name for group in own.groups], "problem": own.problem}


def write_groups(studio: Studio, call: Call) -> Any:
    own_groups(studio).write(call.given("text", str))
    return groups(studio, call)


def all_lists(studio: Studio, call: Call) -> Any:
    lists = tag_lists(studio)
    known = lists.known()
    return {"lists": lists.names(), "tags": len(known), "notes": lists.notes}


def add(studio: Studio, call: Call) -> Any:
    tag_lists(studio).add(call.given("name", str), call.given("text", str))
    return all_lists(studio, call)


def remove(studio: Studio, call: Call) -> Any:
    try:
        tag_lists(studio).remove(call.path["name"])
    except StudioError as error:
        raise not_found(error.problem, field=error.field, came=error.came, allowed=error.allowed) from error
    return all_lists(studio, call)


def suggestions(studio: Studio, found: OpenDataset, text: str) -> list[dict[str, Any]]:
    """Tags that hold ``text``: the dataset's own first, those that begin with it before the others, then those
    of a person's own groups, then the lists'."""
    from lib_lora.dataset.tag_groups import plain

    known, wanted, category = tag_lists(studio).known(), plain(text), categories(studio)
    if not wanted:
        return []
    here = {tag: count for tag, count in found.collection.tag_counts() if wanted in plain(tag)}
    own = sorted(here, key=lambda tag: (not plain(tag).startswith(wanted), -here[tag], tag))[:_MOST]
    views = [{"tag": tag, "here": here[tag], "category": category(tag)} for tag in own]
    forms = {plain(tag) for tag in own}
    grouped = {tag: None for group in own_groups(studio).groups for tag in group.tags if "*" not in tag}
    more = [tag for tag in grouped if wanted in tag and tag not in forms]
    views += [{"tag": tag, "category": category(tag)} for tag in more]
    forms.update(more)
    others = known.search(text, _MOST)
    listed = [
        {"tag": each.tag, "posts": each.posts, "category": category(each.tag), "alias": each.alias}
        for each in sorted(others, key=lambda each: not (each.alias or each.tag).startswith(wanted))
        if each.tag not in forms
    ]
    return (views + listed)[:_MOST]


def categories(studio: Studio) -> Callable[[str], str]:
    """Gives what kind of tag one is: a person's own group, else as the lists say, else by its meaning; empty where
    nobody knows."""
    known, own_group = tag_lists(studio).known(), own_groups(studio).finder()
    return lambda tag: own_group(tag) or _category_of(known, tag)


def _category_of(known: KnownTags, tag: str) -> str:
    from lib_lora.dataset.tag_groups import in_group, plain

    listed = known.categories.get(plain(tag))
    if listed:
        return listed
    return next((category for group, category in _GROUPS.items() if in_group(tag, group)), "")
