"""The table of routes, and how one is answered."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lib_lora.api import (
    blocks,
    dataset,
    dataset_edits,
    dataset_health,
    dataset_metadata,
    dataset_pictures,
    dataset_tagging,
    dataset_tasks,
    dataset_tools,
    forms,
    jobs,
    loras,
    pictures,
    receive,
    tag_lists,
    tools,
)
from lib_lora.api.call import Call, error_response, json_response, not_found
from lib_lora.api.guard import Guard
from lib_lora.api.studio import Studio
from lib_lora.base.errors import StudioError

ROOT = "/lora-studio"
_NAME = "lora-studio "  # of our routes, so that adding them again finds the old ones

_log = logging.getLogger(__name__)


# Called in a thread of its own; gives a Response, or what JSON can hold.
Handler = Callable[[Studio, Call], Any]

_PAGE_ROUTES: list[tuple[str, str, Handler]] = [
    ("GET", "static/{path:path}", pictures.static_file),
    ("GET", "form", forms.form),
    ("POST", "plan", forms.plan),
    ("GET", "folder", forms.folder),
    ("POST", "metadata", forms.metadata),
    ("POST", "import", forms.settings),
    ("POST", "cache", forms.limit_cache),
    ("POST", "cache/clear", forms.clear_cache),
    ("GET", "presets", forms.presets),
    ("POST", "presets", forms.save_preset),
    ("GET", "presets/{name:path}/toml", forms.preset_toml),
    ("GET", "presets/{name:path}", forms.preset),
    ("POST", "presets/{name:path}", forms.save_preset),
    ("DELETE", "presets/{name:path}", forms.delete_preset),
    ("GET", "jobs", jobs.all_jobs),
    ("POST", "jobs", jobs.add),
    ("GET", "jobs/{id}", jobs.one),
    ("GET", "jobs/{id}/events", jobs.events),
    ("GET", "jobs/{id}/log", jobs.log),
    ("GET", "jobs/{id}/pictures/{name}", pictures.preview),
    ("POST", "jobs/{id}/{action}", jobs.act),
    ("POST", "queue", jobs.when_done),
    ("POST", "pictures", receive.receive),
    ("GET", "jobs/{id}/picture", tools.chart),
    ("GET", "jobs/{id}/csv", blocks.table),
    ("GET", "blocks", blocks.overview),
    ("GET", "blocks/norms", blocks.norms),
    ("POST", "blocks/vector", blocks.vector),
    ("POST", "blocks/rates", blocks.rates),
    ("POST", "blocks/presets", blocks.save_preset),
    ("DELETE", "blocks/presets/{name:path}", blocks.delete_preset),
    ("POST", "blocks/prompts", blocks.save_prompts),
    ("DELETE", "blocks/prompts/{name}", blocks.delete_prompts),
    ("POST", "blocks/advice", blocks.advice),
    ("POST", "blocks/best", blocks.best),
    ("GET", "tools", tools.all_tools),
    ("POST", "tools/{name}/plan", tools.plan),
    ("GET", "loras", loras.all_loras),
    ("GET", "loras/{name:path}/card", loras.card),
    ("POST", "loras/{name:path}/card", loras.write_card),
    ("GET", "loras/{name:path}/picture", loras.picture),
    ("POST", "dataset/open", dataset.open_folder),
    ("GET", "dataset/edits", dataset_edits.form),
    ("GET", "dataset/health", dataset_health.form),
    ("GET", "dataset/tagging", dataset_tagging.form),
    ("GET", "dataset/metadata", dataset_metadata.form),
    ("GET", "dataset/tools", dataset_tools.form),
    ("GET", "dataset/tag-lists", tag_lists.all_lists),
    ("POST", "dataset/tag-lists", tag_lists.add),
    ("DELETE", "dataset/tag-lists/{name}", tag_lists.remove),
    ("GET", "dataset/tag-groups", tag_lists.groups),
    ("POST", "dataset/tag-groups", tag_lists.write_groups),
    ("GET", "dataset/{id}", dataset.status),
    ("GET", "dataset/{id}/items", dataset.items),
    ("GET", "dataset/{id}/items/{item}", dataset.item),
    ("GET", "dataset/{id}/thumb/{item}", dataset_pictures.thumb),
    ("GET", "dataset/{id}/picture/{item}", dataset_pictures.picture),
    ("POST", "dataset/{id}/filter", dataset.filtered),
    ("POST", "dataset/{id}/tags", dataset.tags),
    ("POST", "dataset/{id}/parts", dataset.parts),
    ("GET", "dataset/{id}/complete", dataset.complete),
    ("POST", "dataset/{id}/captions", dataset.write_captions),
    ("POST", "dataset/{id}/edit/preview", dataset_edits.preview),
    ("POST", "dataset/{id}/edit/apply", dataset_edits.apply),
    ("POST", "dataset/{id}/edit/run", dataset_edits.run),
    ("GET", "dataset/{id}/history", dataset.history),
    ("GET", "dataset/{id}/kept", dataset.kept),
    ("POST", "dataset/{id}/trash/empty", dataset.empty_trash),
    ("POST", "dataset/{id}/history/forget", dataset.forget_history),
    ("POST", "dataset/{id}/undo", dataset.undo),
    ("POST", "dataset/{id}/redo", dataset.redo),
    ("POST", "dataset/{id}/refresh", dataset.refresh),
    ("POST", "dataset/{id}/move", dataset.move),
    ("POST", "dataset/{id}/copy", dataset.copy),
    ("POST", "dataset/{id}/trash", dataset.trash),
    ("POST", "dataset/{id}/rename", dataset.rename),
    ("POST", "dataset/{id}/captions/delete", dataset.delete_captions),
    ("POST", "dataset/{id}/captions/first", dataset.first_captions),
    ("POST", "dataset/{id}/metadata/preview", dataset_metadata.preview),
    ("POST", "dataset/{id}/metadata/take", dataset_metadata.take),
    ("POST", "dataset/{id}/metadata/give", dataset_metadata.give),
    ("GET", "dataset/{id}/task", dataset_tasks.task),
    ("POST", "dataset/{id}/task/stop", dataset_tasks.stop),
    ("GET", "dataset/{id}/health", dataset_health.report),
    ("POST", "dataset/{id}/health", dataset_health.check),
    ("POST", "dataset/{id}/health/preview", dataset_health.preview_fix),
    ("POST", "dataset/{id}/health/fix", dataset_health.apply_fix),
    ("GET", "dataset/{id}/tagging", dataset_tagging.stored),
    ("GET", "dataset/{id}/tagging/{item}", dataset_tagging.scores_of),
    ("POST", "dataset/{id}/tagging/count", dataset_tagging.count),
    ("POST", "dataset/{id}/tagging/preview", dataset_tagging.preview),
    ("POST", "dataset/{id}/tagging/write", dataset_tagging.write),
    ("POST", "dataset/{id}/tagging/disagreements", dataset_tagging.disagreements),
    ("POST", "dataset/{id}/tools/{tool}", dataset_tools.use),
    ("POST", "dataset/{id}/box/{item}", dataset_tools.suggest),
    ("GET", "dataset/{id}/mask/{item}", dataset_tools.mask),
    ("POST", "dataset/{id}/mask/{item}", dataset_tools.paint),
    ("DELETE", "dataset/{id}/mask/{item}", dataset_tools.remove_mask),
]
_SCRIPT_ROUTES: list[tuple[str, str, Handler]] = [
    ("GET", "api/jobs", jobs.all_jobs),
    ("POST", "api/jobs", jobs.add),
    ("GET", "api/jobs/{id}", jobs.one),
    ("GET", "api/jobs/{id}/events", jobs.events),
    ("POST", "api/jobs/{id}/stop", jobs.stop),
]
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def add_routes(app: Any, studio: Studio, guard: Guard) -> None:
    """Add the routes to a FastAPI or Starlette app, in front of its own; those of an earlier call are replaced.

    Each has its whole path: a mounted app would not be found behind a proxy that has taken ``--subpath`` off.
    """
    made = [_route(*entry, studio, guard.check_page) for entry in _PAGE_ROUTES]
    if guard.api:
        made += [_route(*entry, studio, guard.check_api) for entry in _SCRIPT_ROUTES]
    # The last one, so that neither gradio's pages nor its CORS rules answer for us.
    made += [_route(method, "{path:path}", _nothing, studio, guard.check_page) for method in _METHODS]
    routes = app.router.routes
    routes[:] = made + [route for route in routes if not str(getattr(route, "name", "")).startswith(_NAME)]


def _route(method: str, path: str, handler: Handler, studio: Studio, check: Callable[..., Any]) -> Route:
    async def endpoint(request: Request) -> Response:
        try:
            await check(request, exposed=studio.host.exposed())
            answer = await run_in_threadpool(handler, studio, await Call.read(request))
        except StudioError as error:
            return error_response(error)
        except Exception as error:
            _log.exception("%s %s", request.method, request.url.path)
            return error_response(StudioError(f"{type(error).__name__}: {error}"), 500)
        return answer if isinstance(answer, Response) else json_response(answer)

    return Route(f"{ROOT}/{path}", endpoint, methods=[method], name=f"{_NAME}{method} {path}", include_in_schema=False)


def _nothing(studio: Studio, call: Call) -> Any:
    raise not_found("there is nothing here", came=call.path["path"])
