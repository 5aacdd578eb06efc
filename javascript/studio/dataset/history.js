// What was done to the dataset, to be taken back and done again, also after a restart.

import { get } from "../api.js";
import { ask, confirm, tell } from "../dialogs.js";
import { button, h, put, text } from "../dom.js";
import { bytes, clock, count } from "../format.js";
import { attempt } from "../presets.js";

export class History {
  /**
   * @param {import("./store.js").Dataset} dataset
   * @param {import("./selection.js").Selection} selection
   * @param {import("./captions.js").Captions} captions
   * @param {{settle: () => Promise<void>}} look `settle` ends what is being done to a caption
   */
  constructor(dataset, selection, captions, look) {
    Object.assign(this, { dataset, selection, captions, look });
    this.undoButton = button("Undo", () => this.undo(), { kind: "tool", icon: "undo" });
    this.redoButton = button("Redo", () => this.redo(), { kind: "tool", icon: "redo" });
    const open = button("History", () => attempt(() => this.open()), { kind: "tool", icon: "clock" });
    this.buttons = h("span", { class: "ls-inline" }, this.undoButton, this.redoButton, open);
    this.list = h("ol", { class: "ls-history" });
    this.space = h("p", { class: "ls-help ls-grow" });
    this.empty = button("Empty the trash …", () => this.emptyTrash(), { kind: "stop" });
    this.forget = button("Forget the history …", () => this.forgetAll(), { kind: "stop" });
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
        h("div", { class: "ls-row ls-small" }, this.space, this.empty, this.forget),
      ],
      [],
    );
  }

  async load() {
    if (!this.dataset.isOpen) return;
    const { entries } = await get(this.dataset.route("history"));
    this.drawSpace(await get(this.dataset.route("kept")), entries.length);
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

  drawSpace({ trash_files: files, trash_bytes: trash, history_bytes: history }, entries) {
    this.kept = { files: count(files, "file"), trash: bytes(trash), entries: count(entries, "entry", "entries") };
    const inTrash = files ? `${this.kept.files} in the trash (${bytes(trash)})` : "nothing in the trash";
    text(this.space, history ? `On the disk: the history takes ${bytes(history)}, ${inTrash}.` : "");
    this.empty.disabled = files === 0;
    this.forget.disabled = entries === 0 && files === 0;
  }

  async emptyTrash() {
    const { files, trash } = this.kept;
    const words = `${files} in the trash, ${trash}, are deleted for good. Undo does not bring them back then.`;
    if (await confirm("Empty the trash", words, "Delete for good")) await this.change("trash/empty");
  }

  async forgetAll() {
    const { files, entries } = this.kept;
    const words =
      `${entries} of the history and ${files} in the trash are deleted for good. Captions and pictures stay as they ` +
      "are now, and nothing that was done before can be undone. First captions are kept.";
    if (await confirm("Forget the history", words, "Forget")) await this.change("history/forget");
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
    await this.look.settle();
    await this.captions.saveFilled(); // what was typed last is what is taken back first
    await this.change(which);
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
