// Captions from a metadata file (kohya's json, jsonl), and the captions as such a file.

import { get, post } from "../api.js";
import { tell } from "../dialogs.js";
import { button, h, put, show, text } from "../dom.js";
import { Form } from "../form.js";
import { count } from "../format.js";
import { attempt } from "../presets.js";
import { optionFields } from "./fields.js";
import { tellConflicts } from "./history.js";
import { exampleRows } from "./preview.js";
import { Scope } from "./scope.js";

const MOST_NAMES = 8;

export class Metadata {
  /**
   * @param {import("./store.js").Dataset} dataset
   * @param {import("./selection.js").Selection} selection
   * @param {import("./captions.js").Captions} captions
   */
  constructor(dataset, selection, captions) {
    Object.assign(this, { dataset, captions });
    this.given = null; // the file: {file, text}
    this.scope = new Scope(dataset, selection, () => this.preview());
    this.takeFields = h("div", { class: "ls-panel" });
    this.giveFields = h("div", { class: "ls-panel" });
    this.input = h("input", {
      type: "file",
      accept: ".json,.jsonl",
      hidden: true,
      "aria-label": "Metadata file",
      onchange: () => this.choose(this.input.files[0]),
    });
    this.file = h("span", { class: "ls-path" });
    this.take = button("Write the captions", () => this.run(), { kind: "primary", disabled: true });
    this.error = h("p", { class: "ls-error", role: "alert", hidden: true });
    this.leftOut = h("p", { class: "ls-help", hidden: true });
    this.examples = h("ul", { class: "ls-examples", "aria-label": "Before and after" });
    this.element = h(
      "details",
      {
        class: "ls-more ls-metadata",
        ontoggle: () => this.element.open && attempt(() => this.load()),
        ondragover: (event) => event.preventDefault(),
        ondrop: (event) => this.drop(event),
      },
      h("summary", {}, "Metadata files"),
      h("p", { class: "ls-help" }, "Files of kohya's scripts, such as meta_cap.json, and jsonl with a picture a line."),
      this.scope.element,
      h("h4", {}, "Captions from a file"),
      h(
        "div",
        { class: "ls-row ls-small" },
        button("Choose a file …", () => this.input.click()),
        this.file,
      ),
      this.input,
      this.takeFields,
      h("div", { class: "ls-row" }, this.take),
      this.error,
      this.leftOut,
      this.examples,
      h("h4", {}, "Captions into a file"),
      this.giveFields,
      h(
        "div",
        { class: "ls-row" },
        button("Save as json", () => this.save(false)),
        button("Save as jsonl", () => this.save(true)),
      ),
    );
    dataset.addEventListener("captions", () => this.preview());
    dataset.addEventListener("opened", () => this.forget());
  }

  async load() {
    if (!this.taking) await (this.making ??= this.makeForms().finally(() => (this.making = null)));
    return this.preview();
  }

  async makeForms() {
    const { take, give } = await get("dataset/metadata");
    this.taking = new Form({ groups: [{ name: "", options: take }], defaults: {} }, () => this.preview());
    this.giving = new Form({ groups: [{ name: "", options: give }], defaults: {} }, () => {});
    put(this.takeFields, optionFields(this.taking, take));
    put(this.giveFields, optionFields(this.giving, give));
  }

  /** A file belongs to the folder for which it was chosen. */
  forget() {
    this.given = null;
    this.draw({ changed: 0, examples: [], left_out: 0 });
    this.fail(null);
  }

  drop(event) {
    event.preventDefault();
    event.stopPropagation(); // the WebUI takes dropped files everywhere
    this.choose(event.dataTransfer.files[0]);
  }

  async choose(file) {
    if (!file) return;
    this.given = { file: file.name, text: await file.text() };
    this.input.value = "";
    await this.preview();
  }

  get body() {
    return { ...this.given, values: this.taking.submitted(), ids: this.scope.ids };
  }

  async preview() {
    if (!this.given || !this.taking || !this.dataset.isOpen || !this.element.offsetParent) return;
    const turn = (this.turn = (this.turn ?? 0) + 1);
    try {
      const answer = await post(this.dataset.route("metadata/preview"), this.body);
      if (turn !== this.turn) return;
      this.fail(null);
      this.draw(answer);
    } catch (error) {
      if (turn !== this.turn) return;
      this.draw({ changed: 0, examples: [], left_out: 0 });
      this.fail(error);
    }
  }

  draw({ changed, examples, unknown = [], ambiguous = [], left_out: leftOut }) {
    text(this.file, this.given?.file);
    this.take.disabled = changed === 0;
    const words = changed ? `Write ${count(changed, "caption")}` : "Nothing to write";
    text(this.take, this.given ? words : "Write the captions");
    put(this.examples, exampleRows(this.dataset, examples));
    const names = [...unknown, ...ambiguous];
    const more = leftOut > MOST_NAMES ? ` and ${count(leftOut - MOST_NAMES, "more")}` : "";
    const which = names.slice(0, MOST_NAMES).join(", ") + more;
    text(this.leftOut, `Not one of these pictures, or several: ${which}`);
    show(this.leftOut, leftOut > 0);
  }

  fail(error) {
    const elsewhere = error && !this.taking?.showError(error, { focus: false });
    text(this.error, elsewhere ? error.message : "");
    show(this.error, elsewhere);
  }

  async run() {
    await this.captions.save();
    this.take.disabled = true;
    try {
      const { changed, conflicts } = await this.dataset.change("metadata/take", this.body);
      tell(`${count(changed.length, "caption")} written. Ctrl+Z takes it back.`);
      if (conflicts.length) tellConflicts(conflicts, this.dataset);
    } catch (error) {
      this.fail(error);
    }
    await this.preview();
  }

  async save(lines) {
    await this.captions.save();
    const body = { ids: this.scope.ids, values: this.giving.submitted(), lines };
    try {
      const { text: content, captions } = await post(this.dataset.route("metadata/give"), body);
      const href = URL.createObjectURL(new Blob([content], { type: "application/json" }));
      h("a", { href, download: lines ? "metadata.jsonl" : "meta_cap.json" }).click();
      setTimeout(() => URL.revokeObjectURL(href), 60_000); // when the browser has surely begun
      tell(`${count(captions, "caption")} in the file.`);
    } catch (error) {
      if (!this.giving.showError(error)) tell(error.message, "error");
    }
  }
}
