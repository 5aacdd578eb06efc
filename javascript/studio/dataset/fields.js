// An edit's or a tool's options: the usual ones, and the rest folded away.

import { h } from "../dom.js";

/** @param {import("../form.js").Form} form  @param {Object[]} options the server's  @param {Object} looks by name */
export function optionFields(form, options, looks = {}) {
  const fields = (level) =>
    options
      .filter((option) => (option.level === "advanced") === level)
      .map((option) => form.field(option.name, looks[option.name]));
  const rest = fields(true);
  return [
    h("div", { class: "ls-batch-fields" }, fields(false)),
    rest.length > 0 &&
      h(
        "details",
        { class: "ls-more" },
        h("summary", {}, "More options"),
        h("div", { class: "ls-batch-fields" }, rest),
      ),
  ];
}
