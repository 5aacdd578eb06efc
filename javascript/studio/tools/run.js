// The tool's job that is looked at, and what has come of it.

import { address, get } from "../api.js";
import { copyText } from "../clipboard.js";
import { breakable, button, h, put, select } from "../dom.js";
import { bytes, fileName, took } from "../format.js";
import { JobCard } from "../job_card.js";
import { canSend, sendToTxt2img } from "../prompt.js";
import { reportOf } from "./report.js";

const jobRoute = (job) => `jobs/${encodeURIComponent(job.id)}`;
const promptName = (name) => name.split("/").pop();

export class ToolRun extends JobCard {
  /**
   * @param {import("../live.js").Live} live
   * @param {{labels: () => Map<string, string>, next: () => [string, string][], use: (tool: string, lora: string) => void,
   *   change: (job: Object) => void, edit: (values: Object) => void, sizeBefore: (job: Object) => number | null}} tools
   *   `labels` of all tools by name; `next`: those that can go on with a LoRA
   */
  constructor(live, tools) {
    super(live, {
      empty: "What a tool has done is shown here: its file, what was lost, layer by layer.",
      change: tools.change,
    });
    this.tools = tools;
    this.begin();
  }

  begin() {
    this.drawn = "";
  }

  label(job) {
    const label = this.tools.labels().get(job.kind) ?? job.kind;
    return job.tool && !job.tool.output ? `${label}, took ${took(job.tool.seconds)}` : label;
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
