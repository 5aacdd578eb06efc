// The Queue tab: every job with its state, in the order in which they run.

import { getText } from "./api.js";
import { act } from "./actions.js";
import { breakable, button, h, icon, newId, put, show, text } from "./dom.js";
import { whenDone } from "./done.js";
import { clock, count, megabytes, withoutBars } from "./format.js";
import { ACTIVE } from "./live.js";
import { actionName, Bar, epochWords, kindName, pill, progressOf, setPill, timeWords } from "./status.js";

export class QueueTab {
  /**
   * @param {import("./live.js").Live} live
   * @param {Object<string, {watch: (job: Object) => void, change: (job: Object) => void, defaults: () => Object}>} homes
   *   by kind of job: the tab that shows it, and takes its values into a form
   * @param {Object} host
   */
  constructor(live, homes, host) {
    Object.assign(this, { live, homes, rows: new Map(), dragged: null });
    this.summary = h("span", { class: "ls-found", role: "status" });
    this.body = h("tbody");
    this.table = h(
      "table",
      { class: "ls-table" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["Order", "Job", "Status", "Progress", "Actions"].map((name) => h("th", { scope: "col" }, name)),
        ),
      ),
      this.body,
    );
    this.empty = h("p", { class: "ls-empty" }, "The queue is empty. What is started on the other tabs is listed here.");
    this.element = h(
      "section",
      { class: "ls-section ls-queue", "aria-label": "Queue" },
      h(
        "header",
        { class: "ls-section-head" },
        h("h2", {}, "Queue"),
        this.summary,
        h("span", { class: "ls-grow" }),
        whenDone(live, host),
      ),
      this.empty,
      this.table,
    );
    live.addEventListener("jobs", () => this.draw());
  }

  draw() {
    const { jobs } = this.live;
    show(this.empty, jobs.length === 0);
    show(this.table, jobs.length > 0);
    const waiting = jobs.filter((job) => job.status === "queued").length;
    const busy = jobs.filter((job) => ACTIVE.has(job.status)).length;
    text(this.summary, jobs.length === 0 ? "" : `${count(jobs.length, "job")}, ${busy} at work, ${waiting} waiting`);
    for (const [id, row] of this.rows) {
      if (!this.live.job(id)) {
        row.leave();
        this.rows.delete(id);
      }
    }
    jobs.forEach((job, index) => {
      if (!this.rows.has(job.id)) this.rows.set(job.id, new Row(this, job));
      const row = this.rows.get(job.id);
      row.update(job, jobs);
      row.place(this.body, index);
    });
  }

  /** Put a job one place up or down among those that wait. */
  shift(job, by) {
    const waiting = this.live.jobs.filter((each) => each.can.includes("move"));
    const index = waiting.findIndex((each) => each.id === job.id);
    const before = by < 0 ? waiting[index - 1] : waiting[index + 2];
    return act(this.live, job, "move", { before: before?.id ?? null });
  }

  drop(target) {
    const job = this.live.job(this.dragged);
    if (job && job.id !== target.id && target.can.includes("move")) act(this.live, job, "move", { before: target.id });
  }
}

class Row {
  constructor(queue, job) {
    this.queue = queue;
    this.job = job;
    const act_ = (action) => act(queue.live, this.job, action);
    this.name = h("b", { class: "ls-job-name" });
    this.about = h("span", { class: "ls-help" });
    this.pill = pill(job.status);
    this.why = h("span", { class: "ls-help ls-reason" });
    this.bar = new Bar(`Progress of ${job.name}`);
    this.words = h("span", { class: "ls-help ls-figure" });
    this.up = button(`Move ${job.name} up`, () => queue.shift(this.job, -1), { kind: "tool", icon: "up" });
    this.down = button(`Move ${job.name} down`, () => queue.shift(this.job, 1), { kind: "tool", icon: "down" });
    this.handle = h("span", { class: "ls-drag", title: "Drag to another place", "aria-hidden": "true" }, icon("drag"));
    this.actions = Object.fromEntries(
      ["resume", "pause", "stop", "abort", "retry", "remove"].map((action) => [
        action,
        button(actionName(action, job.kind), () => act_(action)),
      ]),
    );
    const home = queue.homes[job.kind];
    this.watch = home && button("Watch", () => home.watch(this.job));
    this.change =
      home &&
      button("Duplicate …", () => home.change(this.job), {
        title: "Load its values into the form, to change and start them anew",
      });
    const detailsId = newId();
    this.more = button("Details", () => this.toggle());
    this.more.setAttribute("aria-expanded", "false");
    this.more.setAttribute("aria-controls", detailsId);
    this.element = h(
      "tr",
      { class: "ls-job" },
      h("td", { class: "ls-order" }, this.handle, this.up, this.down),
      h("td", {}, this.name, this.about),
      h("td", {}, this.pill, this.why),
      h("td", { class: "ls-progress-cell" }, this.bar.element, this.words),
      h(
        "td",
        {},
        h("div", { class: "ls-row ls-small" }, Object.values(this.actions), this.watch, this.change, this.more),
      ),
    );
    this.details = new Details(detailsId, () => home?.defaults() ?? {});
    this.dragging();
  }

  dragging() {
    const { element, queue } = this;
    this.handle.addEventListener("pointerdown", () => (element.draggable = this.job.can.includes("move")));
    element.addEventListener("dragstart", (event) => {
      queue.dragged = this.job.id;
      event.dataTransfer.effectAllowed = "move";
      event.dataTransfer.setData("text/plain", this.job.name);
    });
    element.addEventListener("dragend", () => {
      queue.dragged = null;
      element.draggable = false;
    });
    element.addEventListener("dragover", (event) => {
      if (queue.dragged === null || !this.job.can.includes("move")) return;
      event.preventDefault();
      element.classList.add("ls-drop");
    });
    element.addEventListener("dragleave", () => element.classList.remove("ls-drop"));
    element.addEventListener("drop", (event) => {
      event.preventDefault();
      element.classList.remove("ls-drop");
      queue.drop(this.job);
    });
  }

  update(job, jobs) {
    this.job = job;
    text(this.name, job.name);
    this.name.title = job.name;
    text(this.about, `${kindName(job.kind)}, ${clock(job.created)}`);
    this.about.title = job.way_why ?? "";
    setPill(this.pill, job.status);
    text(this.why, job.error?.message ?? job.why ?? "");
    this.why.title = this.why.textContent;
    this.why.classList.toggle("ls-bad", Boolean(job.error));
    this.bar.set(job);
    text(
      this.words,
      job.status === "queued"
        ? ""
        : [progressOf(job).words, epochWords(job), timeWords(job)].filter(Boolean).join(" · "),
    );
    for (const [action, element] of Object.entries(this.actions)) show(element, job.can.includes(action));
    const movable = job.can.includes("move");
    const waiting = jobs.filter((each) => each.can.includes("move"));
    this.handle.classList.toggle("ls-off", !movable);
    for (const [element, end] of [
      [this.up, waiting[0]],
      [this.down, waiting[waiting.length - 1]],
    ]) {
      element.disabled = !movable || end.id === job.id;
      element.style.visibility = movable ? "visible" : "hidden";
    }
    this.details.update(job);
  }

  /** Keep the body's order; a row that is in its place already is not touched, so that its buttons keep the focus. */
  place(body, index) {
    if (body.children[2 * index] !== this.element) {
      body.insertBefore(this.element, body.children[2 * index] ?? null);
      this.element.after(this.details.element);
    }
  }

  toggle() {
    const open = this.details.element.hidden;
    show(this.details.element, open);
    this.more.setAttribute("aria-expanded", String(open));
    if (open) this.details.load();
  }

  leave() {
    this.element.remove();
    this.details.element.remove();
  }
}

/** Log, values and files of a job, in a row below its own. */
class Details {
  constructor(id, defaults) {
    this.defaults = defaults;
    this.log = h("pre", { class: "ls-log", tabindex: "0", "aria-label": "Log" });
    this.files = h("ul", { class: "ls-list" });
    this.values = h("dl", { class: "ls-values" });
    this.others = h("dl", { class: "ls-values" });
    this.same = h("details", { class: "ls-more" }, h("summary", {}, "Those at their defaults"), this.others);
    this.element = h(
      "tr",
      { class: "ls-details", id, hidden: true },
      h(
        "td",
        { colspan: "5" },
        h(
          "div",
          { class: "ls-details-grid" },
          h("section", {}, h("h3", {}, "Log"), this.log),
          h("section", {}, h("h3", {}, "Files"), this.files),
          h("section", {}, h("h3", {}, "Values"), this.values, this.same),
        ),
      ),
    );
  }

  update(job) {
    const moved = this.job && (this.job.step !== job.step || this.job.status !== job.status);
    this.job = job;
    if (moved && !this.element.hidden) this.load();
  }

  async load() {
    const { job } = this;
    put(
      this.files,
      job.written.map((path) => h("li", { class: "ls-path" }, breakable(path))),
      job.state && h("li", {}, "state: ", h("span", { class: "ls-path" }, breakable(job.state))),
      job.memory_mb && h("li", {}, `memory: ${megabytes(job.memory_mb)}`),
      job.written.length === 0 && !job.state && h("li", { class: "ls-empty" }, "none"),
    );
    const given = Object.entries(job.values).filter(([, value]) => value !== null && value !== "");
    const defaults = this.defaults();
    const isDefault = ([name, value]) => String(value) === String(defaults[name]);
    put(this.values, given.filter((each) => !isDefault(each)).map(row));
    put(this.others, given.filter(isDefault).map(row));
    show(this.same, given.some(isDefault));
    try {
      text(this.log, withoutBars(await getText(`jobs/${encodeURIComponent(job.id)}/log`)) || "empty");
    } catch (error) {
      text(this.log, error.message);
    }
  }
}

const row = ([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value)));
