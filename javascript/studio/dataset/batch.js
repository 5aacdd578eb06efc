// One edit on many captions: what, on which of them, and what it would change, before it does.

import { get, post } from "../api.js";
import { tell } from "../dialogs.js";
import { button, debounce, h, put, show, text } from "../dom.js";
import { Form } from "../form.js";
import { count } from "../format.js";
import { attempt } from "../presets.js";
import { optionFields } from "./fields.js";
import { exampleRows } from "./preview.js";
import { Scope } from "./scope.js";

export class Batch {
  /**
   * @param {import("./store.js").Dataset} dataset
   * @param {import("./selection.js").Selection} selection
   * @param {{edit: (edit: string, values: Object, ids: number[]) => Promise<{changed: number[]}>}} look
   */
  constructor(dataset, selection, look) {
    Object.assign(this, { dataset, look });
    this.scope = new Scope(dataset, selection, () => this.soon());
    this.fields = h("div", { class: "ls-panel" });
    this.help = h("p", { class: "ls-help" });
    this.kind = h("select", { class: "ls-input", "aria-label": "Edit", onchange: () => this.choose(this.kind.value) });
    this.apply = button("Change", () => this.run(), { kind: "primary", disabled: true });
    this.error = h("p", { class: "ls-error", role: "alert", hidden: true });
    this.examples = h("ul", { class: "ls-examples", "aria-label": "Before and after" });
    this.element = h(
      "div",
      { class: "ls-panel" },
      this.kind,
      this.help,
      this.fields,
      this.scope.element,
      h("div", { class: "ls-row" }, this.apply),
      this.error,
      this.examples,
    );
    this.soon = debounce(() => this.preview(), 180);
    dataset.addEventListener("captions", () => this.soon());
    dataset.addEventListener("opened", () => attempt(() => this.load()));
  }

  /** Asked for once: a second answer would take back what a person has chosen meanwhile. */
  load() {
    if (this.edits) return this.soon();
    this.loading ??= this.loadEdits().finally(() => (this.loading = null));
    return this.loading;
  }

  async loadEdits() {
    ({ edits: this.edits } = await get("dataset/edits"));
    put(
      this.kind,
      this.edits.map((each) => h("option", { value: each.name }, each.label)),
    );
    return this.choose(this.edits[0].name);
  }

  choose(name) {
    this.kind.value = name;
    this.edit = this.edits.find((each) => each.name === name);
    text(this.help, this.edit.help);
    const options = this.edit.options;
    this.form = new Form({ groups: [{ name: "", options }], defaults: this.edit.defaults }, () => this.soon());
    put(this.fields, optionFields(this.form, options));
    this.soon();
  }

  get body() {
    return { edit: this.edit.name, values: this.form.submitted(), ids: this.scope.ids };
  }

  async preview() {
    if (!this.edit || !this.dataset.isOpen || !this.element.offsetParent) return;
    const turn = (this.turn = (this.turn ?? 0) + 1);
    let answer;
    try {
      answer = await post(this.dataset.route("edit/preview"), this.body);
    } catch (error) {
      if (turn === this.turn) this.fail(error);
      return;
    }
    if (turn !== this.turn) return;
    this.form.clearErrors();
    show(this.error, false);
    this.apply.disabled = answer.changed === 0;
    text(this.apply, answer.changed ? `Change ${count(answer.changed, "caption")}` : "Nothing to change");
    put(this.examples, exampleRows(this.dataset, answer.examples));
  }

  /** Nobody is told off for a form that is still empty. */
  fail(error) {
    this.apply.disabled = true;
    text(this.apply, "Change");
    put(this.examples);
    if (this.form.has(error.field)) {
      if (this.form.values[error.field] !== "") this.form.showError(error, { focus: false });
    } else {
      text(this.error, error.message);
      show(this.error, true);
    }
  }

  async run() {
    this.apply.disabled = true;
    text(this.apply, "Changing …");
    try {
      const { edit, values, ids } = this.body;
      const { changed } = await this.look.edit(edit, values, ids);
      tell(`${this.edit.label}: ${count(changed.length, "caption")} changed. Ctrl+Z takes it back.`);
    } catch (error) {
      if (!this.form.showError(error)) tell(error.message, "error");
    }
    this.soon();
  }
}
