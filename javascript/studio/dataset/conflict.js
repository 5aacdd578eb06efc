// Two texts of one caption: what stands in the file now, and what was typed here meanwhile.

import { button, h, put, show } from "../dom.js";
import { difference } from "./caption_text.js";

export class ConflictView {
  /** @param {{mine: () => void, theirs: () => void}} choose */
  constructor(choose) {
    this.theirs = h("p", { class: "ls-difference" });
    this.mine = h("p", { class: "ls-difference" });
    this.element = h(
      "section",
      { class: "ls-conflict", role: "alert", hidden: true },
      h("p", {}, "This caption was changed elsewhere while you typed. Both texts are here; nothing is lost."),
      h("h4", {}, "In the file now"),
      this.theirs,
      h("h4", {}, "Yours"),
      this.mine,
      h(
        "div",
        { class: "ls-row ls-small" },
        button("Keep mine", choose.mine, { kind: "primary" }),
        button("Take the file's", choose.theirs),
      ),
    );
  }

  /** @param {{text: string, theirs: string | null} | null} draft */
  show(draft) {
    const open = Boolean(draft) && draft.theirs !== null;
    show(this.element, open);
    if (!open) return;
    const parts = difference(draft.theirs, draft.text);
    put(this.theirs, draft.theirs ? marked(parts.filter((part) => part.change !== "new")) : "(no caption)");
    put(this.mine, draft.text ? marked(parts.filter((part) => part.change !== "gone")) : "(no caption)");
  }

  close() {
    show(this.element, false);
  }
}

/** Tags in a line, with what is new and what is gone told apart. */
export const marked = (parts) =>
  parts.map(({ tag, change }, place) => [
    place > 0 && ", ",
    change ? h(change === "new" ? "ins" : "del", {}, tag) : tag,
  ]);
