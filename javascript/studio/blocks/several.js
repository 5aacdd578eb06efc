// A field that holds several of a list: chips with what is chosen, and a picker that adds to them.
// Its value in a form is a text with one of them a line.

import { button, h, put } from "../dom.js";
import { Picker } from "../picker.js";

export const toLines = (names) => names.join("\n");

/** The lines of a text that say something, each once. */
export const linesOf = (text) => [...new Set(text.split("\n").map((line) => line.trim()))].filter(Boolean);

export class Several {
  /**
   * @param {(value: string) => void} take
   * @param {{choices: () => import("../picker.js").Choice[], label: string, placeholder: string, nothing?: string,
   *   none?: string, free?: boolean}} look `none` is said where nothing is chosen; `free`: what is not in the list may
   *   be written, too
   */
  constructor(take, look) {
    Object.assign(this, { take, look, chosen: [] });
    this.chips = h("ul", { class: "ls-several" });
    this.picker = new Picker((name) => this.add(name), {
      ...look,
      choices: () => look.choices().filter((each) => !this.chosen.includes(each.value)),
    });
    this.control = this.picker.control;
    this.element = h("div", { class: "ls-several-box" }, this.chips, this.picker.element);
  }

  show(value) {
    this.chosen = linesOf(value);
    this.picker.show("");
    this.draw();
  }

  add(name) {
    this.picker.show("");
    const known = this.look.choices().some((each) => each.value === name);
    if (!name || this.chosen.includes(name) || !(known || this.look.free)) return;
    this.tell([...this.chosen, name]);
  }

  drop(name) {
    this.tell(this.chosen.filter((each) => each !== name));
    this.control.focus();
  }

  tell(chosen) {
    this.chosen = chosen;
    this.draw();
    this.take(toLines(chosen));
  }

  label(name) {
    return this.look.choices().find((each) => each.value === name)?.label ?? name;
  }

  draw() {
    const chip = (name) => {
      const label = this.label(name);
      return h(
        "li",
        { class: "ls-several-chip", title: name },
        h("span", {}, label),
        button(`Take out ${label}`, () => this.drop(name), { kind: "tool", icon: "close" }),
      );
    };
    put(
      this.chips,
      this.chosen.length === 0 && this.look.none
        ? h("li", { class: "ls-help" }, this.look.none)
        : this.chosen.map(chip),
    );
  }
}
