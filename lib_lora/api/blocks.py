"""Block weights, and what helps to find the right ones. Grids and analyses are jobs like any other: ``POST jobs``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from starlette.responses import PlainTextResponse

from lib_lora.api.call import Call, not_found
from lib_lora.api.jobs import find_job
from lib_lora.api.loras import find_lora
from lib_lora.api.studio import Studio
from lib_lora.arch.blocks import BLOCK_LISTS
from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from lib_lora.jobs.evaluate_form import evaluate_forms, prompt_lists
from lib_lora.jobs.evaluate_job import table_of
from lib_lora.jobs.forms import model_view
from lib_lora.jobs.tool_form import checkpoint_file, lora_name
from lib_lora.weights.blocks import presets as own
from lib_lora.weights.lora_folder import lora_paths


def overview(studio: Studio, call: Call) -> Any:
    """All that the page needs to begin with."""
    host = studio.host
    return {
        "loras": [lora_name(path, host) for path in lora_paths(host.lora_dir())],
        **_presets(studio),
        "lists": {family.value: dict(lists) for family, lists in BLOCK_LISTS.items()},
        "checkpoints": [model_view(each) for each in host.checkpoints()],
        "samplers": host.samplers(),
        **_prompts(studio),
        "forms": evaluate_forms(),
    }


def norms(studio: Studio, call: Call) -> Any:
    """How much a LoRA changes each block in which it has weights; a null is what only its checkpoint would tell."""
    from lib_lora.weights.blocks.norms import module_norms, rows_of_blocks
    from lib_lora.weights.modules import read_whole

    weights = read_whole(find_lora(studio.host, call.query.get("lora", "")))
    family = weights.family or Family.SD1
    found = dict(zip(weights.modules, module_norms(weights, None)))
    return {"family": family.value, "blocks": rows_of_blocks(found, family)}


def vector(studio: Studio, call: Call) -> Any:
    """Block weights as text, as numbers of the list of ``length`` values; ``notes`` say what was made of them."""
    from lib_lora.weights.blocks.vector import parse_vector, to_length

    family = _family(call)
    presets = own.Presets.load(studio.host.data_dir)
    ratios = parse_vector(call.given("text", str), family, x=_number(call, "x", 1.0), presets=presets)
    return {"values": to_length(ratios, family, call.given("length", int)), "notes": list(ratios.remarks)}


def rates(studio: Studio, call: Call) -> Any:
    """Block weights as a training's factors of the learning rate, as the form's values."""
    from lib_lora.weights.blocks.vector import lr_multipliers, parse_vector

    family = _family(call)
    presets = own.Presets.load(studio.host.data_dir)
    ratios = parse_vector(call.given("text", str), family, x=_number(call, "x", 1.0), presets=presets)
    return {"values": {name: list(values) for name, values in lr_multipliers(ratios, family).items()}}


def save_preset(studio: Studio, call: Call) -> Any:
    own.save_preset(studio.host.data_dir, call.given("name", str), call.given("values", str))
    return _presets(studio)


def delete_preset(studio: Studio, call: Call) -> Any:
    own.remove_preset(studio.host.data_dir, call.path["name"])
    return _presets(studio)


def save_prompts(studio: Studio, call: Call) -> Any:
    prompt_lists(studio.host).save(call.given("name", str), call.given("prompts", list))
    return _prompts(studio)


def delete_prompts(studio: Studio, call: Call) -> Any:
    prompt_lists(studio.host).remove(call.path["name"])
    return _prompts(studio)


def advice(studio: Studio, call: Call) -> Any:
    """What the strengths at which a LoRA is best say of its next training."""
    from lib_lora.evaluate.advice import advise
    from lib_lora.jobs.imports.lora import options_from_lora

    path = find_lora(studio.host, call.given("lora", str))
    try:
        trained = options_from_lora(path, studio.host).values
    except StudioError:  # it says nothing of its training, which the advice then is without
        trained = {}
    found = advise(_number(call, "unet"), _number(call, "te"), trained)
    return {"values": dict(found.values), "why": list(found.why)}


def best(studio: Studio, call: Call) -> Any:
    """Write into a LoRA's metadata which checkpoint it works best in."""
    from lib_lora.evaluate.best import note_checkpoint

    path = find_lora(studio.host, call.given("lora", str))
    checkpoint = checkpoint_file(Path(call.given("checkpoint", str)), studio.host, "checkpoint")
    hint = note_checkpoint(path, checkpoint.stem)
    studio.host.lora_written(path)
    return {"text": hint}


def table(studio: Studio, call: Call) -> Any:
    """The CSV of a grid or an analysis, as far as it is."""
    job = find_job(studio, call.path["id"])
    text = table_of(job)
    if text is None:
        raise not_found("this job has made no table", field="id", came=job.id)
    headers = {"Cache-Control": "no-store", "Content-Disposition": f'attachment; filename="{job.spec.kind}.csv"'}
    return PlainTextResponse(text, headers=headers, media_type="text/csv")


def _presets(studio: Studio) -> dict[str, Any]:
    presets = own.Presets.load(studio.host.data_dir)
    views = [{"name": name, "values": values, "own": name in presets.own} for name, values in presets.items()]
    return {"presets": views, "preset_notes": list(presets.notes)}


def _prompts(studio: Studio) -> dict[str, Any]:
    """The lists that can be read, and a sentence on each other."""
    lists, views, notes = prompt_lists(studio.host), [], []
    for name in lists.names():
        try:
            views.append({"name": name, "prompts": list(lists.read(name))})
        except StudioError as fault:
            notes.append(f"list of prompts {name}: {fault.problem}")
    return {"prompts": views, "prompt_notes": notes}


def _family(call: Call) -> Family:
    text = call.given("family", str)
    names = [family.value for family in Family]
    if text not in names:
        raise StudioError("not allowed", field="family", came=text, allowed=names)
    return Family(text)


def _number(call: Call, name: str, default: float | None = None) -> float:
    value = call.body.get(name, default)
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise StudioError("not allowed", field=name, came=value, allowed="a number")
    return number
