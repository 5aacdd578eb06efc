// What the taggers have said of one picture: a click puts a tag into the caption.

import { get } from "../api.js";
import { h, put, show } from "../dom.js";

const MOST = 60;

export class Scores {
  /** @param {import("./store.js").Dataset} dataset  @param {(tag: string) => void} add */
  constructor(dataset, add) {
    Object.assign(this, { dataset, add });
    this.lists = h("div", {});
    this.element = h(
      "details",
      { class: "ls-more", hidden: true, ontoggle: () => this.draw() },
      h("summary", {}, "What the taggers say"),
      this.lists,
    );
  }

  async load(id) {
    const turn = (this.turn = (this.turn ?? 0) + 1);
    let taggers = {};
    try {
      ({ taggers } = await get(this.dataset.route(`tagging/${id}`)));
    } catch {
      // suggestions only
    }
    if (turn !== this.turn) return;
    this.taggers = Object.entries(taggers);
    show(this.element, this.taggers.length > 0);
    this.draw();
  }

  draw() {
    if (!this.element.open || !this.taggers) return;
    put(
      this.lists,
      this.taggers.map(([name, said]) => [
        h("h4", {}, name),
        h(
          "ul",
          { class: "ls-chips" },
          said.slice(0, MOST).map(([tag, category, score]) => this.chip(tag, category, score)),
        ),
      ]),
    );
  }

  chip(tag, category, score) {
    return h(
      "li",
      {},
      h(
        "button",
        {
          type: "button",
          class: "ls-chip",
          "data-category": category,
          title: "Put it into the caption",
          onclick: () => this.add(tag),
        },
        h("span", { class: "ls-chip-tag" }, tag),
        h("span", { class: "ls-count" }, score.toFixed(2)),
      ),
    );
  }
}
