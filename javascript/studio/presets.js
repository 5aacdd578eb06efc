// Presets: values for a kind of LoRA, the guides' and one's own; and values out of a finished LoRA.

import { address, get, part, post, remove } from "./api.js";
import { ask, askText, confirm, tell } from "./dialogs.js";
import { button, h, newId, put, show, text } from "./dom.js";
import { count } from "./format.js";
import { chooseSettings, showTaken } from "./imports.js";

/** What is of one LoRA alone, and no part of a preset. */
export const PERSONAL = [
  "train_data_dir",
  "reg_data_dir",
  "pretrained_model_name_or_path",
  "vae",
  "model_source",
  "output_name",
  "output_subfolder",
  "activation_text",
  "notes",
  "overwrite",
  "resume",
  "sample_prompts",
  "sample_prompts_text",
  "training_comment",
];

export class Presets {
  /** @param {import("./form.js").Form} form  @param {Object[]} presets those of the server's schema */
  constructor(form, presets, chosen) {
    this.form = form;
    this.presets = presets;
    this.applied = presets.find((preset) => preset.id === chosen) ?? null;
    this.unsettled = false; // whether the steps that a preset asks for are to be made whole epochs
    this.list = h("select", { class: "ls-input", id: newId(), onchange: () => this.choose(this.list.value) });
    this.help = h("p", { class: "ls-help ls-preset-help" });
    this.remove = button("Delete", () => this.delete(), { title: "Delete this preset of yours" });
    this.element = h(
      "div",
      { class: "ls-field ls-presets" },
      h("div", { class: "ls-label-row" }, h("label", { class: "ls-label", for: this.list.id }, "Preset")),
      h(
        "div",
        { class: "ls-control" },
        this.list,
        h(
          "div",
          { class: "ls-row ls-small" },
          button("Save as …", () => this.save()),
          button("Export", () => this.export(), { title: "Download the chosen preset as a TOML file" }),
          button("Import …", () => this.import(), { title: "Add a preset from a TOML file" }),
          button("From a LoRA …", () => this.fromLora(), {
            title: "Fill the form with the settings of a finished LoRA",
          }),
          button("From elsewhere …", () => this.fromElsewhere(), {
            title: "Fill the form with settings of sd-scripts, kohya_ss, OneTrainer and others",
          }),
          this.remove,
        ),
      ),
      this.help,
    );
    this.draw();
  }

  draw() {
    const group = (label, presets) =>
      presets.length > 0 &&
      h(
        "optgroup",
        { label },
        presets.map((preset) => h("option", { value: preset.id }, preset.name)),
      );
    put(
      this.list,
      h("option", { value: "" }, "none"),
      group(
        "Yours",
        this.presets.filter((preset) => preset.own),
      ),
      group(
        "From the guides",
        this.presets.filter((preset) => !preset.own),
      ),
    );
    this.list.value = this.applied?.id ?? "";
    const source = this.applied?.source ? ` (${this.applied.source})` : "";
    text(
      this.help,
      this.applied
        ? `${this.applied.fault ?? this.applied.help}${source}`
        : "Values for a kind of LoRA. What you change afterwards stays yours.",
    );
    show(this.remove, this.applied?.own);
  }

  /** Take back what the last preset has set and nobody has changed since, then set what this one says. */
  choose(id) {
    const before = this.form.changes();
    const set = {
      ...this.applied?.values,
      ...(this.applied?.total_steps ? { max_train_steps: this.applied.total_steps } : {}),
    };
    for (const [name, value] of Object.entries(set)) {
      const untouched =
        name in before && String(before[name]) === String(Array.isArray(value) ? value.join(", ") : value);
      if (untouched) this.form.set(name, this.form.defaults[name], { quiet: true });
    }
    this.applied = this.presets.find((preset) => preset.id === id) ?? null;
    const steps = this.applied?.total_steps;
    this.unsettled = Boolean(steps);
    this.form.fill({ ...this.applied?.values, ...(steps ? { max_train_steps: steps, max_train_epochs: null } : {}) });
    this.draw();
  }

  async reload(chosen) {
    this.presets = (await get("form")).presets;
    this.applied = this.presets.find((preset) => preset.own && preset.name === chosen) ?? null;
    this.draw();
    this.form.onchange();
  }

  async save() {
    const name = await askText("Save as a preset", "Name", this.applied?.own ? this.applied.name : "", "Save");
    if (!name) return;
    const values = Object.fromEntries(Object.entries(this.form.changes()).filter(([key]) => !PERSONAL.includes(key)));
    await attempt(async () => {
      await post(`presets/${part(name)}`, { name, values });
      await this.reload(name);
      tell(`The preset ${name} is saved.`);
    });
  }

  export() {
    if (!this.applied) return tell("Choose a preset to export, or save one first.");
    h("a", { href: address(`presets/${part(this.applied.id)}/toml`), download: `${this.applied.name}.toml` }).click();
  }

  import() {
    const input = h("input", { type: "file", accept: ".toml" });
    input.addEventListener("change", () =>
      attempt(async () => {
        const preset = await post("presets", {
          toml: await input.files[0].text(),
          name: input.files[0].name.replace(/\.toml$/i, ""),
        });
        await this.reload(preset.name);
        this.choose(this.applied?.id ?? "");
        tell(`The preset ${preset.name} is there and chosen.`);
      }),
    );
    input.click();
  }

  async delete() {
    const { name } = this.applied;
    if (!(await confirm("Delete the preset", `The preset ${name} is deleted. The form keeps its values.`, "Delete")))
      return;
    await attempt(async () => {
      await remove(`presets/${part(name)}`);
      await this.reload(null);
    });
  }

  async fromLora() {
    const file = await chooseLora();
    if (file) await this.takeOver("metadata", { file });
  }

  async fromElsewhere() {
    const given = await chooseSettings();
    if (given?.trim()) await this.takeOver("import", { text: given });
  }

  /** Fill the form with what the server makes of other settings, and say what became of each. */
  async takeOver(route, body) {
    await attempt(async () => {
      const found = await post(route, body);
      this.form.clear(PERSONAL);
      this.applied = null;
      const unknown = this.form.fill(found.values);
      found.left_out.push(...unknown.map((key) => ({ key, why: "is not asked for in this form" })));
      this.draw();
      if (found.changed.length > 0 || found.left_out.length > 0) await showTaken(found);
      else tell(`${count(found.understood.length, "setting")} taken over.`);
    });
  }
}

/** Run what asks the server; its refusal becomes a message. */
export async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    tell(error.message, "error");
    return null;
  }
}

async function chooseLora() {
  const loras = await attempt(() => get("loras"));
  if (!loras) return null;
  const list = h("div", { class: "ls-folders" });
  return ask(
    "Settings of a LoRA",
    (close) => {
      const draw = (word) =>
        put(
          list,
          loras
            .filter((lora) => lora.name.toLowerCase().includes(word.toLowerCase()))
            .map((lora) =>
              h(
                "button",
                { type: "button", class: "ls-folder", onclick: () => close(lora.file) },
                h("span", {}, lora.name),
              ),
            ),
          loras.length === 0 && h("p", { class: "ls-empty" }, "The LoRA folder is empty."),
        );
      draw("");
      return [
        h("input", {
          type: "search",
          class: "ls-input",
          placeholder: "Search",
          "aria-label": "Search LoRAs",
          oninput: (event) => draw(event.target.value),
        }),
        list,
      ];
    },
    [{ label: "Cancel", value: null }],
  );
}
