// What the chosen optimizer is, wants, and may be told.

import { h, put, text } from "./dom.js";
import { rate } from "./format.js";

export class OptimizerHelp {
  /**
   * @param {import("./form.js").Form} form
   * @param {{name: string, help: string, rate: number | null, schedule: string,
   *   arguments: {name: string, default: string | null, help: string}[]}[]} optimizers
   */
  constructor(form, optimizers) {
    this.form = form;
    this.optimizers = new Map(optimizers.map((each) => [each.name.toLowerCase(), each]));
    this.about = h("p", { class: "ls-help" });
    this.list = h("dl", { class: "ls-arguments" });
    this.element = h("details", { class: "ls-optimizer-help" }, h("summary", {}, "What it may be told"), this.list);
    this.refresh();
  }

  refresh() {
    const chosen = this.optimizers.get(String(this.form.values.optimizer_type).toLowerCase());
    this.element.hidden = !chosen;
    if (!chosen || chosen === this.chosen) return;
    this.chosen = chosen;
    const wanted = chosen.rate === null ? "makes its own rate" : `usual rate ${rate(chosen.rate)}`;
    text(this.about, `${chosen.name}: ${chosen.help}; ${wanted}, schedule ${chosen.schedule}`);
    put(
      this.list,
      chosen.arguments.map(({ name, default: usual, help }) =>
        h("div", {}, h("dt", {}, h("code", {}, usual === null ? name : `${name}=${usual}`)), h("dd", {}, help)),
      ),
    );
  }
}
