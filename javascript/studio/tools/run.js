// The tool's job that is looked at: progress and Stop, then what has come of it.

import { address, get } from "../api.js";
import { act } from "../actions.js";
import { copyText } from "../clipboard.js";
import { breakable, button, h, put, select, show, text } from "../dom.js";
import { bytes, fileName, took } from "../format.js";
import { ACTIVE, Feed } from "../live.js";
import { canSend, sendToTxt2img } from "../prompt.js";
import { Bar, pill, progressOf, setPill, timeWords } from "../status.js";
import { reportOf } from "./report.js";

const jobRoute = (job) => `jobs/${encodeURIComponent(job.id)}`;
const promptName = (name) => name.split("/").pop();

export class ToolRun {
  /**
   * @param {import("../live.js").Live} live
   * @param {{labels: () => Map<string, string>, next: () => [string, string][], use: (tool: string, lora: string) => void,
   *   change: (job: Object) => void, edit: (values: Object) => void, sizeBefore: (job: Object) => number | null}} tools
   *   `labels` of all tools by name; `next`: those that can go on with a LoRA
   */
  constructor(live, tools) {
    Object.assign(this, { live, tools, job: null, drawn: "" });
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
    this.again = button("Duplicate …", () => this.tools.change(this.job), {
      title: "Load its values into the form, to change and start them anew",
    });
    this.notes = h("ul", { class: "ls-warnings" });
    this.result = h("div", { class: "ls-tool-result" });
    this.empty = h(
      "p",
      { class: "ls-empty" },
      "What a tool has done is shown here: its file, what was lost, layer by layer.",
    );
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
      this.drawn = "";
      this.feed = new Feed(job.id);
    }
    this.writeHead(job);
    await Promise.all([this.readNotes(job), this.readResult(job)]);
  }

  writeHead(job) {
    text(this.name, job.name);
    this.name.title = job.name;
    setPill(this.pill, job.status);
    const label = this.tools.labels().get(job.kind) ?? job.kind;
    text(this.kind, job.tool && !job.tool.output ? `${label}, took ${took(job.tool.seconds)}` : label);
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

  async readResult(job) {
    const key = `${job.id}/${job.ended}`;
    if (job.status !== "done" || this.drawn === key) return;
    this.drawn = key;
    try {
      const whole = await get(jobRoute(job));
      if (this.job?.id === job.id)
        put(this.result, this.box(whole), reportOf(whole, this.tools), this.picture(whole), plainText(whole));
    } catch (error) {
      this.drawn = ""; // to be asked for again
      if (this.job?.id === job.id) put(this.result, h("p", { class: "ls-bad" }, error.message));
    }
  }

  /** Where the file lies, how large it is and how long it took; and what can be done with it. */
  box(job) {
    const { output, name, seconds, report } = job.tool;
    if (!output) return null;
    const path = h("p", { class: "ls-path" }, breakable(output));
    const before = report.bytes_before ?? this.tools.sizeBefore(job);
    return h(
      "div",
      { class: "ls-result" },
      h("b", {}, fileName(output)),
      path,
      h(
        "p",
        { class: "ls-figure" },
        before && `${bytes(before)} → `,
        h("b", {}, bytes(report.bytes)),
        before && ` (${Math.round((100 * report.bytes) / before)} %)`,
        `, took ${took(seconds)}`,
      ),
      name && this.promptRow(name),
      h(
        "div",
        { class: "ls-row ls-small" },
        name &&
          canSend() &&
          button("Send to txt2img", () => sendToTxt2img(promptName(name), 1, ""), { kind: "primary" }),
        button("Copy the path", () => copyText(output, path, "The path"), { icon: "copy" }),
        name && this.goOn(name),
      ),
    );
  }

  promptRow(name) {
    const words = h("code", {}, `<lora:${promptName(name)}:1>`);
    const copy = button("Copy for a prompt", () => copyText(words.textContent, words, "The prompt's text"), {
      icon: "copy",
    });
    return h("div", { class: "ls-row ls-small ls-prompt-row" }, words, copy);
  }

  /** The way with this LoRA to another tool. */
  goOn(name) {
    const list = select([["", "Use it in …"], ...this.tools.next()], "", (tool) => {
      list.value = "";
      if (tool) this.tools.use(tool, name);
    });
    list.setAttribute("aria-label", "Use it in another tool");
    return list;
  }

  picture(job) {
    if (!job.tool.picture) return null;
    const source = address(`${jobRoute(job)}/picture`);
    return h(
      "details",
      { class: "ls-group" },
      h("summary", {}, h("span", {}, "The chart as a picture")),
      h(
        "a",
        { href: source, download: `${job.kind}-${job.name}.png`, title: "Save the picture" },
        h("img", { class: "ls-tool-picture", src: source, alt: `Chart of ${job.name}`, loading: "lazy" }),
      ),
    );
  }
}

const plainText = (job) =>
  job.tool.text &&
  h(
    "details",
    { class: "ls-group" },
    h("summary", {}, h("span", {}, "The report as text")),
    h("pre", { class: "ls-log", tabindex: "0", "aria-label": "The report as text" }, job.tool.text),
  );
