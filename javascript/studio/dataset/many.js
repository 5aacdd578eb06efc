// Several chosen pictures: the tags that they have, to be given to all of them or taken away.

import { post } from "../api.js";
import { tell } from "../dialogs.js";
import { button, debounce, h, icon, put, show, text } from "../dom.js";
import { count, fileName, whole } from "../format.js";
import { Complete } from "./complete.js";
import { askChange } from "./preview.js";

const MOST_TAGS = 200;

export class ManyEditor {
  /**
   * @param {import("./store.js").Dataset} dataset
   * @param {import("./selection.js").Selection} selection
   * @param {{edit: (edit: string, values: Object, ids: number[]) => Promise<void>, batch: () => void, files: Node}} look
   */
  constructor(dataset, selection, look) {
    Object.assign(this, { dataset, selection, look });
    this.title = h("h3");
    this.input = h("input", {
      class: "ls-input",
      placeholder: "Add a tag to all of them …",
      "aria-label": "Add a tag to all of them",
      spellcheck: "false",
      onkeydown: (event) => event.key === "Enter" && this.add(this.input.value),
    });
    const complete = new Complete(this.input, dataset, { take: (tag) => this.add(tag) });
    this.chips = h("ul", { class: "ls-chips", "aria-label": "Tags of the chosen pictures" });
    this.same = button("", () => this.copyCaption(), { title: "Give them all the caption of the last chosen picture" });
    this.common = h("p", { class: "ls-help" });
    this.element = h(
      "div",
      { class: "ls-editor" },
      h(
        "header",
        { class: "ls-part-head" },
        this.title,
        button("Choose none", () => selection.clear()),
      ),
      h("div", { class: "ls-text-box" }, this.input, complete.list),
      this.common,
      this.chips,
      h("div", { class: "ls-row ls-small" }, button("More edits …", look.batch), this.same, look.files),
    );
    this.soon = debounce(() => this.load(), 60);
    selection.addEventListener("selection", () => this.soon());
    dataset.addEventListener("captions", () => this.soon());
  }

  async load() {
    const ids = this.selection.list();
    text(this.title, `${whole(ids.length)} pictures`);
    text(this.same, `Caption of ${fileName(this.dataset.name(this.source))} for all …`);
    show(this.same, this.selection.has(this.source));
    if (ids.length < 2 || !this.element.offsetParent) return;
    const turn = (this.turn = (this.turn ?? 0) + 1);
    let answer;
    try {
      answer = await post(this.dataset.route("tags"), { ids });
    } catch (error) {
      return text(this.common, error.message);
    }
    if (turn !== this.turn) return;
    const { tags, counts, categories } = answer;
    const more = tags.length > MOST_TAGS ? `, the ${MOST_TAGS} most frequent of them here` : "";
    text(this.common, `${count(tags.length, "tag")} in these pictures${more}. A full number is a tag that all have.`);
    put(
      this.chips,
      tags.slice(0, MOST_TAGS).map((tag, place) =>
        h(
          "li",
          {
            class: `ls-chip${counts[place] === ids.length ? " ls-everywhere" : ""}`,
            "data-category": categories[place],
          },
          h("span", { class: "ls-chip-tag" }, tag),
          h(
            "button",
            { type: "button", class: "ls-count", title: "Give it to all of them", onclick: () => this.add(tag) },
            `${whole(counts[place])}/${whole(ids.length)}`,
          ),
          h(
            "button",
            {
              type: "button",
              class: "ls-chip-remove",
              "aria-label": `Remove ${tag} from all of them`,
              onclick: () => this.remove(tag),
            },
            icon("close"),
          ),
        ),
      ),
    );
  }

  add(tag) {
    this.input.value = "";
    return tag.trim() && this.run("add", { tags: tag.trim() });
  }

  remove(tag) {
    return this.run("remove", { tags: tag, exact: true });
  }

  /** The picture that was chosen last. */
  get source() {
    return this.selection.cursor;
  }

  async copyCaption() {
    const ids = this.selection.list();
    try {
      const { caption } = await this.dataset.item(this.source);
      if (!caption) return tell("That picture has no caption.", "error");
      const values = { text: caption };
      const preview = await post(this.dataset.route("edit/preview"), { edit: "set", values, ids });
      if (!preview.changed) return tell("They have that caption already.");
      const sure = await askChange(this.dataset, "One caption for all", preview, "Write");
      if (sure) await this.look.edit("set", values, ids);
    } catch (error) {
      tell(error.message, "error");
    }
  }

  async run(edit, values) {
    try {
      await this.look.edit(edit, values, this.selection.list());
    } catch (error) {
      tell(error.message, "error");
    }
  }
}
