// A grid of pictures as they come in: its columns and rows, a picture large, and which of them is the best.

import { button, h, put, show } from "../dom.js";
import { fileName } from "../format.js";
import { pictureAddress } from "../pictures.js";
import { percent } from "../tools/report.js";
import { Advice } from "./advice.js";
import { zoom } from "./zoom.js";

const SHORT = 14; // letters of a row's label that stands beside its pictures, not above them

export class GridView {
  /** @param {import("./run.js").Actions} actions */
  constructor(actions) {
    Object.assign(this, { cells: new Map(), places: new Map(), best: null, feed: null, drawn: 0 });
    this.advice = new Advice(actions);
    this.box = h("div", { class: "ls-grid-box", tabindex: "0", role: "group", "aria-label": "Pictures" });
    this.hint = h("p", { class: "ls-help" }, "Mark the best picture with its star, to go on with it.");
    this.element = h("div", { class: "ls-tool-result" }, this.hint, this.box, this.advice.element);
  }

  /** @param {Object} job  @param {import("../live.js").Feed} feed */
  update(job, feed) {
    this.job = job;
    if (feed.axes !== this.axes) this.begin(feed.axes);
    if (!this.axes) return;
    for (const cell of feed.cells.slice(this.drawn)) this.place(cell);
    this.drawn = feed.cells.length;
  }

  begin(axes) {
    Object.assign(this, { axes, drawn: 0, best: null });
    this.cells.clear();
    this.places.clear();
    this.advice.clear();
    if (axes) this.buildTable();
  }

  buildTable() {
    const { columns, rows } = this.axes;
    const beside = rows.labels.every((label) => label.length <= SHORT);
    const named = rows.labels.some(Boolean);
    const head = (label) => h("th", { scope: "col", title: label }, h("span", {}, label));
    const line = (row) =>
      columns.labels.map((_, column) => {
        const cell = h("td");
        this.places.set(`${row}/${column}`, cell);
        return cell;
      });
    const body = rows.labels.map((label, row) =>
      beside
        ? h("tr", {}, named && h("th", { scope: "row" }, label), line(row))
        : [
            h("tr", {}, h("th", { scope: "rowgroup", colspan: columns.labels.length, class: "ls-row-label" }, label)),
            h("tr", {}, line(row)),
          ],
    );
    put(
      this.box,
      h(
        "table",
        {
          class: "ls-picture-table",
          style: `--ls-columns: ${columns.labels.length}`,
          "aria-label": `${columns.name} by ${rows.name}`,
        },
        h("thead", {}, h("tr", {}, beside && named && h("td", { class: "ls-corner" }), columns.labels.map(head))),
        h("tbody", {}, body),
      ),
    );
    show(this.hint, columns.labels.length * rows.labels.length > 2);
  }

  place(cell) {
    const name = fileName(cell.path);
    const source = pictureAddress(this.job.id, name);
    for (const [row, column] of cell.places) {
      const shown = { source, label: cell.label, note: changeWords(cell), values: cell.values, row, column };
      this.cells.set(`${row}/${column}`, shown);
      put(this.places.get(`${row}/${column}`), this.picture(shown));
    }
  }

  picture(shown) {
    return h(
      "div",
      { class: "ls-cell" },
      h(
        "button",
        {
          type: "button",
          class: "ls-thumb",
          title: `${shown.label}\n${shown.note}`,
          onclick: () => this.enlarge(shown),
        },
        h("img", { src: shown.source, alt: shown.label, loading: "lazy" }),
      ),
      shown.values.lora && this.star(shown),
    );
  }

  star(shown) {
    const mark = h(
      "button",
      {
        type: "button",
        class: "ls-star",
        "aria-label": `The best: ${shown.label}`,
        title: "This is the best",
        "aria-pressed": String(this.best === shown),
        onclick: () => this.choose(shown),
      },
      "★",
    );
    shown.star = mark;
    return mark;
  }

  choose(shown) {
    this.best = this.best === shown ? null : shown;
    for (const { star } of this.cells.values()) star?.setAttribute("aria-pressed", String(star === this.best?.star));
    if (this.best) this.advice.ask(shown.label, shown.values, this.hasStrengths());
    else this.advice.clear();
  }

  hasStrengths() {
    const used = [...this.cells.values()].filter(({ values }) => values.lora);
    return ["unet", "te"].some((name) => new Set(used.map(({ values }) => values[name])).size > 1);
  }

  /** The same picture without the LoRA. */
  baseOf({ values }) {
    const same = (other) => ["checkpoint", "prompt", "seed"].every((name) => other[name] === values[name]);
    if (!values.lora) return null;
    return [...this.cells.values()].find((each) => !each.values.lora && same(each.values))?.source ?? null;
  }

  enlarge(shown) {
    const all = [...this.cells.values()];
    for (const each of all) each.base ??= this.baseOf(each);
    const best = (now, draw) =>
      now.star &&
      button(this.best === now ? "★ The best" : "☆ This is the best", () => {
        this.choose(now);
        draw();
      });
    return zoom(this.job.name, all, shown, best);
  }
}

const changeWords = ({ change }) =>
  change === null || change === undefined ? "" : `changes the picture by ${percent(change)}`;
