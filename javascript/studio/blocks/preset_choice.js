// The presets of block weights: the built-in ones and one's own, which are kept on the server.

import { post, remove } from "../api.js";
import { askText, confirm, tell } from "../dialogs.js";
import { button, h, put, show } from "../dom.js";
import { attempt } from "../presets.js";

export class PresetChoice {
  /**
   * @param {import("./vector.js").Vector} vector
   * @param {{presets: () => {name: string, values: string, own: boolean}[], reload: () => Promise<void>,
   *   take: (name: string) => void}} look `take` brings a preset into the vector
   */
  constructor(vector, look) {
    Object.assign(this, { vector, look, drawn: null });
    this.list = h("select", { class: "ls-input", "aria-label": "Preset", onchange: () => look.take(this.list.value) });
    this.delete = button("Delete", () => this.remove(), { title: "Delete this preset of yours" });
    this.element = h(
      "div",
      { class: "ls-row ls-small ls-preset-row" },
      this.list,
      button("Save as …", () => this.save(), { title: "Keep these block weights as a preset of yours" }),
      this.delete,
      button("Reset", () => vector.load(vector.names.map(() => "1")), { title: "Every block back to 1" }),
    );
    vector.addEventListener("change", () => this.follow());
  }

  draw() {
    const all = this.look.presets();
    const group = (label, presets) =>
      presets.length > 0 &&
      h(
        "optgroup",
        { label },
        presets.map(({ name, values }) => h("option", { value: name, title: values }, name)),
      );
    put(
      this.list,
      h("option", { value: "", disabled: true, hidden: true }, "Preset …"),
      group(
        "Yours",
        all.filter((preset) => preset.own),
      ),
      group(
        "Built in",
        all.filter((preset) => !preset.own),
      ),
    );
    this.follow();
  }

  follow() {
    const chosen = this.vector.preset ?? "";
    this.list.value = chosen;
    show(this.delete, this.look.presets().find((preset) => preset.name === chosen)?.own);
  }

  /** @param {string} values the vector's, unless others are given */
  async save(values = this.vector.list) {
    const own = this.look.presets().find((preset) => preset.own && preset.name === this.vector.preset);
    const name = await askText("Save as a preset", "Name", own?.name ?? "", "Save");
    if (!name) return;
    const taken = this.look.presets().some((preset) => preset.own && preset.name === name);
    if (taken && !(await confirm("Replace the preset", `A preset of yours is called ${name}.`, "Replace"))) return;
    await attempt(async () => {
      await post("blocks/presets", { name, values });
      await this.look.reload();
      this.look.take(name);
      tell(`The preset ${name} is saved. In a prompt it is lbw=${name}.`);
    });
  }

  async remove() {
    const name = this.vector.preset;
    if (!(await confirm("Delete the preset", `The preset ${name} is deleted. The sliders stay.`, "Delete"))) return;
    await attempt(async () => {
      await remove(`blocks/presets/${encodeURIComponent(name)}`);
      this.vector.load(this.vector.entries);
      await this.look.reload();
    });
  }
}
