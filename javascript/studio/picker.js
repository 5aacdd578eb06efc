// A field to choose one of many files: type to search, arrow keys and Enter to take one. A path may be written, too.

import { h, icon, newId, put, show, text } from "./dom.js";

const MOST = 100; // entries of the open list

/** The very name before those that begin with it, a name in a folder like one without. */
function nearness(label, words) {
  const [name, written] = [label.split("/").pop().toLowerCase(), words.trim().toLowerCase()];
  return name.replace(/\.\w+$/, "") === written ? 2 : name.startsWith(written) ? 1 : 0;
}

/**
 * @typedef {{value: string, label: string, note?: string}} Choice
 */
export class Picker {
  /**
   * @param {(value: string) => void} take called with what a person has chosen
   * @param {{choices: () => Choice[], label: string, placeholder?: string, nothing?: string}} look `nothing` is said
   *   where there is nothing to choose from
   */
  constructor(take, look) {
    Object.assign(this, { take, look, value: "", found: [], at: -1 });
    const id = newId();
    this.list = h("ul", {
      id,
      class: "ls-options",
      role: "listbox",
      "aria-label": look.label,
      hidden: true,
      onpointerdown: (event) => event.preventDefault(), // the field keeps the focus
    });
    this.control = h("input", {
      class: "ls-input",
      role: "combobox",
      "aria-label": look.label,
      "aria-autocomplete": "list",
      "aria-controls": id,
      "aria-expanded": "false",
      autocomplete: "off",
      spellcheck: "false",
      placeholder: look.placeholder ?? "Choose or type to search",
      onclick: () => this.list.hidden && this.open(""),
      oninput: () => this.open(this.control.value),
      onkeydown: (event) => this.key(event),
      onblur: () => this.leave(),
    });
    this.note = h("span", { class: "ls-picker-note" });
    this.element = h("div", { class: "ls-picker" }, this.control, this.note, icon("down"), this.list);
  }

  show(value) {
    this.value = value;
    const choice = this.known(value);
    this.control.value = choice?.label ?? value;
    this.control.title = this.control.value;
    text(this.note, choice?.note ?? "");
  }

  known(value) {
    return value ? this.look.choices().find((each) => each.value === value) : undefined;
  }

  /** The entries with all of the words. */
  open(words) {
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
    const choices = this.look.choices();
    const all = choices.filter((each) => wanted.every((word) => each.label.toLowerCase().includes(word)));
    if (wanted.length) all.sort((a, b) => nearness(b.label, words) - nearness(a.label, words)); // else as the host has them
    this.found = all.slice(0, MOST);
    const rest = all.length - this.found.length;
    put(
      this.list,
      this.found.map((choice, index) => this.entry(choice, index)),
      rest > 0 && h("li", { class: "ls-options-word" }, `and ${rest} more: type to search`),
      all.length === 0 &&
        h(
          "li",
          { class: "ls-options-word" },
          choices.length === 0 ? (this.look.nothing ?? "nothing is there") : "none of these",
        ),
    );
    this.expand(true);
    this.go(wanted.length ? 0 : this.found.findIndex((each) => each.value === this.value));
  }

  entry(choice, index) {
    return h(
      "li",
      {
        id: `${this.list.id}-${index}`,
        role: "option",
        class: "ls-option",
        "aria-selected": "false",
        onclick: () => this.choose(choice),
      },
      h("span", {}, choice.label),
      choice.note && h("span", { class: "ls-count" }, choice.note),
    );
  }

  expand(open) {
    show(this.list, open);
    this.control.setAttribute("aria-expanded", String(open));
    if (!open) this.control.removeAttribute("aria-activedescendant");
  }

  /** Move the mark. */
  go(index) {
    this.at = Math.max(-1, Math.min(this.found.length - 1, index));
    [...this.list.children].forEach((each, place) => {
      if (each.role === "option" || each.getAttribute("role") === "option")
        each.setAttribute("aria-selected", String(place === this.at));
    });
    const marked = this.list.children[this.at];
    if (this.at < 0) return;
    this.control.setAttribute("aria-activedescendant", marked.id);
    this.list.scrollTop = Math.max(
      Math.min(this.list.scrollTop, marked.offsetTop),
      marked.offsetTop + marked.offsetHeight - this.list.clientHeight,
    );
  }

  key(event) {
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8 };
    const closed = this.list.hidden;
    if (event.key in moves) {
      if (closed) this.open("");
      else this.go(this.at + moves[event.key]);
    } else if (event.key === "Enter" && !closed) {
      if (this.at >= 0) this.choose(this.found[this.at]);
      else this.leave();
    } else if (event.key === "Escape" && !closed) {
      event.stopPropagation(); // the WebUI takes it for itself
      this.show(this.value);
      this.expand(false);
    } else return;
    event.preventDefault();
  }

  choose(choice) {
    this.expand(false);
    this.show(choice.value);
    this.take(choice.value);
  }

  /** Take what was written: an entry's label stands for the entry. */
  leave() {
    this.expand(false);
    const written = this.control.value.trim();
    if (written === (this.known(this.value)?.label ?? this.value)) return;
    const same = this.look.choices().find((each) => each.label === written);
    this.show(same?.value ?? written);
    this.take(this.value);
  }
}
