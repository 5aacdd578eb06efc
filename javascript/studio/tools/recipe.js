// Which LoRAs, how strongly: as rows, or as a prompt to paste. Either way the value is the prompt's text.

import { button, h, newId, put, show } from "../dom.js";
import { Picker } from "../picker.js";
import { recall, remember } from "../memory.js";
import { emptyRow, hasTags, promptOf, rowsOf } from "./recipe_text.js";

const NUMBERS = [
  ["strength", "Strength", "How strongly it acts; negative takes it out"],
  ["te", "TE", "Strength in the text encoder, where it differs"],
  ["unet", "UNet", "Strength in the UNet, where it differs"],
];

export class Recipe {
  /**
   * @param {(prompt: string) => void} take
   * @param {{loras: () => import("../picker.js").Choice[], blockWeights: {name: string, values: string}[]}} look
   */
  constructor(take, { loras, blockWeights }) {
    Object.assign(this, { take, loras, value: "", rows: [emptyRow()] });
    this.presets = h(
      "datalist",
      { id: newId() },
      blockWeights.map((preset) => h("option", { value: preset.name }, preset.values)),
    );
    this.list = h("ol", { class: "ls-recipe-rows" });
    this.add = button("Add a LoRA", () => this.append());
    this.byRows = h("div", { class: "ls-recipe-part" }, this.list, h("div", { class: "ls-row ls-small" }, this.add));
    this.prompt = h("textarea", {
      class: "ls-input",
      rows: 4,
      spellcheck: "false",
      "aria-label": "LoRAs as a prompt",
      placeholder: "Paste a prompt: <lora:zorb:0.7> <lora:style:1:0.5:lbw=OUTD>",
      oninput: () => this.tell(this.prompt.value),
    });
    this.ways = ["Rows", "Prompt"].map((way) =>
      h("button", { type: "button", role: "radio", class: "ls-segment", onclick: () => this.look(way) }, way),
    );
    this.control = h(
      "div",
      { class: "ls-recipe", role: "group", tabindex: "-1" },
      h("div", { class: "ls-segments", role: "radiogroup", "aria-label": "LoRAs as" }, this.ways),
      this.byRows,
      this.prompt,
      this.presets,
    );
    this.element = this.control;
    this.draw();
    this.look(recall("recipe", "Rows"));
  }

  /** The form's value has changed; what came from here is known already. */
  show(value) {
    if (value === this.value) return;
    this.value = value;
    this.prompt.value = value;
    this.read();
  }

  look(way) {
    remember("recipe", way);
    for (const each of this.ways) each.setAttribute("aria-checked", String(each.textContent === way));
    show(this.byRows, way === "Rows");
    show(this.prompt, way === "Prompt");
    if (way === "Rows") this.read();
  }

  /** The rows of the value, where they say something else than the rows do now. */
  read() {
    if (promptOf(this.rows) === this.value) return;
    this.rows = rowsOf(this.value).map((row) => ({ ...row, name: this.fullName(row.name) }));
    if (this.rows.length === 0) this.rows = [emptyRow()];
    this.draw();
  }

  /** A prompt's name may lack the folder. */
  fullName(name) {
    const choices = this.loras();
    if (choices.some((each) => each.value === name)) return name;
    const found = choices.filter((each) => each.value.split("/").pop() === name);
    return found.length === 1 ? found[0].value : name;
  }

  tell(value) {
    this.value = value;
    this.take(value);
  }

  /** The rows have changed. */
  write() {
    this.tell(promptOf(this.rows));
    this.prompt.value = this.value;
  }

  append() {
    this.rows.push(emptyRow());
    this.draw();
    this.list.lastElementChild.querySelector("input").focus();
  }

  remove(row) {
    this.rows = this.rows.filter((each) => each !== row);
    if (this.rows.length === 0) this.rows.push(emptyRow());
    this.draw();
    this.write();
    this.add.focus();
  }

  /** A prompt that was pasted where a name goes is that many rows. */
  choose(row, name) {
    if (hasTags(name)) {
      this.rows.splice(
        this.rows.indexOf(row),
        1,
        ...rowsOf(name).map((each) => ({ ...each, name: this.fullName(each.name) })),
      );
      this.draw();
    } else row.name = name;
    this.write();
  }

  draw() {
    put(
      this.list,
      this.rows.map((row, index) => this.rowElement(row, index + 1)),
    );
  }

  rowElement(row, number) {
    const picker = new Picker((name) => this.choose(row, name), {
      choices: this.loras,
      label: `LoRA ${number}`,
      placeholder: "Choose a LoRA or type to search",
      nothing: "the LoRA folder is empty",
    });
    picker.show(row.name);
    const effective = () => numbers.forEach((input) => (input.placeholder = row.strength || "1"));
    const numbers = NUMBERS.map(([key, label, title]) =>
      h("input", {
        class: "ls-input ls-number",
        inputmode: "decimal",
        autocomplete: "off",
        "aria-label": `${label} of LoRA ${number}`,
        title,
        "data-part": key,
        value: row[key],
        oninput: ({ target }) => {
          row[key] = target.value.trim().replace(",", ".");
          effective();
          this.write();
        },
      }),
    );
    effective();
    const blocks = h("input", {
      class: "ls-input",
      list: this.presets.id,
      autocomplete: "off",
      spellcheck: "false",
      placeholder: "all 1",
      "aria-label": `Block weights of LoRA ${number}`,
      title: "A preset such as OUTD, fitted to the LoRA's family, or numbers apart by commas, BASE first",
      "data-part": "blocks",
      value: row.blocks,
      oninput: () => {
        row.blocks = blocks.value.trim();
        this.write();
      },
    });
    return h(
      "li",
      { class: "ls-recipe-row" },
      picker.element,
      button(`Take LoRA ${number} out`, () => this.remove(row), { kind: "tool", icon: "close" }),
      h(
        "div",
        { class: "ls-recipe-numbers" },
        NUMBERS.map(([, label], index) => h("label", {}, h("span", {}, label), numbers[index])),
        h("label", { class: "ls-recipe-blocks" }, h("span", {}, "Block weights"), blocks),
      ),
    );
  }
}
