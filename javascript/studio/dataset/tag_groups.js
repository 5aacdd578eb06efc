// A person's own groups of tags, a line for each: they are suggested, and are the kinds of the tags in them.

import { get, post } from "../api.js";
import { button, h, show, text } from "../dom.js";
import { attempt } from "../presets.js";

export class TagGroups {
  /** @param {() => void} onchange the tags' kinds are others now */
  constructor(onchange) {
    this.onchange = onchange;
    this.input = h("textarea", {
      class: "ls-input",
      rows: "5",
      spellcheck: "false",
      readonly: true, // until it is known what there is
      "aria-label": "Groups of tags",
      placeholder: "outfit: hat, * dress, red boots",
    });
    this.error = h("p", { class: "ls-error", role: "alert", hidden: true });
    this.element = h(
      "details",
      { class: "ls-more ls-tag-groups", ontoggle: () => this.element.open && attempt(() => this.load()) },
      h("summary", {}, "Groups of tags of your own"),
      h(
        "p",
        { class: "ls-help" },
        "A line for each: its name, a colon and its tags; * stands for any letters. They hold for all datasets.",
      ),
      this.input,
      this.error,
      h(
        "div",
        { class: "ls-row ls-small" },
        button("Save the groups", () => this.save()),
      ),
    );
  }

  async load() {
    this.take(await get("dataset/tag-groups"));
  }

  take({ text: content, problem }) {
    this.input.value = content;
    this.input.readOnly = false;
    this.fail(problem);
  }

  fail(problem) {
    text(this.error, problem ?? "");
    show(this.error, problem);
  }

  async save() {
    try {
      this.take(await post("dataset/tag-groups", { text: this.input.value }));
      this.onchange();
    } catch (error) {
      this.fail(error.message);
    }
  }
}
