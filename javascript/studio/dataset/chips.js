// A caption's parts as chips, in their order: to be dragged, removed and written over. Sentences are one wide chip.

import { h, icon, put } from "../dom.js";
import { whole } from "../format.js";

export class Chips {
  /**
   * @param {{change: (parts: import("./caption_text.js").Part[]) => void, filter: (tag: string) => void}} look
   *   what is done to them
   */
  constructor(look) {
    this.look = look;
    this.parts = [];
    this.editing = false;
    this.dragged = null;
    this.element = h("ul", {
      class: "ls-chips",
      "aria-label": "Tags",
      ondragover: (event) => this.over(event),
      ondrop: (event) => this.drop(event),
      ondragleave: () => this.markDrop(null),
      onkeydown: (event) => this.key(event),
    });
  }

  /**
   * @param {import("./caption_text.js").Part[]} parts
   * @param {{[tag: string]: {count: number, category: string}}} known what the dataset knows of the tags
   * @param {number[]} cuts before which parts a new portion of 75 tokens begins
   */
  draw(parts, known, cuts = []) {
    if (this.editing) return; // drawn when it is done
    const active = document.activeElement?.closest?.(".ls-chip");
    const focused = active && this.element.contains(active) ? this.places().indexOf(active) : -1;
    this.parts = parts;
    put(
      this.element,
      parts.map((part, place) => [
        cuts.includes(place) && h("li", { class: "ls-cut", title: "A new portion of 75 tokens begins here" }, "75"),
        this.chip(part, place, known[part.text]),
      ]),
    );
    if (focused >= 0) this.places()[Math.min(focused, parts.length - 1)]?.focus();
  }

  places() {
    return [...this.element.querySelectorAll(".ls-chip")];
  }

  chip({ text: tag, prose }, place, known) {
    const twice = this.parts.findIndex((part) => part.text === tag) !== place;
    return h(
      "li",
      {
        class: `ls-chip${twice ? " ls-twice" : ""}${prose ? " ls-prose" : ""}`,
        tabindex: place === 0 ? "0" : "-1",
        draggable: "true",
        "data-category": known?.category,
        title: [twice && "stands there twice", known?.category, "drag to order, double-click to change"]
          .filter(Boolean)
          .join("; "),
        ondragstart: (event) => this.lift(event, place),
        ondragend: () => this.land(),
        ondblclick: () => this.edit(place),
      },
      h("span", { class: "ls-chip-tag" }, tag),
      known?.count > 0 && h("span", { class: "ls-count" }, whole(known.count)),
      h(
        "button",
        {
          type: "button",
          class: "ls-chip-remove",
          tabindex: "-1",
          "aria-label": `Remove ${tag}`,
          onclick: () => this.remove(place),
        },
        icon("close"),
      ),
    );
  }

  remove(place) {
    this.look.change(this.parts.filter((_, each) => each !== place));
  }

  move(from, to) {
    if (to < 0 || to >= this.parts.length || from === to) return;
    const parts = [...this.parts];
    parts.splice(to, 0, ...parts.splice(from, 1));
    this.look.change(parts);
    this.places()[to]?.focus();
  }

  /** Write another tag in a chip's place. */
  edit(place) {
    const chip = this.places()[place];
    const part = this.parts[place];
    const input = part.prose
      ? h("textarea", { class: "ls-chip-input", rows: "4", "aria-label": "Sentences" }, part.text)
      : h("input", { class: "ls-chip-input", value: part.text, "aria-label": "Tag" });
    let done = false;
    const end = (keep) => {
      if (done) return;
      done = true;
      this.editing = false;
      const parts = [...this.parts];
      if (keep) parts.splice(place, 1, ...written(input.value, part.prose));
      this.look.change(parts);
      this.places()[Math.min(place, parts.length - 1)]?.focus();
    };
    input.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey) return void (event.key.toLowerCase() === "s" && end(true));
      event.stopPropagation();
      if (event.key === "Enter") end(true);
      else if (event.key === "Escape") end(false);
    });
    input.addEventListener("blur", () => end(true));
    this.editing = true;
    chip.draggable = false;
    put(chip, input);
    input.focus();
    input.select();
  }

  key(event) {
    const chip = event.target.closest(".ls-chip");
    if (!chip) return;
    const place = this.places().indexOf(chip);
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (step && event.altKey) this.move(place, place + step);
    else if (step) this.places()[place + step]?.focus();
    else if (event.key === "Delete" || event.key === "Backspace") this.remove(place);
    else if (event.key === "Enter" || event.key === "F2") this.edit(place);
    else if (event.key.toLowerCase() === "f" && !event.ctrlKey && !event.metaKey)
      this.look.filter(this.parts[place].text);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  // Drag and drop

  lift(event, place) {
    this.dragged = place;
    event.dataTransfer.effectAllowed = "move";
    event.dataTransfer.setData("text/plain", this.parts[place].text);
    event.target.classList.add("ls-lifted");
    event.stopPropagation();
  }

  land() {
    this.dragged = null;
    this.markDrop(null);
    for (const chip of this.places()) chip.classList.remove("ls-lifted");
  }

  /** The place before which a chip would fall: chips stand in lines. */
  placeAt(event) {
    const chips = this.places();
    const after = chips.findIndex((chip) => {
      const box = chip.getBoundingClientRect();
      return event.clientY < box.top || (event.clientY <= box.bottom && event.clientX < (box.left + box.right) / 2);
    });
    return after < 0 ? chips.length : after;
  }

  over(event) {
    if (this.dragged === null) return;
    event.preventDefault();
    event.stopPropagation();
    this.markDrop(this.placeAt(event));
  }

  markDrop(place) {
    this.places().forEach((chip, each) => {
      chip.classList.toggle("ls-before", each === place);
      chip.classList.toggle("ls-behind", place === this.parts.length && each === place - 1);
    });
  }

  drop(event) {
    if (this.dragged === null) return;
    event.preventDefault();
    event.stopPropagation(); // the WebUI takes dropped pictures everywhere
    const [from, to] = [this.dragged, this.placeAt(event)];
    this.land();
    this.move(from, to > from ? to - 1 : to);
  }
}

const written = (value, prose) =>
  (prose ? [value.replace(/\s+/g, " ").trim()] : value.split(",").map((tag) => tag.trim()))
    .filter(Boolean)
    .map((text) => ({ text, prose }));
