// What was done to the dataset, to be taken back and done again, also after a restart.

import { get } from "../api.js";
import { ask, tell } from "../dialogs.js";
import { button, h, put } from "../dom.js";
import { clock, count } from "../format.js";
import { attempt } from "../presets.js";

export class History {
  /**
   * @param {import("./store.js").Dataset} dataset
   * @param {import("./selection.js").Selection} selection
   * @param {import("./captions.js").Captions} captions
   */
  constructor(dataset, selection, captions) {
    Object.assign(this, { dataset, selection, captions });
    this.undoButton = button("Undo", () => this.undo(), { kind: "tool", icon: "undo" });
    this.redoButton = button("Redo", () => this.redo(), { kind: "tool", icon: "redo" });
    const open = button("History", () => attempt(() => this.open()), { kind: "tool", icon: "clock" });
    this.buttons = h("span", { class: "ls-inline" }, this.undoButton, this.redoButton, open);
    this.list = h("ol", { class: "ls-history" });
    dataset.addEventListener("status", () => this.draw());
    this.draw();
  }

  draw() {
    const { undo = null, redo = null } = this.dataset.status ?? {};
    for (const [element, what, word, keys] of [
      [this.undoButton, undo, "Undo", "Ctrl+Z"],
      [this.redoButton, redo, "Redo", "Ctrl+Y"],
    ]) {
      element.disabled = what === null;
      element.title = what === null ? `Nothing to ${word.toLowerCase()}` : `${word} (${keys}): ${what}`;
    }
    const seen = `${this.dataset.version} ${undo} ${redo}`;
    if (this.list.isConnected && seen !== this.seen) attempt(() => this.load());
    this.seen = seen;
  }

  /** All that was done, the latest first. */
  async open() {
    await this.captions.save();
    await this.load();
    const words = "What was done to this folder, the latest first. It is kept in the folder, in .lora_studio.";
    await ask(
      "History",
      () => [
        h("p", { class: "ls-help" }, words),
        h(
          "div",
          { class: "ls-row ls-small" },
          button("Undo", () => this.undo()),
          button("Redo", () => this.redo()),
          h("span", { class: "ls-grow" }),
          button(`First captions of ${count(this.selection.size, "chosen picture")}`, () => this.first(), {
            title: "Bring back what stood there before anything was done here",
            disabled: this.selection.size === 0,
          }),
        ),
        this.list,
      ],
      [],
    );
  }

  async load() {
    if (!this.dataset.isOpen) return;
    const { entries } = await get(this.dataset.route("history"));
    put(
      this.list,
      entries.length === 0 && h("li", { class: "ls-empty" }, "Nothing has been changed here yet."),
      entries.map((each) =>
        h(
          "li",
          { class: each.undone ? "ls-undone" : "" },
          h("span", { class: "ls-grow" }, each.what),
          h("span", { class: "ls-count" }, each.undone ? "taken back" : count(each.count, "picture")),
          h("time", { class: "ls-count" }, clock(each.time)),
        ),
      ),
    );
  }

  first() {
    return this.change("captions/first", { ids: this.selection.list() });
  }

  undo() {
    return this.step("undo");
  }

  redo() {
    return this.step("redo");
  }

  async step(which) {
    await this.captions.saveFilled(); // what was typed last is what is taken back first
    if (this.dataset.status?.[which] !== null) await this.change(which);
  }

  async change(path, body) {
    try {
      const { conflicts } = await this.dataset.change(path, body);
      if (conflicts.length) tellConflicts(conflicts, this.dataset);
    } catch (error) {
      tell(error.message, "error");
    }
  }
}

/** What was left alone because somebody else has changed it. */
export function tellConflicts(conflicts, dataset) {
  const first = conflicts[0];
  const more = conflicts.length > 1 ? ` and ${count(conflicts.length - 1, "more")}` : "";
  tell(`Left as it is: ${dataset.name(first.id) || "a file"}${more}: ${first.why}`, "error");
}
