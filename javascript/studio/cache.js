// The size of what is kept on disk between runs, its limit, and a way to be rid of it.

import { post } from "./api.js";
import { confirm } from "./dialogs.js";
import { button, h, newId, text } from "./dom.js";
import { bytes } from "./format.js";
import { attempt } from "./presets.js";

const GB = 2 ** 30;

export function cachePanel(cache) {
  const size = h("b", {});
  const limit = h("input", {
    class: "ls-input ls-number",
    id: newId(),
    inputmode: "decimal",
    value: cache.limit_bytes ? Number((cache.limit_bytes / GB).toFixed(2)) : "",
    onchange: () =>
      attempt(async () => draw(await post("cache", { limit_bytes: Math.round(Number(limit.value) * GB) }))),
  });

  const draw = (now) => text(size, bytes(now.bytes));
  draw(cache);
  const clear = () =>
    attempt(async () => {
      const sure = await confirm(
        "Clear the cache",
        "Encoded pictures and captions are deleted. The next run encodes its own anew.",
        "Clear",
      );
      if (sure) draw(await post("cache/clear"));
    });
  return h(
    "section",
    { class: "ls-section ls-cache", "aria-label": "Cache" },
    h("header", { class: "ls-section-head" }, h("h2", {}, "Cache")),
    h(
      "div",
      { class: "ls-row" },
      h("span", {}, size, " in ", h("code", {}, cache.folder)),
      h("span", { class: "ls-grow" }),
      h("label", { for: limit.id, class: "ls-label" }, "Limit"),
      limit,
      h("span", { class: "ls-unit" }, "GB"),
      button("Clear", clear),
    ),
  );
}
