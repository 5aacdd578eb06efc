// The jobs of a tab so far, to look at again.

import { h, put, show, text } from "./dom.js";
import { clock } from "./format.js";
import { pill, setPill } from "./status.js";

export class Earlier {
  /** @param {(id: string) => void} watch shows a job */
  constructor(watch) {
    Object.assign(this, { watch, rows: new Map() });
    this.list = h("div", { class: "ls-earlier-list" });
    this.element = h(
      "section",
      { class: "ls-section ls-earlier", "aria-label": "Earlier results", hidden: true },
      h("header", { class: "ls-section-head" }, h("h2", {}, "Earlier results")),
      this.list,
    );
  }

  /** @param {(job: Object) => string} label what a job is */
  draw(jobs, shown, label) {
    show(this.element, jobs.length > 0);
    const key = jobs.map((job) => job.id).join();
    if (key !== this.drawn) {
      this.drawn = key;
      this.rows = new Map(jobs.map((job) => [job.id, this.row(job)]));
      put(
        this.list,
        [...this.rows.values()].map((row) => row.element),
      );
    }
    for (const job of jobs) {
      const row = this.rows.get(job.id);
      setPill(row.pill, job.status);
      text(row.about, `${label(job)}, ${clock(job.created)}`);
      row.element.setAttribute("aria-current", String(job.id === shown?.id));
    }
  }

  row(job) {
    const row = { pill: pill(job.status), about: h("span", { class: "ls-help" }) };
    row.element = h(
      "button",
      { type: "button", class: "ls-earlier-row", onclick: () => this.watch(job.id) },
      h("span", {}, h("b", { class: "ls-job-name" }, job.name), row.about),
      row.pill,
    );
    return row;
  }
}
