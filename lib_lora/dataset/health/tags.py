"""Tags by the rules of the guides: the activation tag, what to prune, what contradicts what."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator

from lib_lora.dataset.consolidate import subsumed
from lib_lora.dataset.edits import Add, Dedupe, Subsume
from lib_lora.dataset.health.checks import CHECKS, many, some
from lib_lora.dataset.health.report import EditFix, Finding, tag_fix
from lib_lora.dataset.health.spelling import misspelt
from lib_lora.dataset.health.view import View, is_one_person
from lib_lora.dataset.items import Item
from lib_lora.dataset.tag_groups import Exclusive, exclusives, in_group, plain

_ENOUGH = 10  # in fewer pictures, shares and single uses of tags say nothing


# The activation tag is the very first of the tags, and in every caption.


@CHECKS.register("activation_missing")
def activation_missing(view: View) -> Iterator[Finding]:
    for concept, tag in view.activation_tags.items():
        items = [item for item in view.concepts[concept] if item.caption and not _calls(item, tag)]
        yield from _activation(view, "activation_missing", tag, items, "is missing", "Put it first")


@CHECKS.register("activation_not_first")
def activation_not_first(view: View) -> Iterator[Finding]:
    for concept, tag in view.activation_tags.items():
        items = [item for item in view.concepts[concept] if tag in _plain(item) and _plain(item)[0] != tag]
        yield from _activation(view, "activation_not_first", tag, items, "is not the first tag", "Move it to the front")


@CHECKS.register("activation_repeated")
def activation_repeated(view: View) -> Iterator[Finding]:
    for concept, tag in view.activation_tags.items():
        items = [item for item in view.concepts[concept] if _plain(item).count(tag) > 1]
        yield from _activation(view, "activation_repeated", tag, items, "stands more than once", "Keep the first")


def _activation(view: View, kind: str, tag: str, items: list[Item], what: str, label: str) -> Iterator[Finding]:
    if items:
        written = view.written(tag) if tag in view.writings else view.settings.activation_tag or tag
        yield Finding(
            kind,
            "warning",
            f"the activation tag {written} {what} in {many(len(items), 'caption')}",
            tuple(item.id for item in items),
            tags=(written,),
            fix=EditFix(label, Add(tags=(written,), at="front", move=True)),
        )


def _calls(item: Item, tag: str) -> bool:
    """Sentences call it by having it among their words."""
    return tag in _plain(item) or (bool(item.prose) and f" {tag} " in f" {_words(item.prose)} ")


def _words(prose: str) -> str:
    letters = (letter if letter.isalnum() or letter in "-'" else " " for letter in prose.lower())
    return " ".join("".join(letters).split())


def _plain(item: Item) -> list[str]:
    return list(map(plain, item.tags))


# What one tag says of another


@CHECKS.register("contradiction")
def contradictions(view: View) -> Iterator[Finding]:
    """Two tags of which a picture can have one; of hair, eyes and the like on pictures of one person only."""
    found: dict[str, dict[int, set[str]]] = defaultdict(dict)
    for item in view.tagged:
        tags = set(_plain(item))
        for rule in exclusives():
            clash = rule.tags & tags
            if len(clash) > 1 and _applies(rule, item) and _is_clash(rule, clash):
                found[rule.what].setdefault(item.id, set()).update(clash)
    for what, clashes in found.items():
        tags = sorted(set().union(*clashes.values()))
        yield Finding(
            "contradiction",
            "warning",
            f"{many(len(clashes))} with two {what} that cannot both be: {some(tags)}",
            view.in_order(clashes),
            tags=tuple(tags),
        )


def _applies(rule: Exclusive, item: Item) -> bool:
    if rule.of_person and not is_one_person(item):
        return False
    lifted = ("several_views", rule.unless) if rule.unless else ("several_views",)
    return not any(in_group(tag, group) for tag in item.tags for group in lifted)


def _is_clash(rule: Exclusive, tags: frozenset[str]) -> bool:
    """Light blue hair is no other colour than blue hair."""
    said = subsumed(sorted(tags))
    return len(tags) - len(said) > 1 and (rule.all_with is None or rule.all_with in tags)


@CHECKS.register("subsumed")
def subsumed_tags(view: View) -> Iterator[Finding]:
    found = [(item, subsumed(item.tags)) for item in view.tagged]
    found = [(item, said) for item, said in found if said]
    if found:
        pairs = Counter((plain(tag), plain(by)) for _, said in found for tag, by in said.items())
        yield Finding(
            "subsumed",
            "hint",
            f"{many(len(found), 'caption')} with tags that another one says already: "
            + some([f"{tag} in {by}" for (tag, by), _ in pairs.most_common()]),
            tuple(item.id for item, _ in found),
            tags=tuple(dict.fromkeys(tag for (tag, _), _ in pairs.most_common())),
            fix=EditFix("Keep the one that says most", Subsume()),
        )


@CHECKS.register("repeated_tag")
def repeated_tags(view: View) -> Iterator[Finding]:
    """Tags other than the activation tag, which has a check of its own."""
    found, repeated = [], Counter()
    for item in view.tagged:
        counts = Counter(_plain(item))
        twice = [tag for tag, n in counts.items() if n > 1 and tag != view.activation_tags.get(item.concept)]
        if twice:
            found.append(item.id)
            repeated.update(twice)
    if found:
        names = [tag for tag, _ in repeated.most_common()]
        yield Finding(
            "repeated_tag",
            "hint",
            f"{many(len(found), 'caption')} with a tag more than once: {some(names)}",
            tuple(found),
            tags=tuple(names),
            fix=EditFix("Keep the first of each", Dedupe()),
        )


# What to prune, and what is missing


@CHECKS.register("prune_trait")
def traits_to_prune(view: View) -> Iterator[Finding]:
    """The guide: eye colours almost never change, hair colour is usually pruned, hair length unless it changes too.

    What is pruned becomes part of the activation tag. Of a character only, and by concept.
    """
    if not view.is_character:
        return
    for concept, items in view.concepts.items():
        tagged = [item for item in items if item.tags]
        for group, what in (("eye_colours", "eye colour"), ("hair_colours", "hair colour"), ("hair_lengths", "length")):
            carriers = _carriers(tagged, group)
            if group == "hair_lengths" and len(carriers) > 1:
                continue
            for tag, ids in carriers.items():
                if len(ids) * 2 > len(tagged) and not _is_activation(view, tag):
                    yield _prune(view, "prune_trait", tag, ids, f"{what} of {concept} on {_share(ids, tagged)}")


def _carriers(items: Iterable[Item], group: str) -> dict[str, list[int]]:
    carriers: dict[str, list[int]] = defaultdict(list)
    for item in items:
        for tag in dict.fromkeys(_plain(item)):
            if in_group(tag, group):
                carriers[tag].append(item.id)
    return dict(carriers)


@CHECKS.register("tag_on_most")
def tags_on_most(view: View) -> Iterator[Finding]:
    yield from _common(view, "tag_on_most", lambda count, total: view.settings.prune_over * total < count < total)


@CHECKS.register("tag_never_off")
def tags_never_off(view: View) -> Iterator[Finding]:
    """Without a picture that lacks it, a thing cannot be told apart from the rest."""
    yield from _common(view, "tag_never_off", lambda count, total: count == total)


def _common(view: View, kind: str, is_common: Callable[[int, int], bool]) -> Iterator[Finding]:
    total = len(view.tagged)
    if total < _ENOUGH:
        return
    offered = {plain(tag) for finding in traits_to_prune(view) for tag in finding.tags}
    for tag, ids in view.carriers.items():
        if is_common(len(ids), total) and tag not in offered and not _belongs_everywhere(view, tag):
            where = f"on {_share(ids, view.tagged)}"
            if kind == "tag_never_off":
                where = f"on every picture, never off: it cannot be learned apart from the rest ({len(ids)})"
            yield _prune(view, kind, tag, ids, where)


def _belongs_everywhere(view: View, tag: str) -> bool:
    return _is_activation(view, tag) or in_group(tag, "counts") or in_group(tag, "metadata")


def _is_activation(view: View, tag: str) -> bool:
    return tag in view.activation_tags.values()


def _prune(view: View, kind: str, tag: str, ids: list[int], where: str) -> Finding:
    name = view.written(tag)
    return Finding(
        kind,
        "hint",
        f"{name}: {where}; pruned, it becomes part of the activation tag",
        tuple(ids),
        tags=(name,),
        fix=tag_fix(f"Remove {name}", f"remove {name}", lambda tags: [other for other in tags if plain(other) != tag]),
    )


def _share(ids: list[int], items: list[Item]) -> str:
    return f"{len(ids)} of {many(len(items))} ({100 * len(ids) / len(items):.0f} %)"


@CHECKS.register("no_pose")
def no_pose_tag(view: View) -> Iterator[Finding]:
    people = [item for item in view.tagged if is_one_person(item) or any(in_group(t, "several") for t in item.tags)]
    if len(people) >= _ENOUGH and not any(in_group(tag, "poses") for tag in view.carriers):
        yield Finding(
            "no_pose",
            "hint",
            "no caption has a tag for a pose (standing, sitting, ...); that leads to pictures in one pose",
            tuple(item.id for item in people),
        )


# Spelling


@CHECKS.register("written_differently")
def written_differently(view: View) -> Iterator[Finding]:
    """long_hair, Long hair and long hair are three tags to the trainer. Escaped brackets have their own check."""
    for writings in view.writings.values():
        forms = {form.replace("\\", "") for form in writings}
        if len(forms) > 1:
            usual = max(forms, key=lambda form: (writings[form], " " in form, form))
            others = [form for form in writings if form.replace("\\", "") != usual]
            ids = [item.id for item in view.tagged if set(others) & set(item.tags)]
            yield Finding(
                "written_differently",
                "warning",
                f"one tag written in several ways: {some(sorted(forms))}",
                tuple(ids),
                tags=tuple(sorted(writings)),
                fix=_rename_fix(f"Write {usual} everywhere", others, usual),
            )


@CHECKS.register("misspelt")
def misspelt_tags(view: View) -> Iterator[Finding]:
    for wrong, right in misspelt({tag: len(ids) for tag, ids in view.carriers.items()}).items():
        yield Finding(
            "misspelt",
            "hint",
            f"{view.written(wrong)} is likely to mean {view.written(right)}",
            tuple(view.carriers[wrong]),
            tags=(view.written(wrong), view.written(right)),
            fix=_rename_fix(f"Rename it to {view.written(right)}", view.writings[wrong], view.written(right)),
        )


def _rename_fix(label: str, old: Iterable[str], right: str) -> EditFix:
    """``right`` in the place of ``old``; where it is there already, they just go."""
    wrong = set(old)

    def renamed(tags: list[str]) -> list[str]:
        new: list[str] = []
        for tag in tags:
            if tag not in wrong:
                new.append(tag)
            elif right not in tags and right not in new:
                new.append(right)
        return new

    return tag_fix(label, f"write {right}", renamed)


@CHECKS.register("one_off")
def one_off_tags(view: View) -> Iterator[Finding]:
    """A tag on one picture teaches that picture."""
    if len(view.tagged) < _ENOUGH:
        return
    wrong = set(misspelt({tag: len(ids) for tag, ids in view.carriers.items()}))
    found = {
        tag: ids
        for tag, ids in view.carriers.items()
        if len(ids) == 1 and tag not in wrong and not _belongs_everywhere(view, tag)
    }
    if found:
        yield Finding(
            "one_off",
            "hint",
            f"{many(len(found), 'tag')} on one picture only: {some(sorted(found))}",
            view.in_order(id for ids in found.values() for id in ids),
            tags=tuple(sorted(found)),
            fix=tag_fix("Remove them", "remove tags of one picture", _without(found)),
        )


def _without(forms: Container[str]) -> Callable[[list[str]], list[str]]:
    """``forms``: tags in plain form."""
    return lambda tags: [tag for tag in tags if plain(tag) not in forms]
