"""A form made of a config's options: one component per option, found by the option's name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import gradio as gr

from lib_lora.base.errors import StudioError
from lib_lora.base.options import OptionInfo, convert, from_mapping, options_of

C = TypeVar("C")
LARGEST = 2**53  # a browser's numbers are float64: whole numbers above this arrive rounded
NONE = "none"


@dataclass(frozen=True)
class Look:
    """What a page adds to an option.

    Args:
        value: the first value, in place of the option's default.
        choices: names to choose from; any other text may be typed too.
        late_choices: gives those names, and is too slow to be asked before the page opens.
        lines: height of a text.
    """

    value: Any = None
    choices: tuple[str, ...] = ()
    late_choices: Callable[[], Iterable[str]] | None = None
    placeholder: str = ""
    lines: int = 1


@dataclass
class Form(Generic[C]):
    """The components of one config by option name. Handlers get ``inputs`` and read the mapping that arrives."""

    config: type[C]
    infos: dict[str, OptionInfo]
    looks: Mapping[str, Look]
    components: dict[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> set[Any]:
        return set(self.components.values())

    def values(self, page: Mapping[Any, Any]) -> dict[str, Any]:
        """Option names and what stands in the form, from gradio's mapping of components to values."""
        values = {}
        for name, component in self.components.items():
            value = page[component]
            if isinstance(value, (int, float)) and abs(value) > LARGEST:
                raise StudioError("too large for a page", field=name, came=value, allowed=f"up to {LARGEST}")
            empty = isinstance(value, str) and not value.strip()
            values[name] = None if empty and self.infos[name].required else value
        return values

    def read(self, page: Mapping[Any, Any]) -> C:
        """The checked config.

        Raises:
            StudioError: naming the field at fault.
        """
        return from_mapping(self.config, self.values(page))

    def fill(self, values: Mapping[str, Any]) -> dict[Any, Any]:
        """Page updates that put a config file's values into the form; every other option gets its default.

        Raises:
            StudioError: a name or value that the config does not know.
        """
        for name in values:
            if name not in self.infos:
                raise StudioError("unknown option", field=name, came=values[name], allowed=list(self.infos))
        updates = {}
        for name, component in self.components.items():
            value = convert(self.infos[name], values[name]) if name in values else self.first(name)
            updates[component] = gr.update(value=self.shown(name, value))
        return updates

    def first(self, name: str) -> Any:
        """The value that the form opens with."""
        value = self.looks.get(name, Look()).value
        info = self.infos[name]
        return value if value is not None else None if info.required else info.default

    def shown(self, name: str, value: Any) -> Any:
        """An option's value as its component shows it."""
        info = self.infos[name]
        if value is None:
            return (NONE if info.optional else None) if self.is_dropdown(name) else ""
        if isinstance(value, tuple):
            return ", ".join(str(item) for item in value)
        if isinstance(value, bool) or self.is_number(name):
            return value
        return str(value)

    def is_dropdown(self, name: str) -> bool:
        look = self.looks.get(name, Look())
        return bool(self.infos[name].choices or look.choices or look.late_choices)

    def is_number(self, name: str) -> bool:
        """Numbers that may be left out are texts: an empty number means zero to some versions of gradio."""
        info = self.infos[name]
        return info.kind in (int, float) and not (info.optional or info.required)

    def late_choices(self) -> dict[Any, Any]:
        """Page updates with the names that were too slow to ask for before."""
        return {
            self.components[name]: gr.update(choices=_choices(self.infos[name], look.late_choices()))
            for name, look in self.looks.items()
            if look.late_choices is not None
        }


def build_form(config: type[C], looks: Mapping[str, Look] | None = None) -> Form[C]:
    """Lay the form out where it is called: a section per group, its advanced options folded away."""
    infos = {info.name: info for info in options_of(config)}
    form = Form(config, infos, looks or {})
    groups: dict[str, list[OptionInfo]] = {}
    for info in infos.values():
        groups.setdefault(info.group, []).append(info)
    for group, members in groups.items():
        basic = [info for info in members if info.level != "advanced"]
        advanced = [info for info in members if info.level == "advanced"]
        if basic:
            with gr.Group():
                if group:
                    gr.HTML(f"<h3>{group}</h3>", elem_classes=["studio-group"])
                _lay_out(form, basic)
        if advanced:
            with gr.Accordion(" · ".join(part for part in (group, "advanced") if part), open=False):
                _lay_out(form, advanced)
    return form


def _lay_out(form: Form, infos: list[OptionInfo]) -> None:
    switches = [info for info in infos if info.kind is bool]
    for row in ([info for info in infos if info.kind is not bool], switches):
        if row:
            with gr.Row(elem_id=f"studio-row-{form.config.__name__}-{row[0].name}"):
                for info in row:
                    form.components[info.name] = _component(info, form)


def _component(info: OptionInfo, form: Form) -> Any:
    look = form.looks.get(info.name, Look())
    value = form.shown(info.name, form.first(info.name))
    place = "studio-text" if look.lines > 1 else "studio-path" if info.kind is Path else "studio-short"
    common = {
        "label": f"{info.name} ({info.unit})" if info.unit else info.name,
        "info": info.help,
        "value": value,
        "elem_id": f"{form.config.__name__}-{info.name}",
        "min_width": 200,
        "interactive": True,
        "elem_classes": [place],
    }
    if info.kind is bool:
        return gr.Checkbox(**common)
    if form.is_dropdown(info.name):
        names = info.choices or look.choices or ([] if value in (None, NONE) else [value])
        return gr.Dropdown(_choices(info, names), allow_custom_value=not info.choices, **common)
    if form.is_number(info.name):
        return gr.Number(**common)  # limits are ours to check: gradio's own message names no field
    placeholder = look.placeholder or (NONE if info.optional else "")
    return gr.Textbox(lines=look.lines, max_lines=20 if look.lines > 1 else 1, placeholder=placeholder, **common)


def _choices(info: OptionInfo, names: Iterable[str]) -> list[str]:
    return [NONE, *names] if info.optional else list(names)
