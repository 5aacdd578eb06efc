// The job that is looked at: progress, curves, previews, log, buttons, result.

import { getText } from "./api.js";
import { act } from "./actions.js";
import { LineChart, smooth } from "./charts.js";
import { button, h, newId, put, show, text } from "./dom.js";
import { loss, megabytes, rate, whole, withoutBars } from "./format.js";
import { ACTIVE, Feed } from "./live.js";
import { recall, remember } from "./memory.js";
import { Gallery } from "./pictures.js";
import { Result } from "./result.js";
import { ACTIONS, Bar, epochWords, pill, progressOf, setPill, timeWords, whereWords } from "./status.js";

const BUTTONS = { pause: "primary", resume: "primary", save: "plain", stop: "plain", abort: "stop", retry: "plain" };

export class RunPanel {
  /**
   * @param {import("./live.js").Live} live
   * @param {(values: Object) => void} again puts a run's settings into the form
   */
  constructor(live, host, again) {
    this.live = live;
    this.host = host;
    this.pinned = recall("job");
    this.feed = null;
    this.empty = h(
      "p",
      { class: "ls-empty" },
      "Nothing has been started yet. A run's progress, loss and previews are shown here.",
    );
    this.build(host, again);
    this.element = h("section", { class: "ls-section ls-run", "aria-label": "Run" }, this.empty, this.body);
    live.addEventListener("jobs", () => this.update());
  }

  build(host, again) {
    this.name = h("h2");
    this.pill = pill("queued");
    this.kind = h("span", { class: "ls-help" });
    this.back = button("Show what runs", () => this.pin(null));
    this.bar = new Bar("Progress");
    this.progress = h("span");
    this.epoch = h("span");
    this.time = h("span");
    this.why = h("p", { class: "ls-why", role: "status" });
    this.error = h("div", { class: "ls-failure", role: "alert", hidden: true });
    this.buttons = Object.fromEntries(
      Object.entries(BUTTONS).map(([action, kind]) => [
        action,
        button(ACTIONS[action], () => act(this.live, this.job, action), { kind }),
      ]),
    );
    this.gallery = new Gallery();
    this.result = new Result(host, again);
    this.body = h(
      "div",
      { class: "ls-run-body", hidden: true },
      h("header", { class: "ls-section-head" }, this.name, this.pill, this.back),
      this.kind,
      h(
        "div",
        { class: "ls-progress-box" },
        this.bar.element,
        h("div", { class: "ls-progress-words" }, this.progress, this.epoch, this.time),
      ),
      this.why,
      this.error,
      h("div", { class: "ls-row ls-run-buttons" }, Object.values(this.buttons)),
      this.result.element,
      this.buildCharts(),
      this.gallery.element,
      this.buildLog(),
    );
  }

  buildCharts() {
    this.lossChart = new LineChart({ label: "Loss", format: loss, height: 190 });
    this.rateChart = new LineChart({ label: "Learning rate", format: rate, height: 110 });
    this.lossNow = h("b", { class: "ls-figure" });
    this.memory = h("span", { class: "ls-figure" });
    this.best = h("p", { class: "ls-help" });
    const slider = h("input", {
      type: "range",
      min: 0,
      max: 0.995,
      step: 0.005,
      id: newId(),
      value: recall("smoothing", 0.95),
      oninput: () => {
        remember("smoothing", Number(slider.value));
        this.drawCurves();
      },
    });
    this.smoothing = slider;
    this.charts = h(
      "div",
      { class: "ls-charts", hidden: true },
      h(
        "header",
        { class: "ls-part-head" },
        h("h3", {}, "Loss ", this.lossNow),
        h("label", { for: slider.id, class: "ls-help" }, "Smoothing"),
        slider,
      ),
      this.lossChart.element,
      this.best,
      h(
        "header",
        { class: "ls-part-head" },
        h("h3", {}, "Learning rate"),
        h("span", { class: "ls-help" }, "Memory ", this.memory),
      ),
      this.rateChart.element,
    );
    return this.charts;
  }

  buildLog() {
    this.notes = h("ul", { class: "ls-notes" });
    this.log = h("pre", { class: "ls-log", tabindex: "0", "aria-label": "Log" });
    this.logBox = h(
      "details",
      { class: "ls-group" },
      h("summary", {}, h("span", {}, "Notes and log")),
      this.notes,
      this.log,
    );
    this.logBox.addEventListener("toggle", () => this.loadLog());
    return this.logBox;
  }

  /** Keep showing one job; null: whatever runs. */
  pin(id) {
    this.pinned = id;
    remember("job", id);
    this.update();
  }

  choose() {
    const { jobs, running } = this.live;
    const known = jobs.filter((job) => job.kind === "train");
    const pinned = this.live.job(this.pinned);
    const runs = known.find((job) => job.id === running) ?? known.find((job) => ACTIVE.has(job.status));
    const newest = known.filter((job) => job.started).sort((a, b) => b.started - a.started)[0];
    return pinned ?? runs ?? newest ?? known.find((job) => job.status === "queued") ?? null;
  }

  async update() {
    const job = this.choose();
    this.job = job;
    show(this.empty, !job);
    show(this.body, job);
    if (!job) return;
    if (this.feed?.id !== job.id) this.feed = new Feed(job.id);
    this.writeHead(job);
    if (await this.follow(job)) this.drawCurves();
    if (this.job?.id !== job.id) return; // another one was chosen meanwhile
    show(this.charts, this.feed.steps.length > 0);
    this.gallery.update(job);
    this.result.update(job, this.feed);
    this.writeNotes();
  }

  /** Fetch the job's new events. What has ended has none, once all were read. */
  async follow(job) {
    const feed = this.feed;
    const key = `${job.status}/${job.ended}`;
    if (!ACTIVE.has(job.status) && feed.readUpTo === key) return false;
    try {
      const any = await feed.update();
      feed.readUpTo = key;
      if (any && this.logBox.open) this.loadLog();
      return any;
    } catch {
      return false; // the banner says that the connection is lost
    }
  }

  writeHead(job) {
    const { live } = this;
    text(this.name, job.name);
    this.name.title = job.name;
    setPill(this.pill, job.status);
    text(this.kind, whereWords(job, this.host));
    show(this.back, live.running && live.running !== job.id && live.job(live.running)?.kind === "train");
    this.bar.set(job);
    const ended = !ACTIVE.has(job.status) && job.status !== "queued";
    text(this.progress, progressOf(job).words);
    text(this.epoch, epochWords(job));
    text(this.time, timeWords(job));
    text(this.why, ended ? "" : (job.why ?? ""));
    this.writeError(job.error);
    for (const [action, element] of Object.entries(this.buttons)) show(element, job.can.includes(action));
    text(this.lossNow, loss(job.loss));
    text(this.memory, megabytes(job.memory_mb));
  }

  writeError(error) {
    show(this.error, error);
    if (error) text(this.error, error.message);
  }

  drawCurves() {
    const { steps, losses, rates, epochs, validations, best } = this.feed;
    const curves = [{ name: "loss", y: smooth(losses, Number(this.smoothing.value)), raw: losses }];
    if (validations.length > 0) curves.push({ name: "held out", y: held(steps, validations) });
    this.lossChart.set(steps, curves, epochs);
    text(this.best, best ? `Held out: best ${loss(best.loss)} after epoch ${best.epoch}, step ${whole(best.step)}` : "");
    this.rateChart.set(
      steps,
      [...rates].map(([name, y]) => ({ name, y })),
      epochs,
    );
  }

  writeNotes() {
    const { notes, id } = this.feed;
    const key = `${id}/${notes.length}`;
    if (this.notesDrawn === key) return;
    this.notesDrawn = key;
    put(
      this.notes,
      notes
        .slice(-50)
        .map((note) =>
          h("li", { class: `ls-${note.level}${note.text.includes("\n") ? " ls-table-text" : ""}` }, note.text),
        ),
    );
  }

  async loadLog() {
    if (!this.logBox.open || !this.job) return;
    const bottom = this.log.scrollTop + this.log.clientHeight >= this.log.scrollHeight - 8;
    try {
      text(this.log, withoutBars(await getText(`jobs/${encodeURIComponent(this.job.id)}/log`)));
    } catch (error) {
      text(this.log, error.message);
    }
    if (bottom) this.log.scrollTop = this.log.scrollHeight;
  }
}

/** The last measured loss at each step: a line with a stair at each measurement. */
function held(steps, validations) {
  let place = -1;
  return steps.map((step) => {
    while (place + 1 < validations.length && validations[place + 1].step <= step) place++;
    return place < 0 ? NaN : validations[place].loss;
  });
}
