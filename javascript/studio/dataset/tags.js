// All tags with how many captions have them: to filter by, rename and remove.

import { post } from "../api.js";
import { confirm, askText, tell } from "../dialogs.js";
import { debounce, h, icon, put, select, text } from "../dom.js";
import { count, whole } from "../format.js";
import { VirtualGrid } from "./virtual.js";

const ROW_HEIGHT = 30;

export class TagTable {
  /**
   * @param {import("./store.js").Dataset} dataset
   * @param {import("./selection.js").Selection} selection
   * @param {{filter: (tag: string) => void, edit: (edit: string, values: Object, ids: number[]) => Promise<void>}} look
   */
  constructor(dataset, selection, look) {
    Object.assign(this, { dataset, selection, look });
    this.tags = [];
    this.shown = [];
    this.scope = "filtered";
    this.search = h("input", {
      type: "search",
      class: "ls-input",
      placeholder: "Find a tag",
      "aria-label": "Find a tag",
      oninput: () => this.draw(),
    });
    this.order = select(
      [
        ["count", "most first"],
        ["rare", "fewest first"],
        ["tag", "alphabetical"],
        ["length", "longest first"],
      ],
      "count",
      () => this.draw(),
    );
    this.order.setAttribute("aria-label", "Order of the tags");
    this.kind = h("select", { class: "ls-input", "aria-label": "Kind of the tags", onchange: () => this.draw() });
    this.over = select(
      [
        ["all", "all pictures"],
        ["filtered", "shown pictures"],
        ["selected", "chosen pictures"],
      ],
      "filtered",
      (scope) => {
        this.scope = scope;
        this.load();
      },
    );
    this.over.setAttribute("aria-label", "Counted over");
    this.found = h("p", { class: "ls-found" });
    this.list = h("div", {
      class: "ls-tag-list",
      role: "list",
      tabindex: "0",
      "aria-label": "Tags",
      onclick: (event) => this.click(event),
    });
    this.grid = new VirtualGrid(this.list, {
      layout: (width) => ({ columns: 1, width, height: ROW_HEIGHT, gap: 0 }),
      make: () => this.make(),
      draw: (row, place) => this.fillRow(row, place),
      clear: (row) => row.removeAttribute("data-tag"),
    });
    this.element = h(
      "div",
      { class: "ls-tag-table" },
      h(
        "div",
        { class: "ls-row ls-small" },
        h("div", { class: "ls-search-box" }, icon("search"), this.search),
        this.order,
        this.kind,
        this.over,
      ),
      this.found,
      this.list,
    );
    this.soon = debounce(() => this.load(), 120);
    for (const name of ["captions", "view", "opened"]) dataset.addEventListener(name, () => this.soon());
    selection.addEventListener("selection", () => this.scope === "selected" && this.soon());
  }

  get ids() {
    return { all: this.dataset.all, filtered: this.dataset.view, selected: this.selection.list() }[this.scope];
  }

  /** Counted anew, as soon as somebody looks. */
  async load() {
    const { dataset } = this;
    if (!dataset.isOpen || !this.element.offsetParent) return;
    const turn = (this.turn = (this.turn ?? 0) + 1);
    const body =
      this.scope === "all" || (this.scope === "filtered" && dataset.view.length === dataset.count)
        ? {}
        : { ids: this.ids };
    try {
      const { tags, counts, categories } = await post(dataset.route("tags"), body);
      if (turn !== this.turn) return;
      this.tags = tags.map((tag, place) => ({ tag, count: counts[place], category: categories[place] }));
      this.drawKinds();
      this.most = counts.reduce((most, each) => Math.max(most, each), 1);
      this.draw();
    } catch (error) {
      text(this.found, error.message);
    }
  }

  /** The kinds that there are, a person's own groups among them. */
  drawKinds() {
    const kinds = ["", ...new Set(this.tags.map((each) => each.category).filter(Boolean))].sort();
    if (kinds.join() === this.kinds) return;
    this.kinds = kinds.join();
    const chosen = this.kind.value;
    put(
      this.kind,
      kinds.map((kind) => h("option", { value: kind }, kind || "all kinds")),
    );
    this.kind.value = kinds.includes(chosen) ? chosen : "";
  }

  draw() {
    const kind = this.kind.value;
    const wanted = this.search.value.trim().toLowerCase();
    const orders = {
      count: (a, b) => b.count - a.count || (a.tag < b.tag ? -1 : 1),
      rare: (a, b) => a.count - b.count || (a.tag < b.tag ? -1 : 1),
      tag: (a, b) => (a.tag < b.tag ? -1 : 1),
      length: (a, b) => b.tag.length - a.tag.length || b.count - a.count,
    };
    this.shown = this.tags
      .filter((each) => each.tag.toLowerCase().includes(wanted) && (!kind || each.category === kind))
      .sort(orders[this.order.value]);
    text(this.found, `${count(this.shown.length, "tag")} in ${count(this.ids.length, "picture")}`);
    this.grid.fill(this.shown.length);
  }

  make() {
    const [bar, name, number] = [
      h("i"),
      h("span", { class: "ls-tag-name" }),
      h("span", { class: "ls-count ls-figure" }),
    ];
    const row = h(
      "div",
      { class: "ls-tag-row", role: "listitem" },
      h("button", { type: "button", class: "ls-tag-filter", "data-act": "filter" }, bar, name, number),
      h(
        "button",
        { type: "button", class: "ls-button ls-tool", "data-act": "rename", title: "Rename", "aria-label": "Rename" },
        icon("edit"),
      ),
      h(
        "button",
        { type: "button", class: "ls-button ls-tool", "data-act": "remove", title: "Remove", "aria-label": "Remove" },
        icon("close"),
      ),
    );
    return Object.assign(row, { bar, name, number });
  }

  fillRow(row, place) {
    const { tag, count: number, category } = this.shown[place];
    row.dataset.tag = tag;
    row.dataset.category = category;
    text(row.name, tag);
    row.firstElementChild.title = `Show the pictures with ${tag}`;
    text(row.number, whole(number));
    row.bar.style.width = `${(number / this.most) * 100}%`;
  }

  click(event) {
    const act = event.target.closest("[data-act]");
    if (!act) return;
    const { tag } = act.closest(".ls-tag-row").dataset;
    ({ filter: () => this.look.filter(tag), rename: () => this.rename(tag), remove: () => this.remove(tag) })[
      act.dataset.act
    ]();
  }

  async rename(tag) {
    const now = await askText(
      "Rename a tag",
      `What ${tag} is to be called in ${count(this.ids.length, "picture")}`,
      tag,
      "Rename",
    );
    if (now && now !== tag) await this.run("rename", { tags: tag, into: now, exact: true });
  }

  async remove(tag) {
    const { ids } = this;
    const values = { tags: tag, exact: true };
    try {
      // Counted by the edit: it takes red_hair for red hair.
      const { changed } = await post(this.dataset.route("edit/preview"), { edit: "remove", values, ids });
      const question = `Take ${tag} out of ${count(changed, "caption")}? Undo brings it back.`;
      if (await confirm("Remove a tag", question, "Remove")) await this.run("remove", values, ids);
    } catch (error) {
      tell(error.message, "error");
    }
  }

  async run(edit, values, ids = this.ids) {
    try {
      await this.look.edit(edit, values, ids);
    } catch (error) {
      tell(error.message, "error");
    }
  }
}
