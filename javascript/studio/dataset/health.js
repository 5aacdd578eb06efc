// The health report: what would harm a training, each with its pictures and, where one click can mend it, its fix.

import { get, post } from "../api.js";
import { BarChart } from "../bars.js";
import { confirm, tell } from "../dialogs.js";
import { button, h, put, text } from "../dom.js";
import { Form } from "../form.js";
import { count, whole } from "../format.js";
import { bucketChart, fact } from "../plan.js";
import { attempt } from "../presets.js";
import { optionFields } from "./fields.js";
import { tellConflicts } from "./history.js";
import { askChange } from "./preview.js";
import { TaskView } from "./task.js";

const WORDS = { error: "Errors: training refuses these", warning: "Warnings: most likely harmful", hint: "Hints" };
const MOST_TAGS = 30,
  MOST_SIZES = 16,
  TOKEN_STEP = 15;

export class Health {
  /**
   * @param {import("./store.js").Dataset} dataset
   * @param {import("./captions.js").Captions} captions
   * @param {{show: (ids: number[]) => void, values: () => Object}} look `show` shows pictures alone; `values` are the
   *   Train form's
   */
  constructor(dataset, captions, look) {
    Object.assign(this, { dataset, captions, look });
    this.task = new TaskView(dataset);
    this.start = button("Check the dataset", () => this.check(), { kind: "primary" });
    this.state = h("span", { class: "ls-found", role: "status" });
    this.settings = h("div", { class: "ls-panel" });
    this.findings = h("div", { class: "ls-findings" });
    this.charts = h("div", { class: "ls-health-charts" });
    this.element = h(
      "div",
      { class: "ls-panel" },
      h("div", { class: "ls-row" }, this.start, this.state),
      h("details", { class: "ls-more" }, h("summary", {}, "Settings"), this.settings),
      this.task.element,
      this.findings,
      this.charts,
    );
    dataset.addEventListener("opened", () => this.forget());
    dataset.addEventListener("status", () => this.drawState());
  }

  forget() {
    this.report = null;
    put(this.findings);
    put(this.charts);
    text(this.state, "");
    if (this.element.offsetParent) attempt(() => this.load());
  }

  /** The form, with the Train form's values, and the report of last time. */
  async load() {
    if (!this.dataset.isOpen) return;
    if (!this.form) {
      const schema = await get("dataset/health");
      this.form = new Form(schema, () => {});
      const shared = Object.entries(this.look.values()).filter(([name]) => this.form.has(name));
      this.form.fill(Object.fromEntries(shared));
      put(
        this.settings,
        schema.groups.flatMap((group) => [
          h("h4", {}, group.name === "Training" ? "Training, as in the tab Train" : group.name),
          optionFields(this.form, group.options),
        ]),
      );
    }
    if (this.report) return;
    const { report } = await get(this.dataset.route("health"));
    if (report) this.draw(report);
  }

  async check() {
    await this.load();
    await this.captions.save();
    this.start.disabled = true;
    this.form.clearErrors();
    try {
      const report = await this.task.run("health", { values: this.form.submitted() });
      if (report) this.draw(report);
    } catch (error) {
      if (!this.form.showError(error)) tell(error.message, "error");
    } finally {
      this.start.disabled = false;
    }
  }

  draw(report) {
    this.report = report;
    this.drawState();
    const { findings, notes } = report;
    put(
      this.findings,
      findings.length === 0 && h("p", { class: "ls-fine" }, "Nothing wrong was found."),
      Object.entries(WORDS).map(([severity, words]) => {
        const some = findings.map((each, place) => [each, place]).filter(([each]) => each.severity === severity);
        return (
          some.length > 0 && [
            h("h3", {}, `${words} (${some.length})`),
            h(
              "ul",
              {},
              some.map(([each, place]) => this.finding(each, place)),
            ),
          ]
        );
      }),
      notes.map((note) => h("p", { class: "ls-help" }, note)),
    );
    this.drawCharts(report);
  }

  drawState() {
    if (!this.report) return;
    const stale = Number(this.dataset.version?.split(".")[1]) !== this.report.version;
    text(
      this.state,
      stale ? "The dataset has changed since; check again." : count(this.report.findings.length, "finding"),
    );
  }

  finding(each, place) {
    const { items, files } = each;
    return h(
      "li",
      { class: "ls-finding", "data-severity": each.severity, "data-kind": each.kind },
      h("p", {}, each.text),
      files.length > 0 &&
        h(
          "p",
          { class: "ls-help" },
          files.slice(0, 5).join(", "),
          files.length > 5 && ` and ${whole(files.length - 5)} more`,
        ),
      h(
        "div",
        { class: "ls-row ls-small" },
        items.length > 0 && button(`Show ${count(items.length, "picture")}`, () => this.look.show(items)),
        each.fix && button(each.fix, () => this.fix(each, place)),
      ),
    );
  }

  async fix(finding, place) {
    await this.captions.save();
    const body = { finding: place, version: this.report.version };
    try {
      const preview = await post(this.dataset.route("health/preview"), body);
      const sure = preview.examples.length
        ? await askChange(this.dataset, finding.fix, preview, finding.fix)
        : await confirm(finding.fix, `${finding.text} Undo takes it back.`, finding.fix, "primary");
      if (!sure) return;
      const done = await this.task.run("health/fix", body);
      await this.dataset.follow(done.status);
      if (done.conflicts.length) tellConflicts(done.conflicts, this.dataset);
    } catch (error) {
      return tell(error.message, "error");
    }
    await this.check();
  }

  drawCharts({ steps, buckets, resolutions, tag_frequency: tags, tokens }) {
    const bars = (label, pairs) => {
      const chart = new BarChart({ label, format: whole });
      chart.set(
        pairs.map(([name]) => name),
        [{ name: label, y: pairs.map(([, value]) => value) }],
      );
      return [h("h3", {}, label), chart.element];
    };
    put(
      this.charts,
      steps && [
        h("h3", {}, "What training makes of it"),
        h(
          "dl",
          { class: "ls-facts ls-outcome" },
          fact("Samples an epoch", whole(steps.samples + (steps.reg_samples ?? 0))),
          fact("Steps an epoch", whole(steps.steps_per_epoch)),
          fact("Epochs", whole(steps.epochs)),
          fact("Steps", whole(steps.total_steps)),
        ),
      ],
      buckets.length > 0 && [h("h3", {}, "Buckets"), h("div", { class: "ls-buckets" }, bucketChart(buckets))],
      tags.length > 0 && bars(`Most frequent tags of ${whole(tags.length)}`, tags.slice(0, MOST_TAGS)),
      resolutions.length > 0 && bars("Resolutions", sizeBars(resolutions)),
      tokens && bars("Tokens a caption", tokenBars(tokens.counts)),
    );
  }
}

const sizeBars = (sizes) =>
  sizes.slice(0, MOST_SIZES).map(({ width, height, pictures }) => [`${width}×${height}`, pictures]);

/** Captions by tokens, in spans of 15: five make a portion of 75. */
function tokenBars(counts) {
  const spans = new Map();
  for (const [tokens, captions] of Object.entries(counts)) {
    const span = Math.floor(Math.max(0, Number(tokens) - 1) / TOKEN_STEP);
    spans.set(span, (spans.get(span) ?? 0) + captions);
  }
  const last = Math.max(0, ...spans.keys());
  return Array.from({ length: last + 1 }, (_, span) => [
    `${span * TOKEN_STEP + 1}–${(span + 1) * TOKEN_STEP}`,
    spans.get(span) ?? 0,
  ]);
}
