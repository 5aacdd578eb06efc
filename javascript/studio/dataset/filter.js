// The filter box, the order of the pictures, and what of them is shown.

import { ask, tell } from "../dialogs.js";
import { button, h, icon, put, select, show, text } from "../dom.js";
import { whole } from "../format.js";

const REST_MS = 15;
const ORDERS = [
  ["name", "name"],
  ["caption", "caption"],
  ["tags", "number of tags"],
  ["characters", "length of caption"],
  ["tokens", "tokens"],
  ["modified", "date of the file"],
  ["kilobytes", "size of the file"],
  ["megapixels", "pixels"],
  ["ratio", "width to height"],
];
const HELP = [
  ["red hair", "has the tag red hair"],
  ["1girl -hat", "has 1girl and not hat"],
  ["cat OR (dog AND outdoors)", "AND, OR, NOT and brackets"],
  ["red_* *hair", "wildcards: * and ?"],
  ['"red_hair"', "exactly as it is written"],
  ["/gr[ae]y/", "a regular expression"],
  ["caption:sofa name:img*", "part of the caption; the file's name (also path: folder: concept: prose:)"],
  ["tags>10 tokens>75 side<512", "numbers (also characters width height megapixels ratio kilobytes repeats lines)"],
  ["is:uncaptioned is:damaged", "also is:prose is:animated is:untrained"],
  ["selected", "those that are chosen"],
];

export class FilterBar {
  /**
   * @param {import("./store.js").Dataset} dataset
   * @param {import("./selection.js").Selection} selection
   */
  constructor(dataset, selection) {
    Object.assign(this, { dataset, selection });
    this.input = h("input", {
      type: "search",
      class: "ls-input",
      spellcheck: "false",
      placeholder: "Filter: tags and words",
      "aria-label": "Filter",
      oninput: () => this.later(),
      onkeydown: (event) => this.key(event),
    });
    this.error = h("p", { class: "ls-error ls-filter-error", role: "alert", hidden: true });
    this.count = h("span", { class: "ls-found ls-figure", role: "status" });
    this.clear = button("Clear the filter", () => this.write(""), { kind: "tool", icon: "close" });
    this.order = select(ORDERS, "name", () => this.sort());
    this.order.setAttribute("aria-label", "Order");
    this.order.title = "Order of the pictures";
    this.direction = button("Reverse the order", () => this.turn(), { kind: "tool", icon: "down" });
    this.element = h(
      "div",
      { class: "ls-filter" },
      h("div", { class: "ls-search-box" }, icon("search"), this.input, this.clear),
      h("span", { class: "ls-inline" }, this.order, this.direction),
      button("What can be asked", () => this.help(), { kind: "tool", icon: "help" }),
      this.count,
      this.error,
    );
    for (const name of ["view", "items"]) dataset.addEventListener(name, () => this.draw());
    selection.addEventListener("selection", () => this.draw());
    dataset.addEventListener("opened", () => {
      this.input.value = "";
      this.order.value = "name";
      this.direction.classList.remove("ls-turned");
      this.fail(null);
      this.draw();
    });
    this.draw();
  }

  draw() {
    const { dataset, selection } = this;
    const shown = dataset.view.length;
    const pictures =
      shown === dataset.count ? `${whole(shown)} pictures` : `${whole(shown)} of ${whole(dataset.count)}`;
    text(this.count, selection.size ? `${pictures}, ${whole(selection.size)} chosen` : pictures);
    this.clear.style.visibility = this.input.value ? "visible" : "hidden";
  }

  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.apply(), REST_MS);
    this.draw();
  }

  write(query) {
    this.input.value = query;
    this.apply();
  }

  /** Add a condition to what is there. */
  add(condition) {
    const now = this.input.value.trim();
    this.write(now ? (/[|]|\bOR\b/.test(now) ? `(${now}) ${condition}` : `${now} ${condition}`) : condition);
  }

  async apply() {
    clearTimeout(this.timer);
    const query = this.input.value;
    try {
      await this.dataset.filter(query, this.selection.ids);
      this.fail(null);
    } catch (error) {
      if (query === this.input.value) this.fail(error);
    }
    this.draw();
  }

  /** Say what is wrong, and where in the text. */
  fail(error) {
    show(this.error, error);
    this.input.toggleAttribute("aria-invalid", Boolean(error));
    if (!error) return;
    const [, position, problem] = /position (\d+): ([^;]*)/.exec(error.message) ?? [];
    if (!position) return put(this.error, error.message.replace(/^filter: /, ""));
    const query = this.input.value;
    const at = Number(position) - 1;
    return put(
      this.error,
      problem,
      ": ",
      h("code", {}, query.slice(0, at), h("mark", {}, query.slice(at, at + 1) || "␣"), query.slice(at + 1)),
    );
  }

  help() {
    const rows = HELP.map(([query, words]) => h("div", {}, h("dt", {}, h("code", {}, query)), h("dd", {}, words)));
    return ask("What the filter understands", () => h("dl", { class: "ls-filter-help" }, rows), []);
  }

  async sort(reverse = this.dataset.order.reverse) {
    this.direction.classList.toggle("ls-turned", reverse);
    try {
      await this.dataset.sort(this.order.value, reverse);
    } catch (error) {
      tell(error.message, "error");
    }
  }

  turn() {
    return this.sort(!this.dataset.order.reverse);
  }

  key(event) {
    if (event.key === "Escape") {
      if (this.input.value) this.write("");
      else this.input.blur();
    } else if (event.key === "Enter") this.apply();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
