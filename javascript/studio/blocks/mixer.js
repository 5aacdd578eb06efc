// A row for each block: its name, the norm of what the LoRA changes there, a slider with its number, solo and mute.

import { button, h, put, show, text } from "../dom.js";
import { isEntry, numberOf, shortNumber } from "./vector.js";

const STEP = 0.05;
const LOWEST = 0,
  HIGHEST = 1; // of the sliders; a number beyond them, once written, widens all of them

export class Mixer {
  /** @param {import("./vector.js").Vector} vector */
  constructor(vector) {
    Object.assign(this, { vector, rows: [], norms: new Map(), drawn: "" });
    this.list = h("div", { class: "ls-mixer-rows", role: "group", "aria-label": "Blocks" });
    this.clear = button("Clear solo and mute", () => vector.clearOver(), { kind: "tool", icon: "reset" });
    this.element = h(
      "div",
      { class: "ls-mixer" },
      h(
        "div",
        { class: "ls-mixer-row ls-mixer-head" },
        h("span", {}, "Block"),
        h("span", { title: "Norm of what the LoRA changes in the block" }, "Norm"),
        h("span", {}, "Weight"),
        h("span", {}),
        h("span", {}, this.clear),
      ),
      this.list,
    );
    vector.addEventListener("change", () => this.draw());
  }

  /** @param {{block: string, norm: number | null, modules: number}[]} blocks those that have weights */
  setNorms(blocks) {
    this.norms = new Map(blocks.map((row) => [row.block, row]));
    this.drawn = "";
    this.draw();
  }

  draw() {
    const { names } = this.vector;
    const key = names.join();
    if (key !== this.drawn) {
      this.drawn = key;
      const highest = Math.max(...names.map((name) => this.norms.get(name)?.norm ?? 0)) || 1;
      this.rows = names.map((name, index) => new Row(this.vector, name, index, this.norms.get(name), highest));
      put(
        this.list,
        this.rows.map((row) => row.element),
      );
    }
    const numbers = this.vector.entries.map((entry) => numberOf(entry, this.vector.x)).filter(Number.isFinite);
    const limits = [Math.min(LOWEST, ...numbers), Math.max(HIGHEST, ...numbers)];
    for (const row of this.rows) row.draw(limits);
    show(this.clear, this.vector.isOver);
  }
}

class Row {
  constructor(vector, name, index, norm, highest) {
    Object.assign(this, { vector, name, index });
    this.slider = h("input", {
      type: "range",
      "aria-label": `Weight of ${name}`,
      oninput: () => vector.set(index, shortNumber(this.slider.value)),
      ondblclick: () => vector.set(index, "1"),
    });
    this.number = h("input", {
      class: "ls-input ls-number",
      "aria-label": `Weight of ${name} as a number`,
      title: "A number; X takes the value of X, X+0.3 as well; R and U are drawn for each picture",
      autocomplete: "off",
      spellcheck: "false",
      oninput: () => (this.typing = true),
      onblur: () => (this.typing = false),
      onchange: () => this.write(),
    });
    this.marks = [this.mark("S", "solo", "Solo"), this.mark("M", "muted", "Mute")];
    this.element = h(
      "div",
      { class: `ls-mixer-row${norm ? "" : " ls-without"}`, "data-block": name },
      h("span", { class: "ls-block-name" }, name),
      normBar(name, norm, highest),
      this.slider,
      this.number,
      h("span", { class: "ls-mixer-marks" }, this.marks),
    );
  }

  mark(letter, which, word) {
    return h(
      "button",
      {
        type: "button",
        class: "ls-mark",
        "data-mark": which,
        "aria-label": `${word} ${this.name}`,
        title: which === "solo" ? "Solo: only blocks marked so act" : "Mute: as if it were 0",
        onclick: () => this.vector.toggle(which, this.name),
      },
      letter,
    );
  }

  write() {
    this.typing = false;
    const entry = this.number.value.trim().replace(",", ".").toUpperCase();
    const fits = isEntry(entry);
    this.number.toggleAttribute("aria-invalid", !fits);
    if (fits) this.vector.set(this.index, entry);
  }

  draw([low, high]) {
    const entry = this.vector.entries[this.index];
    Object.assign(this.slider, { min: low, max: high, step: STEP });
    const number = numberOf(entry, this.vector.x);
    this.slider.value = number ?? (low + high) / 2;
    this.slider.style.setProperty("--ls-share", `${((Number(this.slider.value) - low) / (high - low)) * 100}%`);
    this.slider.classList.toggle("ls-word", number === null);
    if (!this.typing && this.number.value !== entry) this.number.value = entry;
    this.number.removeAttribute("aria-invalid");
    this.element.classList.toggle("ls-silent", this.vector.isSilent(this.name));
    for (const mark of this.marks)
      mark.setAttribute("aria-pressed", String(this.vector[mark.dataset.mark].has(this.name)));
  }
}

function normBar(name, norm, highest) {
  if (!norm)
    return h("span", { class: "ls-norm", title: `${name}: the LoRA has no weights here` }, h("small", {}, "none"));
  const known = norm.norm !== null;
  const share = known ? (norm.norm / highest) * 100 : 0;
  const element = h(
    "span",
    {
      class: "ls-norm",
      role: "img",
      "aria-label": `Norm of ${name}: ${known ? norm.norm.toPrecision(3) : "unknown"}`,
      title: `${name}: norm ${known ? norm.norm.toPrecision(3) : "depends on the checkpoint"}, ${norm.modules} modules`,
    },
    h("i", { style: `width: ${share.toFixed(1)}%` }),
    h("small", {}),
  );
  text(element.lastChild, known ? norm.norm.toPrecision(2) : "?");
  return element;
}
