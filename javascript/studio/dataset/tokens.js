// What the server makes of a caption: its tags and sentences, and how many of CLIP's tokens it takes.

import { post } from "../api.js";
import { debounce, h, show, text } from "../dom.js";

const PORTION = 75;
const REST_MS = 60;

export class Analysis {
  /** @param {import("./store.js").Dataset} dataset  @param {() => void} onanswer */
  constructor(dataset, onanswer) {
    Object.assign(this, { dataset, onanswer });
    this.wanted = null;
    this.caption = null;
    this.answer = null;
    this.soon = debounce(() => this.ask(), REST_MS);
  }

  /** @returns {{before: string[], prose: string, after: string[], tokens: number | null, cuts: number[]} | null}
   *   null until it is known; `onanswer` tells */
  of(caption) {
    if (caption === this.caption) return this.answer;
    if (caption !== this.wanted) {
      this.wanted = caption;
      this.soon();
    }
    return null;
  }

  async ask() {
    const caption = this.wanted;
    try {
      const answer = await post(this.dataset.route("parts"), { text: caption });
      if (caption !== this.wanted) return;
      Object.assign(this, { caption, answer });
      this.onanswer();
    } catch {
      this.wanted = null; // figures and chips only
    }
  }
}

export class TokenMeter {
  constructor() {
    this.words = h("span", { class: "ls-figure" });
    this.fill = h("i");
    this.element = h(
      "span",
      { class: "ls-tokens", hidden: true },
      h("span", { class: "ls-tokens-bar" }, this.fill),
      this.words,
    );
  }

  /** @param {number | null} tokens null where there is no vocabulary to count with */
  show(tokens) {
    show(this.element, tokens !== null);
    if (tokens === null) return;
    const portions = Math.max(1, Math.ceil(tokens / PORTION));
    text(this.words, `${tokens} of ${portions * PORTION} tokens`);
    this.fill.style.width = `${(tokens / (portions * PORTION)) * 100}%`;
    this.element.classList.toggle("ls-over", portions > 1);
    this.element.title =
      portions > 1
        ? `More than ${PORTION}: without max_token_length ${Math.min(3, portions) * PORTION} training cuts off the rest`
        : `CLIP reads captions in portions of ${PORTION} tokens`;
  }
}
