// Making new pictures of old ones, moving them, and masks: the panel "Pictures".

import { get } from "../api.js";
import { confirm, tell } from "../dialogs.js";
import { button, h, put, text } from "../dom.js";
import { Form } from "../form.js";
import { count } from "../format.js";
import { cropByHand } from "./crop.js";
import { optionFields } from "./fields.js";
import { SURE_FROM } from "./files.js";
import { tellConflicts } from "./history.js";
import { paintMask } from "./mask.js";
import { Scope } from "./scope.js";
import { TaskView } from "./task.js";

export class PictureTools {
  /**
   * @param {import("./store.js").Dataset} dataset
   * @param {import("./selection.js").Selection} selection
   * @param {import("./captions.js").Captions} captions
   * @param {{files: Node}} look the buttons that move pictures
   */
  constructor(dataset, selection, captions, look) {
    Object.assign(this, { dataset, selection, captions });
    this.scope = new Scope(dataset, selection, () => this.drawStart());
    this.task = new TaskView(dataset);
    this.crop = button("Crop by hand …", () => this.byHand(cropByHand));
    this.mask = button("Paint a mask …", () => this.byHand(paintMask), {
      title: "Say which part of the picture training looks at",
    });
    this.kind = h("select", { class: "ls-input", "aria-label": "Tool", onchange: () => this.choose(this.kind.value) });
    this.help = h("p", { class: "ls-help" });
    this.fields = h("div", { class: "ls-panel" });
    const over = h("input", { type: "checkbox", class: "ls-check" });
    this.over = over;
    this.start = button("Use", () => this.run(), { kind: "primary" });
    this.element = h(
      "div",
      { class: "ls-panel" },
      h("h3", {}, "The chosen picture"),
      h("div", { class: "ls-row ls-small" }, this.crop, this.mask),
      h("h3", {}, "Many pictures"),
      this.kind,
      this.help,
      this.fields,
      this.scope.element,
      h("label", { class: "ls-inline" }, over, "in place of the originals, which go to the trash"),
      h("div", { class: "ls-row" }, this.start),
      this.task.element,
      h("h3", {}, "Files of the chosen pictures"),
      h("div", { class: "ls-row ls-small" }, look.files),
      h(
        "p",
        { class: "ls-help" },
        "Captions and masks go with their pictures. Drop picture files onto the gallery to add them.",
      ),
    );
    selection.addEventListener("selection", () => this.drawStart());
  }

  async load() {
    if (!this.tools) {
      ({ tools: this.tools } = await get("dataset/tools"));
      put(
        this.kind,
        this.tools.map((each) => h("option", { value: each.name }, each.label)),
      );
      this.choose(this.tools[0].name);
    }
    this.drawStart();
  }

  choose(name) {
    this.tool = this.tools.find((each) => each.name === name);
    text(this.help, this.tool.help);
    this.form = new Form({ groups: [{ name: "", options: this.tool.options }], defaults: {} }, () => {});
    put(this.fields, optionFields(this.form, this.tool.options));
    this.drawStart();
  }

  drawStart() {
    this.crop.disabled = this.mask.disabled = this.selection.size !== 1;
    if (!this.tool) return;
    const number = this.scope.ids.length;
    text(this.start, `${this.tool.label}: ${count(number, "picture")}`);
    this.start.disabled = number === 0;
  }

  async byHand(tool) {
    await this.captions.save();
    const [id] = this.selection.list();
    try {
      await tool(this.dataset, await this.dataset.item(id));
    } catch (error) {
      tell(error.message, "error");
    }
  }

  /** Asked before originals go, and before many new pictures come. */
  sure(number, over) {
    const many = count(number, "picture");
    if (over)
      return confirm(
        this.tool.label,
        `${many} are replaced; the originals go to the trash. Undo brings them back.`,
        "Replace",
      );
    if (number < SURE_FROM) return true;
    return confirm(this.tool.label, `Of ${many}? Undo takes it back.`, this.tool.label, "primary");
  }

  async run() {
    await this.captions.save();
    const { ids } = this.scope;
    const over = this.over.checked;
    if (!(await this.sure(ids.length, over))) return;
    this.start.disabled = true;
    this.form.clearErrors();
    try {
      const done = await this.task.run(`tools/${this.tool.name}`, { ids, over, values: this.form.submitted() });
      await this.dataset.follow(done.status);
      tell(`${count(done.added, "new picture")}. Ctrl+Z takes it back.`);
      if (done.conflicts.length) tellConflicts(done.conflicts, this.dataset);
    } catch (error) {
      if (!this.form.showError(error)) tell(error.message, "error");
    } finally {
      this.drawStart();
    }
  }
}
