// Suggestions below a text field while a tag is typed, from the dataset and from a list that was dropped in.

import { get } from "../api.js";
import { h, newId, put, show } from "../dom.js";
import { whole } from "../format.js";

const REST_MS = 40;

export class Complete {
  /**
   * @param {HTMLInputElement | HTMLTextAreaElement} input
   * @param {import("./store.js").Dataset} dataset
   * @param {{word?: () => {text: string, from: number, to: number}, take: (tag: string, word: Object) => void}} look
   *   `word` says what part of the input is being written; all of it where it is not given
   */
  constructor(input, dataset, look) {
    Object.assign(this, { input, dataset, look });
    this.word = look.word ?? (() => ({ text: input.value, from: 0, to: input.value.length }));
    this.list = h("ul", { class: "ls-complete", role: "listbox", id: newId(), hidden: true });
    this.found = [];
    this.at = -1;
    this.turn = 0;
    for (const [name, value] of Object.entries({
      role: "combobox",
      autocomplete: "off",
      "aria-autocomplete": "list",
      "aria-expanded": "false",
      "aria-controls": this.list.id,
    }))
      input.setAttribute(name, value);
    input.addEventListener("input", () => this.later());
    input.addEventListener("keydown", (event) => this.key(event), true);
    input.addEventListener("blur", () => this.close());
  }

  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.ask(), REST_MS);
  }

  async ask() {
    const turn = ++this.turn;
    const { text } = this.word();
    const wanted = text.trim();
    if (!wanted || !this.dataset.isOpen) return this.close();
    let tags;
    try {
      ({ tags } = await get(`${this.dataset.route("complete")}?text=${encodeURIComponent(wanted)}`));
    } catch {
      return this.close(); // suggestions only
    }
    if (turn !== this.turn || document.activeElement !== this.input) return null;
    return this.open(tags.filter((each) => each.tag !== wanted));
  }

  open(tags) {
    this.found = tags;
    this.at = -1;
    put(
      this.list,
      tags.map((each, index) =>
        h(
          "li",
          {
            role: "option",
            id: `${this.list.id}-${index}`,
            "data-category": each.category,
            // before the field loses the focus
            onmousedown: (event) => (event.preventDefault(), this.take(index)),
          },
          h("span", {}, each.tag, each.alias && h("small", {}, ` ← ${each.alias}`)),
          h(
            "span",
            { class: "ls-count" },
            each.here ? whole(each.here) : each.posts ? `list ${short(each.posts)}` : "",
          ),
        ),
      ),
    );
    show(this.list, tags.length > 0);
    this.input.setAttribute("aria-expanded", String(tags.length > 0));
    this.mark(-1);
  }

  close() {
    this.turn++;
    clearTimeout(this.timer);
    this.found = [];
    show(this.list, false);
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
  }

  mark(at) {
    this.at = at;
    [...this.list.children].forEach((row, index) => row.setAttribute("aria-selected", String(index === at)));
    if (at < 0) return this.input.removeAttribute("aria-activedescendant");
    this.list.children[at].scrollIntoView({ block: "nearest" });
    return this.input.setAttribute("aria-activedescendant", this.list.children[at].id);
  }

  key(event) {
    if (!this.found.length) return;
    const count = this.found.length;
    if (event.key === "ArrowDown") this.mark((this.at + 1) % count);
    else if (event.key === "ArrowUp") this.mark((this.at - 1 + count) % count);
    else if (event.key === "Escape") this.close();
    else if (event.key === "Tab" && !event.shiftKey) this.take(Math.max(0, this.at));
    else if (event.key === "Enter" && this.at >= 0) this.take(this.at);
    else return;
    event.preventDefault();
    event.stopImmediatePropagation();
  }

  take(index) {
    const word = this.word();
    const { tag } = this.found[index];
    this.close();
    this.look.take(tag, word);
  }
}

const short = (number) =>
  number < 1000 ? String(number) : number < 1e6 ? `${Math.round(number / 1000)}k` : `${(number / 1e6).toFixed(1)}M`;

/** The part between commas in which the cursor of a field stands. */
export function wordAtCursor(input) {
  const { value, selectionStart } = input;
  const from = Math.max(value.lastIndexOf(",", selectionStart - 1), value.lastIndexOf("\n", selectionStart - 1)) + 1;
  const after = value.slice(selectionStart).search(/[,\n]/);
  const to = after < 0 ? value.length : selectionStart + after;
  return { text: value.slice(from, selectionStart), from, to };
}

/** Put a tag in place of the word that the cursor stands in. */
export function replaceWord(input, tag, { from, to }) {
  const lead = from > 0 && input.value[from - 1] === "," ? " " : "";
  input.setRangeText(lead + tag, from, to, "end");
  input.dispatchEvent(new Event("input", { bubbles: true }));
}
