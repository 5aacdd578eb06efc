// Which pictures something is done to: all, those that are shown, or those that are chosen.

import { h, newId, text } from "../dom.js";
import { whole } from "../format.js";

export class Scope {
  /**
   * @param {import("./store.js").Dataset} dataset
   * @param {import("./selection.js").Selection} selection
   * @param {() => void} onchange
   */
  constructor(dataset, selection, onchange) {
    Object.assign(this, { dataset, selection, onchange });
    this.value = "filtered";
    const name = newId();
    this.numbers = {};
    this.inputs = {};
    this.element = h(
      "div",
      { class: "ls-scope", role: "radiogroup", "aria-label": "Which pictures" },
      [
        ["all", "All"],
        ["filtered", "Shown"],
        ["selected", "Chosen"],
      ].map(([value, words]) => {
        this.inputs[value] = h("input", { type: "radio", name, value, onchange: () => this.choose(value) });
        this.numbers[value] = h("span", { class: "ls-count ls-figure" });
        return h("label", {}, this.inputs[value], words, this.numbers[value]);
      }),
    );
    for (const event of ["view", "items"])
      dataset.addEventListener(event, () => {
        this.draw();
        if (this.value !== "selected") this.onchange();
      });
    selection.addEventListener("selection", () => {
      // More than one chosen picture is chosen for a purpose.
      if (selection.size > 1 && this.value !== "selected") this.choose("selected");
      else if (selection.size === 0 && this.value === "selected") this.choose("filtered");
      else if (this.value === "selected") this.onchange();
      this.draw();
    });
    this.draw();
  }

  choose(value) {
    this.value = value;
    this.draw();
    this.onchange();
  }

  draw() {
    const sizes = { all: this.dataset.count, filtered: this.dataset.view.length, selected: this.selection.size };
    for (const [value, size] of Object.entries(sizes)) {
      text(this.numbers[value], whole(size));
      this.inputs[value].checked = value === this.value;
    }
  }

  get ids() {
    if (this.value === "selected") return this.selection.list();
    return this.value === "all" ? this.dataset.all : this.dataset.view;
  }
}
