// How the pictures are made: prompts, seeds, sampler, size; and lists of prompts that are kept on the server.

import { post, remove } from "../api.js";
import { askText, confirm, tell } from "../dialogs.js";
import { button, h, put, show, text } from "../dom.js";
import { Form } from "../form.js";
import { count } from "../format.js";
import { attempt } from "../presets.js";
import { linesOf, toLines } from "./several.js";

const SHOWN = ["prompts", "negative_prompt"];
const FOLDED = ["sampler", "steps", "cfg_scale", "width", "height", "clip_skip"];

export class PicturesForm {
  /**
   * @param {import("./store.js").Store} store
   * @param {() => void} onchange
   */
  constructor(store, onchange) {
    Object.assign(this, { store, onchange });
    const names = new Set([...SHOWN, ...FOLDED, "seeds"]);
    const options = store.options("grid").filter((option) => names.has(option.name));
    const checkpoint = store.options("analyse").find((option) => option.name === "checkpoint");
    this.form = new Form(
      {
        groups: [{ name: "Pictures", options: [...options, { ...checkpoint, optional: false }] }],
        defaults: store.forms.grid.defaults,
      },
      () => this.changed(),
    );
    this.summary = h("span", { class: "ls-count" });
    this.element = h(
      "div",
      { class: "ls-pictures-form" },
      this.form.field("prompts", {
        label: "Prompts",
        help: "One a line; the LoRA is put in by itself",
        placeholder: "photo of a cat, best quality",
        rows: 2,
      }),
      this.savedPart(),
      this.form.field("negative_prompt", { label: "Negative prompt", help: "", rows: 1 }),
      h(
        "div",
        { class: "ls-pairs" },
        this.form.field("seeds", { label: "Seeds", after: this.moreSeeds(), help: "Several with commas: 1, 2, 3" }),
        this.form.field("checkpoint", {
          label: "Checkpoint",
          help: "",
          choices: this.checkpoints(),
          other: "another file …",
        }),
      ),
      this.foldedPart(),
    );
  }

  checkpoints() {
    const { checkpoints } = this.store;
    const usual = checkpoints.some((file) => file.loaded) ? "the loaded one" : "the one that the LoRA was trained on";
    return [["", usual], ...checkpoints.map(({ path, name }) => [path, name])];
  }

  moreSeeds() {
    return button("Another", () => {
      const seeds = this.form.values.seeds;
      const next = Math.floor(Math.random() * 2 ** 31);
      this.form.set("seeds", seeds.trim() ? `${seeds}, ${next}` : String(next));
    });
  }

  foldedPart() {
    const look = { sampler: { choices: this.store.samplers.map((name) => [name, name]), other: "another one …" } };
    const part = h(
      "details",
      { class: "ls-group" },
      h("summary", {}, h("span", {}, "Sampler and size"), this.summary),
      h(
        "div",
        { class: "ls-grid" },
        FOLDED.map((name) => this.form.field(name, look[name])),
      ),
    );
    part.addEventListener("ls-reveal", () => (part.open = true));
    return part;
  }

  /** Lists of prompts: to choose, to keep, to delete. */
  savedPart() {
    this.saved = h("select", {
      class: "ls-input",
      "aria-label": "Saved prompts",
      onchange: () => this.takeSaved(this.saved.value),
    });
    this.drop = button("Delete", () => this.deleteSaved(), { title: "Delete this list of prompts" });
    this.store.addEventListener("change", () => this.drawSaved());
    this.drawSaved();
    return h(
      "div",
      { class: "ls-row ls-small ls-saved-row" },
      this.saved,
      button("Save the prompts …", () => this.save()),
      this.drop,
    );
  }

  drawSaved(chosen = this.saved.value) {
    const { prompts } = this.store;
    put(
      this.saved,
      h("option", { value: "" }, prompts.length ? "Saved prompts …" : "No saved prompts"),
      prompts.map(({ name, prompts: lines }) =>
        h("option", { value: name }, `${name} (${count(lines.length, "prompt")})`),
      ),
    );
    this.saved.value = prompts.some((list) => list.name === chosen) ? chosen : "";
    this.saved.disabled = prompts.length === 0;
    show(this.drop, this.saved.value);
  }

  takeSaved(name) {
    const list = this.store.prompts.find((each) => each.name === name);
    if (list) this.form.set("prompts", toLines(list.prompts));
    show(this.drop, list);
  }

  async save() {
    const prompts = linesOf(this.form.values.prompts);
    if (prompts.length === 0) return tell("There is no prompt to save yet.");
    const name = await askText("Save the prompts", "Name", this.saved.value, "Save");
    if (!name) return null;
    return attempt(async () => {
      await post("blocks/prompts", { name, prompts });
      await this.store.load();
      this.drawSaved(name);
      tell(`${count(prompts.length, "prompt")} saved as ${name}.`);
    });
  }

  async deleteSaved() {
    const name = this.saved.value;
    if (!(await confirm("Delete the list", `The list of prompts ${name} is deleted. The field stays.`, "Delete")))
      return;
    await attempt(async () => {
      await remove(`blocks/prompts/${encodeURIComponent(name)}`);
      await this.store.load();
    });
  }

  changed() {
    const { sampler, steps, width, height } = this.form.values;
    text(this.summary, `${sampler}, ${steps} steps, ${width} × ${height}`);
    this.onchange();
  }

  /** How many pictures each combination of the rest takes. */
  get number() {
    const seeds = this.form.values.seeds.split(",").filter((each) => each.trim());
    return Math.max(1, linesOf(this.form.values.prompts).length) * Math.max(1, seeds.length);
  }

  submitted() {
    const { checkpoint, ...values } = this.form.submitted();
    return [{ ...values, prompts: linesOf(values.prompts) }, checkpoint || null];
  }

  /** Values of a job. */
  fill(values) {
    const { prompts = [], checkpoint = values.checkpoints?.[0] ?? null } = values;
    this.form.fill({
      ...Object.fromEntries(Object.entries(values).filter(([name]) => this.form.has(name))),
      prompts: toLines(prompts),
      checkpoint,
    });
  }
}
