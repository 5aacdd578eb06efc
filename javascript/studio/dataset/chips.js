// A caption's parts as chips, in their order: to be dragged, removed and written over. Sentences are one wide chip.

import { h, icon, put } from "../dom.js";
import { whole } from "../format.js";
import { joined } from "./caption_text.js";

export class Chips {
  /**
   * @param {{change: (parts: import("./caption_text.js").Part[]) => void, filter: (tag: string) => void,
   *   redraw: () => void}} look what is done to them; `redraw` draws them anew and then settles them
   */
  constructor(look) {
    this.look = look;
    this.parts = [];
    this.end = null; // ends the writing of a chip
    this.dragged = null;
    this.drawn = null; // what the chips in the page say
    this.waiting = null; // a change of the parts as they then are, once they are drawn
    this.element = h("ul", {
      class: "ls-chips",
      "aria-label": "Tags",
      ondragenter: (event) => this.over(event),
      ondragover: (event) => this.over(event),
      ondrop: (event) => this.drop(event),
      ondragleave: (event) => this.element.contains(event.relatedTarget) || this.markDrop(null),
      onkeydown: (event) => this.key(event),
    });
  }

  /**
   * @param {import("./caption_text.js").Part[]} parts
   * @param {{[tag: string]: {count: number, category: string}}} known what the dataset knows of the tags
   * @param {number[]} cuts before which parts a new portion of 75 tokens begins
   * @returns {boolean} whether they are drawn: not under a person's hands, but when that is done
   */
  draw(parts, known, cuts = []) {
    if (this.end || this.dragged !== null) return false;
    this.parts = parts;
    const drawn = JSON.stringify([parts, parts.map((part) => known[part.text]), cuts]);
    if (drawn === this.drawn) return true; // a chip that a person is about to drag stays the same element
    this.drawn = drawn;
    const active = document.activeElement?.closest?.(".ls-chip");
    const focused = active && this.element.contains(active) ? this.places().indexOf(active) : -1;
    put(
      this.element,
      parts.map((part, place) => [
        cuts.includes(place) && h("li", { class: "ls-cut", title: "A new portion of 75 tokens begins here" }, "75"),
        this.chip(part, place, known[part.text]),
      ]),
    );
    if (focused >= 0) this.places()[Math.min(focused, parts.length - 1)]?.focus();
    return true;
  }

  /** Do what waited for the parts that are drawn now. */
  settle() {
    const change = this.waiting;
    this.waiting = null;
    const parts = change?.(this.parts);
    if (parts && joined(parts) !== joined(this.parts)) this.look.change(parts);
  }

  /** Another caption comes: what is being written ends, for this one where `keep`. */
  leave(keep) {
    this.end?.(keep);
    this.dragged = this.waiting = null;
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

  /** Change the parts as they are once they are drawn: at once, or when the server has taken the caption apart. */
  change(how) {
    const earlier = this.waiting;
    this.waiting = earlier ? (parts) => how(earlier(parts)) : how;
    this.look.redraw();
  }

  remove(place) {
    const part = this.parts[place];
    if (!part) return;
    this.change((parts) => {
      const at = nearest(parts, part, place);
      return at < 0 ? parts : replaced(parts, at, []);
    });
  }

  move(from, to) {
    if (to < 0 || to >= this.parts.length || from === to) return;
    const part = this.parts[from];
    this.change((parts) => {
      const at = nearest(parts, part, from);
      return at < 0 ? parts : replaced(replaced(parts, at, []), Math.max(0, at + to - from), [part], 0);
    });
    this.places()[to]?.focus();
  }

  /** Write another tag in a chip's place. */
  edit(place) {
    const chip = this.places()[place];
    const part = this.parts[place];
    const input = part.prose
      ? h("textarea", { class: "ls-chip-input", rows: "4", "aria-label": "Sentences" }, part.text)
      : h("input", { class: "ls-chip-input", value: part.text, "aria-label": "Tag" });
    const end = (keep) => {
      if (this.end !== end) return;
      this.end = null;
      const now = written(input.value, part.prose);
      // The caption may be another meanwhile: of that the same part is written over.
      const write = (parts) => {
        const at = nearest(parts, part, place);
        return at < 0 ? replaced(parts, place, now, 0) : replaced(parts, at, now);
      };
      this.change(keep && joined(now) !== part.text ? write : (parts) => parts);
      this.places()[Math.min(place, this.parts.length - 1)]?.focus();
    };
    input.addEventListener("keydown", (event) => {
      if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "s") return end(true);
      event.stopPropagation(); // the keys are the input's, not the chips'
      if (event.key === "Enter") end(true);
      else if (event.key === "Escape") end(false);
    });
    input.addEventListener("blur", () => end(true));
    this.end = end;
    this.drawn = null;
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
    if (this.dragged === null) return;
    this.release();
    this.look.redraw();
  }

  release() {
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
    const [from, before] = [this.dragged, this.placeAt(event)];
    const [part, next] = [this.parts[from], this.parts[before]];
    this.release();
    this.change((parts) => {
      const at = nearest(parts, part, from);
      if (at < 0 || before === from) return parts;
      const to = next ? nearest(parts, next, before) : parts.length;
      const target = to < 0 ? Math.min(before, parts.length) : to;
      const rest = replaced(parts, at, []);
      return replaced(rest, target > at ? target - 1 : target, [part], 0);
    });
  }
}

const replaced = (parts, at, now, many = 1) => [...parts.slice(0, at), ...now, ...parts.slice(at + many)];

/** Where a part stands, best at the place where it stood; -1 where it is gone. */
const nearest = (parts, { text }, place) =>
  parts[place]?.text === text ? place : parts.findIndex((each) => each.text === text);

const written = (value, prose) =>
  (prose ? [value.replace(/\s+/g, " ").trim()] : value.split(",").map((tag) => tag.trim()))
    .filter(Boolean)
    .map((text) => ({ text, prose }));
