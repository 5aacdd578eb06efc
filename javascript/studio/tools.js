// The Tools tab: the tools at the left, the chosen one's form, and at the right Start and what has come of it.

import { button, debounce, h, put, show } from "./dom.js";
import { post } from "./api.js";
import { Earlier } from "./earlier.js";
import { capital } from "./form.js";
import { ACTIVE } from "./live.js";
import { recall, remember } from "./memory.js";
import { attempt } from "./presets.js";
import { Files } from "./tools/files.js";
import { ToolForm } from "./tools/form.js";
import { rowsOf } from "./tools/recipe_text.js";
import { ToolRun } from "./tools/run.js";
import { ToolStart } from "./tools/start.js";

/** The kinds of jobs that this tab shows. */
export const TOOL_KINDS = ["extract", "merge", "bake", "resize", "blocks", "convert", "inspect", "verify", "compare"];

const SOON_MS = 300;

// Where a LoRA goes that another tool has written.
const INTO = {
  merge: "prompt",
  bake: "prompt",
  resize: "model",
  blocks: "model",
  convert: "model",
  inspect: "model",
  verify: "model",
  compare: "second",
};

export class ToolsTab {
  /** @param {import("./live.js").Live} live */
  constructor(live) {
    Object.assign(this, { live, files: new Files(), panels: new Map(), chosen: null, loading: null });
    const draft = recall("tools", {});
    this.drafts = draft.values ?? {};
    this.shown = recall("tool-job");
    this.wanted = draft.tool;
    this.list = h("div", {
      class: "ls-tool-list",
      role: "tablist",
      "aria-label": "Tools",
      "aria-orientation": "vertical",
      onkeydown: (event) => this.walk(event),
    });
    this.place = h("div", { class: "ls-tool-place" }, h("p", { class: "ls-empty", role: "status" }, "Loading …"));
    this.startPlace = h("div", { class: "ls-tool-start" });
    this.run = new ToolRun(live, {
      labels: () => new Map([...this.panels].map(([name, panel]) => [name, panel.tool.label])),
      next: () =>
        [...this.panels.values()].filter(({ tool }) => INTO[tool.name]).map(({ tool }) => [tool.name, tool.label]),
      use: (tool, lora) => this.use(tool, lora),
      change: (job) => this.load(job),
      edit: (values) => this.edit(values),
      sizeBefore: (job) => this.sizeBefore(job),
    });
    this.earlier = new Earlier((id) => this.watch(id));
    this.element = h(
      "div",
      { class: "ls-tools" },
      this.list,
      this.place,
      h("div", { class: "ls-right" }, this.startPlace, this.run.element, this.earlier.element),
    );
    this.keep = debounce(() => remember("tools", { tool: this.chosen, values: this.drafts }), 300);
    this.seen = new Set(); // jobs that had ended at the last look
    live.addEventListener("jobs", () => this.look());
  }

  /** The tab is shown. */
  opened() {
    if (this.chosen === null) this.loading ??= this.begin().finally(() => (this.loading = null));
    else this.refresh();
    return this.loading;
  }

  async begin() {
    let schema;
    try {
      schema = await this.files.load();
    } catch (error) {
      put(
        this.place,
        h(
          "div",
          { class: "ls-banner", role: "alert" },
          h("span", {}, `The tools cannot be loaded: ${error.message || "the server does not answer"}`),
          button("Try again", () => this.opened()),
        ),
      );
      return;
    }
    put(this.place);
    for (const tool of schema.tools) this.addPanel(tool);
    this.choose(this.panels.has(this.wanted) ? this.wanted : schema.tools[0].name);
    this.look();
  }

  addPanel(tool) {
    const form = new ToolForm(tool, this.files, this.drafts[tool.name] ?? {}, () => this.changed(tool.name));
    const start = new ToolStart(form, this.live, (job) => this.started(job));
    const name = h(
      "button",
      {
        type: "button",
        role: "tab",
        class: "ls-tool-name",
        "data-tool": tool.name,
        onclick: () => this.choose(tool.name),
      },
      h("b", {}, tool.label),
      h("span", { class: "ls-help" }, capital(tool.help)),
    );
    this.panels.set(tool.name, { tool, form, start, name });
    this.list.append(name);
    this.place.append(form.element);
    this.startPlace.append(start.element);
  }

  /** Show a tool's form. */
  choose(chosen) {
    this.chosen = chosen;
    for (const [name, panel] of this.panels) {
      const own = name === chosen;
      show(panel.form.element, own);
      show(panel.start.element, own);
      panel.name.setAttribute("aria-selected", String(own));
      panel.name.tabIndex = own ? 0 : -1;
    }
    this.panels.get(chosen).start.later();
    this.keep();
  }

  walk(event) {
    const move = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    const names = [...this.panels.keys()];
    const next = names[(names.indexOf(this.chosen) + move + names.length) % names.length];
    this.choose(next);
    this.panels.get(next).name.focus();
  }

  changed(name) {
    const panel = this.panels.get(name);
    if (!panel) return; // it is being built
    this.drafts[name] = panel.form.form.changes();
    this.keep();
    panel.start.later();
  }

  /** Many jobs take less time than passes between two looks at the queue. */
  started(job) {
    this.watch(job.id);
    setTimeout(() => this.live.refresh(), SOON_MS);
  }

  /** Keep showing one job. */
  watch(id) {
    this.shown = id;
    remember("tool-job", id);
    this.look();
  }

  jobs() {
    return this.live.jobs.filter((job) => TOOL_KINDS.includes(job.kind)).sort((a, b) => b.created - a.created);
  }

  look() {
    const jobs = this.jobs();
    const busy = jobs.find((job) => ACTIVE.has(job.status));
    const job = this.live.job(this.shown) ?? busy ?? jobs[0] ?? null;
    this.run.update(job);
    this.earlier.draw(jobs, job, (each) => this.panels.get(each.kind)?.tool.label ?? each.kind);
    const ended = jobs.filter((each) => each.ended).map((each) => each.id + each.ended);
    if (ended.some((id) => !this.seen.has(id)) && this.chosen !== null) this.refresh();
    this.seen = new Set(ended);
  }

  /** New files are there to choose, and names are taken. */
  async refresh() {
    try {
      await this.files.load();
    } catch {
      return; // the banner says that the connection is lost
    }
    for (const { form } of this.panels.values()) form.followName();
    this.panels.get(this.chosen).start.later();
  }

  /** Take a LoRA into a tool's form. */
  use(name, lora) {
    const { form } = this.panels.get(name).form;
    const option = INTO[name];
    if (option !== "prompt") form.set(option, lora);
    else if (!rowsOf(form.values.prompt).some((row) => row.name === lora))
      form.set("prompt", `${form.values.prompt} <lora:${lora}:1>`.trim());
    this.choose(name);
  }

  /** A job's values, to change and start them as a new one. */
  async load(job) {
    await this.opened();
    const panel = this.panels.get(job.kind);
    if (!panel) return;
    panel.form.form.clear();
    panel.form.form.fill(job.values);
    this.choose(job.kind);
  }

  /** Write metadata, as a job of its own. */
  edit(values) {
    return attempt(async () => {
      const job = await post("jobs", { kind: "inspect", values });
      await this.live.renew();
      this.started(job);
    });
  }

  /** Bytes of the LoRAs that went into a merge; null where they are not known. */
  sizeBefore(job) {
    if (job.kind !== "merge") return null;
    const sizes = rowsOf(job.values.prompt ?? "").map((row) => this.files.lora(row.name)?.bytes);
    return sizes.includes(undefined) ? null : sizes.reduce((sum, size) => sum + size, 0);
  }

  /** The defaults of a tool's form. */
  defaults(kind) {
    return this.panels.get(kind)?.tool.defaults ?? {};
  }
}
