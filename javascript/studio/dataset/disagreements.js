// Where taggers and captions differ, tag by tag.

import { post } from "../api.js";
import { tell } from "../dialogs.js";
import { button, h, put, show } from "../dom.js";
import { count, whole } from "../format.js";

export class Disagreements {
  /**
   * @param {import("./store.js").Dataset} dataset
   * @param {{show: (ids: number[]) => void, edit: (name: string, values: Object, ids: number[]) => Promise<void>}} look
   * @param {() => Object} body the thresholds and pictures
   */
  constructor(dataset, look, body) {
    Object.assign(this, { dataset, look, body });
    this.rows = h("ul", {});
    this.element = h(
      "details",
      { class: "ls-more", hidden: true, ontoggle: () => this.element.open && this.load() },
      h("summary", {}, "Where taggers and captions differ"),
      h(
        "p",
        { class: "ls-help" },
        "Missing: the tagger is sure, the caption lacks it. Doubted: the caption has it, the tagger does not see it.",
      ),
      this.rows,
    );
  }

  show(visible) {
    show(this.element, visible);
  }

  async load() {
    try {
      const { tags, more } = await post(this.dataset.route("tagging/disagreements"), this.body());
      put(
        this.rows,
        tags.length === 0 && h("li", { class: "ls-empty" }, "Nowhere."),
        tags.map((each) => this.row(each)),
        more > 0 && h("li", { class: "ls-help" }, `and ${count(more, "tag")} more`),
      );
    } catch (error) {
      put(this.rows, h("li", { class: "ls-error" }, error.message));
    }
  }

  row({ tag, missing, doubted }) {
    const ids = (pairs) => pairs.map(([id]) => id);
    return h(
      "li",
      { class: "ls-disagreement" },
      h("b", {}, tag),
      missing.length > 0 &&
        this.side("missing", ids(missing), "Add", () => this.look.edit("add", { tags: tag }, ids(missing))),
      doubted.length > 0 &&
        this.side("doubted", ids(doubted), "Remove", () => this.removal(tag, ids(doubted))),
    );
  }

  removal(tag, ids) {
    return this.look.edit("remove", { tags: tag, exact: true }, ids);
  }

  side(what, ids, act, run) {
    const change = async () => {
      try {
        await run();
        await this.load();
      } catch (error) {
        tell(error.message, "error");
      }
    };
    return h(
      "span",
      { class: "ls-row ls-small" },
      button(`${what} on ${whole(ids.length)}`, () => this.look.show(ids), { title: "Show these pictures" }),
      button(act, change),
    );
  }
}
