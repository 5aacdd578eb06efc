// A table that is sorted by a click on a heading, and shows the first rows until all are asked for.

import { button, h, put, show } from "./dom.js";
import { count } from "./format.js";

const MOST = 12;

/**
 * @typedef {{name: string, value: (row: any) => number | string | null, show?: (row: any) => any, number?: boolean,
 *   title?: string}} Column `show` is what stands in the cell, else the value
 */
export class DataTable {
  /**
   * @param {string} label
   * @param {Column[]} columns
   * @param {any[]} rows
   * @param {{column: number, falling: boolean}} order
   */
  constructor(label, columns, rows, order) {
    Object.assign(this, { columns, rows, order, all: false });
    this.heads = columns.map((column, index) =>
      h(
        "th",
        { scope: "col", class: column.number ? "ls-number" : null, title: column.title },
        h("button", { type: "button", class: "ls-sort", onclick: () => this.sort(index) }, column.name),
      ),
    );
    this.body = h("tbody");
    this.more = button(`Show all ${count(rows.length, "row")}`, () => this.showAll());
    this.element = h(
      "div",
      { class: "ls-data" },
      h(
        "div",
        { class: "ls-data-box" },
        h("table", { class: "ls-data-table", "aria-label": label }, h("thead", {}, h("tr", {}, this.heads)), this.body),
      ),
      h("div", { class: "ls-row ls-small" }, this.more),
    );
    this.draw();
  }

  /** Numbers begin with the largest, texts with "a"; the same heading again turns the order round. */
  sort(column) {
    const falling = this.order.column === column ? !this.order.falling : Boolean(this.columns[column].number);
    this.order = { column, falling };
    this.draw();
  }

  showAll() {
    this.all = true;
    this.draw();
  }

  draw() {
    const { value } = this.columns[this.order.column];
    const sign = this.order.falling ? -1 : 1;
    // What has no value stands last either way.
    const none = (row) => value(row) === null || value(row) === undefined;
    const sorted = [...this.rows].sort((a, b) => none(a) - none(b) || sign * compare(value(a), value(b)));
    const shown = this.all ? sorted : sorted.slice(0, MOST);
    this.heads.forEach((head, index) => {
      const way = this.order.falling ? "descending" : "ascending";
      if (index === this.order.column) head.setAttribute("aria-sort", way);
      else head.removeAttribute("aria-sort");
    });
    put(
      this.body,
      shown.map((row) =>
        h(
          "tr",
          {},
          this.columns.map((column) => cell(column, row)),
        ),
      ),
    );
    show(this.more, shown.length < this.rows.length);
  }
}

const cell = (column, row) =>
  h("td", { class: column.number ? "ls-number" : null }, column.show ? column.show(row) : (column.value(row) ?? "–"));

const compare = (a, b) =>
  typeof a === "string" && typeof b === "string" ? a.localeCompare(b) : a < b ? -1 : a > b ? 1 : 0;
