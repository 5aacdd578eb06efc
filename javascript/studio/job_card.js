// A job that is looked at: its name and status, progress and Stop, warnings; below them what comes of it.

import { act } from "./actions.js";
import { button, h, put, show, text } from "./dom.js";
import { ACTIVE, Feed } from "./live.js";
import { Bar, pill, progressOf, setPill, timeWords } from "./status.js";

export class JobCard {
  /**
   * @param {import("./live.js").Live} live
   * @param {{empty: string, change: (job: Object) => void}} look `empty` is said while there is no job; `change` loads
   *   a job's values into the form
   */
  constructor(live, { empty, change }) {
    Object.assign(this, { live, job: null });
    this.name = h("h2");
    this.pill = pill("queued");
    this.kind = h("span", { class: "ls-help" });
    this.bar = new Bar("Progress");
    this.words = h("span");
    this.time = h("span");
    this.progress = h(
      "div",
      { class: "ls-progress-box" },
      this.bar.element,
      h("div", { class: "ls-progress-words" }, this.words, this.time),
    );
    this.why = h("p", { class: "ls-why", role: "status" });
    this.error = h("div", { class: "ls-failure", role: "alert", hidden: true });
    this.stop = button("Stop", () => act(this.live, this.job, this.job.can.includes("stop") ? "stop" : "remove"), {
      kind: "stop",
    });
    this.again = button("Duplicate …", () => change(this.job), {
      title: "Load its values into the form, to change and start them anew",
    });
    this.notes = h("ul", { class: "ls-warnings" });
    this.result = h("div", { class: "ls-tool-result" });
    this.empty = h("p", { class: "ls-empty" }, empty);
    this.body = h(
      "div",
      { class: "ls-run-body", hidden: true },
      h(
        "header",
        { class: "ls-section-head" },
        this.name,
        this.pill,
        h("span", { class: "ls-grow" }),
        h("div", { class: "ls-row ls-small" }, this.stop, this.again),
      ),
      this.kind,
      this.progress,
      this.why,
      this.error,
      this.notes,
      this.result,
    );
    this.element = h("section", { class: "ls-section ls-tool-run", "aria-label": "Result" }, this.empty, this.body);
  }

  async update(job) {
    const another = this.job?.id !== job?.id;
    this.job = job;
    show(this.empty, !job);
    show(this.body, job);
    if (!job) return;
    if (another) {
      this.element.dataset.job = job.id;
      put(this.notes);
      put(this.result);
      this.feed = new Feed(job.id);
      this.begin();
    }
    this.writeHead(job);
    await Promise.all([this.readNotes(job), this.readResult(job)]);
  }

  /** Another job is to be shown: what was drawn of the last one is gone. */
  begin() {}

  /** What stands below the job's name. */
  label(job) {
    return job.kind;
  }

  /** Ask for what has come of the job, and draw it. */
  async readResult() {}

  writeHead(job) {
    text(this.name, job.name);
    this.name.title = job.name;
    setPill(this.pill, job.status);
    text(this.kind, this.label(job));
    const busy = ACTIVE.has(job.status) || job.status === "queued";
    show(this.progress, busy);
    this.bar.set(job);
    text(this.words, job.status === "queued" ? "waits for its turn" : progressOf(job).words);
    text(this.time, timeWords(job));
    text(this.why, busy ? (job.why ?? "") : "");
    show(this.stop, busy && (job.can.includes("stop") || job.can.includes("remove")));
    show(this.again, !busy);
    show(this.error, job.error);
    if (job.error) text(this.error, job.error.message);
  }

  async readNotes(job) {
    const key = `${job.status}/${job.ended}`;
    if (!ACTIVE.has(job.status) && this.feed.readUpTo === key) return;
    const { feed } = this;
    try {
      await feed.update();
    } catch {
      return; // the banner says that the connection is lost
    }
    feed.readUpTo = key;
    if (feed.id !== this.job?.id) return;
    const warnings = feed.notes.filter((note) => note.level === "warning");
    if (this.notes.children.length !== warnings.length)
      put(
        this.notes,
        warnings.map((note) => h("li", {}, note.text)),
      );
  }
}
