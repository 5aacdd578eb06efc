// The caption of one picture: chips and text side by side, saved without ever losing what was typed.

import { address } from "../api.js";
import { copyText } from "../clipboard.js";
import { button, h, put, show, text } from "../dom.js";
import { bytes, whole } from "../format.js";
import { joined, partsOf, piecesOf, plainParts, tagsOf } from "./caption_text.js";
import { Chips } from "./chips.js";
import { Complete, replaceWord, wordAtCursor } from "./complete.js";
import { ConflictView } from "./conflict.js";
import { Scores } from "./scores.js";
import { Analysis, TokenMeter } from "./tokens.js";

export class Editor {
  /**
   * @param {import("./store.js").Dataset} dataset
   * @param {import("./selection.js").Selection} selection
   * @param {import("./captions.js").Captions} captions
   * @param {{enlarge: (item: Object) => void, filter: (tag: string) => void}} look
   */
  constructor(dataset, selection, captions, look) {
    Object.assign(this, { dataset, selection, captions, look });
    this.id = null;
    this.view = null; // what the server says of the picture
    this.turn = 0;
    this.picture();
    this.fields();
    this.element = h(
      "div",
      { class: "ls-editor", onkeydown: (event) => this.key(event) },
      this.head,
      this.figure,
      this.problem,
      this.conflict.element,
      this.chips.element,
      this.kinds,
      this.adding,
      h("div", { class: "ls-text-box" }, this.text, this.textComplete.list),
      h("div", { class: "ls-row ls-editor-state" }, this.meter.element, h("span", { class: "ls-grow" }), this.state),
      h(
        "div",
        { class: "ls-row ls-small" },
        this.saveButton,
        this.revert,
        this.copy,
        h("span", { class: "ls-grow" }),
        this.byItself,
      ),
      this.scores.element,
    );
    captions.addEventListener("written", ({ detail }) => {
      // At once: before the server is asked, the draft is gone, and the old text must not stand there again.
      if (detail.id === this.id && this.view) this.view.caption = detail.text;
    });
    captions.addEventListener("drafts", ({ detail }) => detail === this.id && this.draw());
    captions.addEventListener("saved", ({ detail }) => detail.includes(this.id) && this.fetch());
    dataset.addEventListener("captions", ({ detail }) => (detail === null || detail.includes(this.id)) && this.fetch());
    for (const name of ["items", "view"]) dataset.addEventListener(name, () => this.drawPlace());
  }

  picture() {
    this.name = h("h3", { class: "ls-editor-name" });
    this.place = h("span", { class: "ls-count" });
    this.head = h(
      "header",
      { class: "ls-part-head" },
      button("Previous picture", () => this.go(-1), { kind: "tool", icon: "left", title: "Previous picture (Alt+Up)" }),
      button("Next picture", () => this.go(1), { kind: "tool", icon: "right", title: "Next picture (Alt+Down)" }),
      this.name,
      this.place,
    );
    this.image = h("img", { alt: "", draggable: "false" });
    this.facts = h("figcaption", { class: "ls-help" });
    this.figure = h(
      "figure",
      { class: "ls-editor-picture" },
      h(
        "button",
        { type: "button", title: "Enlarge", onclick: () => this.view && this.look.enlarge(this.view) },
        this.image,
      ),
      this.facts,
    );
    this.problem = h("p", { class: "ls-error", hidden: true });
  }

  fields() {
    this.chips = new Chips({
      change: (parts) => this.write(joined(parts)),
      filter: (tag) => this.look.filter(tag),
      redraw: () => this.draw(),
    });
    this.text = h("textarea", {
      class: "ls-input ls-caption-text",
      rows: "3",
      spellcheck: "false",
      "aria-label": "Caption",
      placeholder: "No caption yet. Type tags with commas between them, or a sentence.",
      oninput: () => this.write(this.text.value.replace(/\s*\n\s*/g, " ")), // a caption is one line
      onkeydown: (event) => event.key === "Enter" && event.preventDefault(),
    });
    this.kinds = h("p", { class: "ls-kinds", hidden: true });
    this.textComplete = new Complete(this.text, this.dataset, {
      word: () => wordAtCursor(this.text),
      take: (tag, word) => replaceWord(this.text, tag, word),
    });
    const add = h("input", {
      class: "ls-input",
      placeholder: "Add a tag …",
      "aria-label": "Add a tag",
      spellcheck: "false",
    });
    const complete = new Complete(add, this.dataset, { take: (tag) => this.add(tag, add) });
    add.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.ctrlKey) this.add(add.value, add);
      else if (event.key === "Backspace" && !add.value) this.chips.remove(this.chips.parts.length - 1);
    });
    this.adding = h("div", { class: "ls-text-box" }, add, complete.list);
    this.addInput = add;
    this.analysis = new Analysis(this.dataset, () => this.draw());
    this.meter = new TokenMeter();
    this.state = h("span", { class: "ls-save-state", role: "status" });
    this.saveButton = button("Save", () => this.captions.save(), { title: "Ctrl+S" });
    this.revert = button("Revert", () => this.captions.drop(this.id), { title: "Back to what is in the file" });
    this.copy = button("Copy", () => copyText(this.caption, this.chips.element, "The caption"), {
      title: "Copy the caption",
      icon: "copy",
    });
    const tick = h("input", {
      type: "checkbox",
      class: "ls-check",
      onchange: () => this.captions.setByItself(tick.checked),
    });
    tick.checked = this.captions.byItself;
    this.byItself = h("label", { class: "ls-inline" }, tick, "Save as I type");
    this.scores = new Scores(this.dataset, (tag) => this.add(tag, add));
    this.conflict = new ConflictView({
      mine: () => this.captions.insist(this.id),
      theirs: () => this.captions.drop(this.id),
    });
  }

  /** What stands in the editor: the draft, or else the file's caption. */
  get caption() {
    return this.captions.draft(this.id)?.text ?? this.view?.caption ?? "";
  }

  /** Whether the chips are those of the present caption. */
  get areFresh() {
    return this.view !== null && this.drawn?.id === this.id && this.drawn.caption === this.caption;
  }

  go(by) {
    this.selection.go(by);
  }

  /** Show another picture. */
  async load(id) {
    if (id === this.id) return;
    this.leave();
    this.id = id;
    this.view = null;
    this.text.readOnly = this.addInput.readOnly = true; // what is typed belongs to a caption that is seen
    this.conflict.close();
    this.drawPlace();
    await this.fetch();
  }

  /** No picture is edited now. */
  leave() {
    this.chips.leave(this.dataset.has(this.id));
    if (this.captions.draft(this.id)) this.captions.saveFilled([this.id]);
    this.id = null;
  }

  forget() {
    this.chips.leave(false);
    this.id = null;
    this.view = null;
  }

  async fetch() {
    const { id } = this;
    if (id === null || !this.dataset.has(id)) return;
    const turn = ++this.turn;
    let view;
    try {
      view = await this.dataset.item(id);
    } catch {
      return; // gone, or nobody answers: the list of pictures tells
    }
    if (turn !== this.turn || id !== this.id) return;
    const other = this.view?.stamp !== view.stamp || this.view.name !== view.name;
    this.view = view;
    this.captions.found(id, view.caption);
    if (other) this.drawPicture();
    this.scores.load(id);
    this.draw();
  }

  write(caption) {
    if (this.view && !this.view.locked) this.captions.write(this.id, this.view.caption, caption);
    this.draw();
  }

  /** Until what is done to the chips is in the caption: where it has sentences, the server takes it apart first. */
  async settle() {
    if (this.chips.waiting) await this.analysis.ask();
  }

  add(entry, input) {
    if (!this.view) return;
    const old = this.areFresh ? this.chips.parts : [{ text: this.caption.trim().replace(/,$/, ""), prose: false }];
    const there = old.map((part) => part.text);
    const parts = tagsOf(entry)
      .filter((tag) => !there.includes(tag))
      .map((text) => ({ text, prose: false }));
    input.value = "";
    if (parts.length) this.write(joined([...old.filter((part) => part.text), ...parts]));
    this.chips.element.lastElementChild?.scrollIntoView({ block: "nearest" });
  }

  /** The picture's name, and where it stands among those that are shown. */
  drawPlace() {
    if (!this.dataset.has(this.id)) return;
    text(this.name, this.dataset.name(this.id));
    const place = this.dataset.places.get(this.id);
    text(
      this.place,
      place === undefined ? "not in the filter" : `${whole(place + 1)} of ${whole(this.dataset.view.length)}`,
    );
  }

  drawPicture() {
    const { view } = this;
    this.image.src = address(this.dataset.look(`picture/${view.id}?v=${view.stamp}`));
    this.image.alt = view.name;
    text(
      this.facts,
      [`${view.width} × ${view.height}`, bytes(view.bytes), view.repeats > 1 && `${view.repeats} repeats`, view.concept]
        .filter(Boolean)
        .join(" · "),
    );
  }

  draw() {
    const { view, caption } = this;
    if (!view) return;
    const draft = this.captions.draft(this.id);
    // The space behind which a person types on stays, though it is saved without.
    const typesOn = document.activeElement === this.text && this.text.value.trim() === caption.trim();
    if (this.text.value !== caption && !typesOn) this.text.value = caption;
    this.text.readOnly = Boolean(view.locked);
    this.addInput.readOnly = Boolean(view.locked);
    this.drawParts(caption);
    text(this.problem, view.problem ?? "");
    show(this.problem, view.problem);
    this.drawState(draft);
    this.conflict.show(draft);
  }

  drawState(draft) {
    const state = this.view.locked
      ? "read only"
      : !draft
        ? "saved"
        : draft.theirs !== null
          ? "changed elsewhere"
          : draft.text.trim()
            ? "not saved yet"
            : "empty: Save deletes the caption file";
    text(this.state, state);
    this.state.dataset.state = draft ? "unsaved" : "saved";
    const others = this.captions.size - (draft ? 1 : 0);
    text(this.saveButton, others > 0 ? `Save ${this.captions.size}` : "Save");
    this.saveButton.disabled = !this.captions.size;
    this.revert.disabled = !draft;
  }

  /** Chips and figures; where only the server can take the caption apart, when it has. */
  drawParts(caption) {
    const known = Object.fromEntries(this.view.tags.map((each) => [each.tag, each]));
    const answer = this.analysis.of(caption);
    const parts = answer ? partsOf(answer) : plainParts(caption);
    if (parts && this.chips.draw(parts, known, answer ? cutsOf(answer, caption, parts) : [])) {
      this.drawn = { id: this.id, caption };
      this.chips.settle();
    }
    if (parts) this.drawKinds(parts, known);
    if (answer) this.meter.show(answer.tokens);
  }

  /** How many tags of each kind there are, where kinds are known. */
  drawKinds(parts, known) {
    const counts = new Map();
    for (const { text: tag } of parts) {
      const kind = known[tag]?.category || "other";
      counts.set(kind, (counts.get(kind) ?? 0) + 1);
    }
    show(this.kinds, counts.size > 1);
    put(
      this.kinds,
      [...counts].map(([kind, number]) => h("span", { class: "ls-kind", "data-category": kind }, `${kind} ${number}`)),
    );
  }

  focus() {
    this.addInput.focus();
  }

  key(event) {
    const typing = ["INPUT", "TEXTAREA"].includes(event.target.tagName);
    if (event.altKey && ["ArrowDown", "ArrowUp"].includes(event.key)) {
      event.preventDefault();
      this.go(event.key === "ArrowDown" ? 1 : -1);
    } else if (event.key === "Escape" && typing) {
      event.target.blur();
      this.look.leave();
    } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.captions.save();
      this.go(1);
    } else return;
    event.stopPropagation();
  }
}

/** Before which parts portions of 75 tokens begin, from where they begin in the text. */
function cutsOf({ cuts }, caption, parts) {
  if (parts.some((part) => part.prose)) return [];
  const pieces = piecesOf(caption);
  return cuts.map((cut) => pieces.findIndex((piece) => piece.start >= cut)).filter((place) => place > 0);
}
