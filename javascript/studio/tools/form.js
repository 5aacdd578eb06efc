// One tool's form, made of the server's options.

import { button, h, show, text } from "../dom.js";
import { capital, Form } from "../form.js";
import { Picker } from "../picker.js";
import { suggestName } from "./names.js";
import { Recipe } from "./recipe.js";

// What has its place elsewhere: a question at Start, the metadata's table.
const ELSEWHERE = new Set(["overwrite", "set", "remove", "thumbnail"]);
// Wanted by few: the server asks for it where it must be given.
const RARE = new Set(["base"]);
// Options that mean something beside certain values of others alone.
const NEEDED = {
  mode_param: (values) => values.mode !== "fixed",
  lokr_factor: (values) => values.network_type === "LoKr",
  dynamic_param: (values) => values.dynamic_method !== "",
  density: (values) => /ties|dare/.test(values.mode),
  seed: (values) => values.mode.startsWith("dare"),
};
const OUTPUT = "Output";

export class ToolForm {
  /**
   * @param {Object} tool of the server's answer to `tools`
   * @param {import("./files.js").Files} files
   * @param {Object} draft changed values of the last time
   * @param {() => void} onchange
   */
  constructor(tool, files, draft, onchange) {
    Object.assign(this, { tool, files, onchange, suggested: null });
    this.form = new Form(tool, (name) => this.changed(name));
    this.count = h("span", { class: "ls-count" });
    this.element = this.build();
    this.form.fill(draft);
  }

  build() {
    const { groups, label, help } = this.tool;
    const shown = groups.map((group) => ({
      ...group,
      options: group.options.filter((each) => !ELSEWHERE.has(each.name)),
    }));
    shown.sort((a, b) => (a.name === OUTPUT) - (b.name === OUTPUT)); // the sort keeps the others' order
    const isRare = (option) => option.level === "advanced" || RARE.has(option.name);
    const parts = shown.map(({ name, options }) =>
      this.part(
        name,
        options.filter((option) => !isRare(option)),
      ),
    );
    const rare = shown.flatMap(({ options }) => options.filter(isRare));
    const more = h(
      "details",
      { class: "ls-group" },
      h("summary", {}, h("span", {}, "More options"), this.count),
      h(
        "div",
        { class: "ls-grid" },
        rare.map((option) => this.field(option)),
      ),
    );
    more.addEventListener("ls-reveal", () => (more.open = true));
    this.rare = rare;
    return h(
      "section",
      { class: "ls-section ls-tool-form", "aria-label": label },
      h(
        "header",
        { class: "ls-section-head" },
        h("h2", {}, label),
        h("span", { class: "ls-grow" }),
        h(
          "div",
          { class: "ls-row ls-small" },
          button("Clear the form", () => this.clear()),
        ),
      ),
      h("p", { class: "ls-help" }, `${capital(help)}.`),
      parts,
      rare.length > 0 && more,
    );
  }

  part(name, options) {
    if (options.length === 0) return null;
    return h(
      "div",
      { class: "ls-tool-part" },
      h("h3", {}, name),
      h(
        "div",
        { class: "ls-pairs" },
        options.map((option) => this.field(option)),
      ),
    );
  }

  field(option) {
    const element = this.form.field(option.name, this.look(option));
    if (["loras", "lora", "checkpoint", "vae"].includes(option.kind)) element.classList.add("ls-whole-row");
    return element;
  }

  look(option) {
    const { files } = this;
    const label = option.label;
    const picker = (choices, nothing) => ({
      widget: (take) =>
        new Picker(take, { choices, label, nothing, placeholder: option.optional ? "none" : undefined }),
    });
    switch (option.kind) {
      case "lora":
        return picker(files.loras, "the LoRA folder is empty");
      case "checkpoint":
        return picker(files.checkpoints, "the host has no checkpoint");
      case "vae":
        return picker(files.vaes, "the host has no VAE");
      case "loras":
        return {
          label: "LoRAs",
          help: "TE and UNet: strengths in the text encoder and in the UNet, where they differ from the first",
          widget: (take) => new Recipe(take, { loras: files.loras, blockWeights: files.all.block_weights ?? [] }),
        };
    }
    if (option.kind === "output") return { help: "The file's name, without extension" };
    if (option.name === "output_subfolder")
      return {
        help: `Below the ${this.tool.writes === "lora" ? "LoRA" : "checkpoint"} folder`,
        choices: [["", "none"], ...(option.suggestions ?? []).map((name) => [name, name])],
        other: "a new one …",
      };
    return { help: this.inLabels(option.help) };
  }

  /** A help whose names of other options are what the form calls them. */
  inLabels(help) {
    return capital(help.replace(/\b(\w+_\w+|dim)\b/g, (name) => this.form.options.get(name)?.label ?? name));
  }

  changed(name) {
    if (name !== "output") this.followName();
    for (const [option, isNeeded] of Object.entries(NEEDED))
      if (this.form.fields.has(option)) show(this.form.fields.get(option).element, this.needs(option, isNeeded));
    const changed = this.rare.filter((option) => this.form.isChanged(option.name)).length;
    text(this.count, changed ? `${changed} changed` : "");
    this.onchange();
  }

  needs(option, isNeeded = NEEDED[option]) {
    return !isNeeded || isNeeded(this.form.values);
  }

  /** The name goes along with the rest of the form until a person has written one. */
  followName() {
    const { form, tool, files } = this;
    if (!form.has("output")) return;
    const taken = (name) => files.isTaken(tool.writes, form.values.output_subfolder, name);
    const free = suggestName(tool.name, form.values, taken);
    const plain = suggestName(tool.name, form.values, () => false);
    if (["", this.suggested, plain, free].includes(form.values.output)) {
      form.set("output", free, { quiet: true });
      this.suggested = free;
    }
  }

  clear() {
    this.form.clear();
    this.form.clearErrors();
  }

  /** The values for the server: what means nothing beside the others is at its default. */
  submitted() {
    const values = this.form.submitted();
    for (const name of Object.keys(values)) if (ELSEWHERE.has(name) || !this.needs(name)) delete values[name];
    return values;
  }
}
