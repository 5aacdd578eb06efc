// The options that the simple part does not show: groups to fold open, and a search over all of them.

import { debounce, h, icon, show, text } from "./dom.js";

export class Advanced {
  /**
   * @param {import("./form.js").Form} form
   * @param {Set<string>} elsewhere options that have their place already
   * @param {(option: Object) => Object} look what else a field should have
   */
  constructor(form, elsewhere, look) {
    this.form = form;
    this.groups = form.groups
      .map(
        (group) =>
          new Group(
            form,
            group.name,
            group.options.filter((option) => !elsewhere.has(option.name)),
            look,
          ),
      )
      .filter((group) => group.options.length > 0);
    this.input = h("input", {
      type: "search",
      class: "ls-input",
      placeholder: "Search options",
      "aria-label": "Search options",
      oninput: debounce(() => this.filter(), 120),
    });
    this.onlyChanged = h("input", { type: "checkbox", class: "ls-check", onchange: () => this.filter() });
    this.found = h("span", { class: "ls-found", role: "status" });
    this.nothing = h("p", { class: "ls-empty", hidden: true }, "No option matches.");
    this.element = h(
      "section",
      { class: "ls-section ls-advanced", "aria-label": "Advanced" },
      h("header", { class: "ls-section-head" }, h("h2", {}, "Advanced"), this.found),
      h(
        "div",
        { class: "ls-search" },
        h("div", { class: "ls-search-box" }, icon("search"), this.input),
        h("label", { class: "ls-inline" }, this.onlyChanged, "only changed"),
      ),
      this.groups.map((group) => group.element),
      this.nothing,
    );
    this.element.addEventListener("ls-reveal", (event) => this.reveal(event.target));
    this.refresh();
  }

  /** Count what is changed anew. */
  refresh() {
    let changed = 0;
    for (const group of this.groups) changed += group.refresh();
    const total = this.groups.reduce((sum, group) => sum + group.options.length, 0);
    text(this.found, `${total} options${changed ? `, ${changed} changed` : ""}`);
  }

  /** Bring a field into view whatever hides it. */
  reveal(field) {
    this.input.value = "";
    this.onlyChanged.checked = false;
    this.filter();
    this.groups.find((group) => group.fields.includes(field))?.open();
  }

  filter() {
    const words = this.input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const all = words.length === 0 && !this.onlyChanged.checked;
    let hits = 0;
    for (const group of this.groups) {
      hits += group.filter(
        (option) =>
          words.every((word) => searchText(option).includes(word)) &&
          (!this.onlyChanged.checked || this.form.isChanged(option.name)),
        all,
      );
    }
    show(this.nothing, hits === 0);
  }
}

const searchText = (option) => `${option.name} ${option.label} ${option.help}`.toLowerCase();

class Group {
  constructor(form, name, options, look) {
    this.form = form;
    this.options = options;
    this.count = h("span", { class: "ls-count" });
    this.fields = options.map((option) => form.field(option.name, { named: true, ...look(option) }));
    this.element = h(
      "details",
      { class: "ls-group" },
      h("summary", {}, h("span", {}, name), this.count),
      h("div", { class: "ls-grid" }, this.fields),
    );
    // What a search has opened closes with it, what a person has opened stays.
    this.openedByHand = false;
    this.element.querySelector("summary").addEventListener("click", () => (this.openedByHand = !this.element.open));
  }

  open() {
    this.openedByHand = true;
    this.element.open = true;
  }

  refresh() {
    const changed = this.options.filter((option) => this.form.isChanged(option.name)).length;
    text(this.count, changed ? `${changed} changed` : "");
    return changed;
  }

  filter(matches, all) {
    let hits = 0;
    this.options.forEach((option, index) => {
      const match = all || matches(option);
      show(this.fields[index], match);
      hits += match;
    });
    show(this.element, hits > 0);
    this.element.open = all ? this.openedByHand : true;
    return hits;
  }
}
