// The Start button and what has to be known before it is pressed.

import { post, Refused } from "./api.js";
import { act } from "./actions.js";
import { ask, tell } from "./dialogs.js";
import { button, h, newId, put, show, text } from "./dom.js";
import { count, duration, megabytes, speed } from "./format.js";
import { recall, remember } from "./memory.js";
import { outcome } from "./plan.js";
import { Bar, progressOf } from "./status.js";

export class StartPanel {
  /**
   * @param {import("./form.js").Form} form
   * @param {import("./plan.js").Planner} planner
   * @param {import("./live.js").Live} live
   * @param {{can_lend: boolean}} host
   * @param {(job: Object, alone: boolean) => void} started called with the new job; `alone`: nothing ran before it
   */
  constructor(form, planner, live, host, started) {
    Object.assign(this, { form, planner, live, host, started });
    this.start = button("Start", () => this.go("train"), { kind: "primary" });
    this.start.classList.add("ls-start");
    this.check = button("Check first", () => this.go("preflight"), {
      title: "Runs a few real steps: how long it will take, and what fits into memory",
    });
    this.facts = h("div", { class: "ls-start-facts" });
    this.where = h("p", { class: "ls-help" });
    this.warnings = h("ul", { class: "ls-warnings" });
    this.general = h("p", { class: "ls-error", role: "alert", hidden: true });
    this.preflight = new Preflight(live);
    this.element = h(
      "section",
      { class: "ls-section ls-start-panel", "aria-label": "Start" },
      h("div", { class: "ls-row ls-start-row" }, this.start, this.check),
      this.general,
      this.facts,
      this.where,
      this.warnings,
      this.preflight.element,
    );
    planner.addEventListener("plan", () => this.draw());
    live.addEventListener("jobs", () => text(this.start, live.running ? "Add to the queue" : "Start"));
    this.draw();
  }

  draw() {
    const { plan, error } = this.planner;
    this.facts.classList.toggle("ls-stale", Boolean(plan && error));
    put(
      this.facts,
      plan
        ? outcome(plan, this.form)
        : h("p", { class: "ls-empty" }, "Steps and file size are shown here once there is a dataset."),
    );
    text(
      this.where,
      plan?.way && this.host.can_lend
        ? `${plan.way === "live" ? "Trains on the loaded model" : "Runs in a process of its own"}: ${plan.way_why}`
        : "",
    );
    put(
      this.warnings,
      (plan ? [...plan.warnings, ...spaceWarning(plan)] : []).map((warning) => h("li", {}, warning)),
    );
  }

  /** An error that has no field on the page. */
  fail(error) {
    show(this.general, error);
    text(this.general, error ? error.message : "");
  }

  async go(kind) {
    this.busy(true);
    const alone = !this.live.running;
    this.form.clearErrors();
    this.fail(null);
    try {
      const values = this.form.submitted();
      if (kind === "train" && !(await this.settleName(values))) return;
      const job = await post("jobs", { kind, values });
      if (kind === "preflight") this.preflight.watch(job.id);
      await this.live.renew();
      if (kind === "train") this.started(job, alone);
    } catch (error) {
      if (!(error instanceof Refused)) tell("The server does not answer. Nothing was started.", "error");
      else if (!this.form.showError(error)) this.fail(error);
    } finally {
      this.busy(false);
    }
  }

  /** Ask where a LoRA of this name exists: the WebUI may go on serving the old weights of a replaced file. */
  async settleName(values) {
    const plan = await this.planner.now();
    if (!plan || !plan.exists || values.overwrite) return true;
    const free = await this.freeName(values.output_name);
    const answer = await askName(plan.exists, free);
    if (answer === null) return false;
    if (answer.replace) values.overwrite = true;
    else {
      this.form.set("output_name", answer.name);
      values.output_name = answer.name;
      return this.settleName(values);
    }
    return true;
  }

  /** "zorb" -> "zorb-2", or the first of these that does not exist. */
  async freeName(name) {
    const stem = name.replace(/-\d+$/, "");
    for (let number = 2; number < 100; number++) {
      const plan = await post("plan", { values: { ...this.form.submitted(), output_name: `${stem}-${number}` } });
      if (!plan.exists) return `${stem}-${number}`;
    }
    return `${stem}-${Date.now()}`;
  }

  busy(yes) {
    for (const element of [this.start, this.check]) element.disabled = yes;
  }
}

/** Ask for another name than that of a file that exists: {name}, {replace: true}, or null. */
export function askName(path, free, title = "This LoRA exists already") {
  const input = h("input", { class: "ls-input", id: newId(), value: free });
  return ask(
    title,
    () => [
      h("p", { class: "ls-path" }, path),
      h("div", { class: "ls-field" }, h("label", { class: "ls-label", for: input.id }, "Another name"), input),
      h(
        "p",
        { class: "ls-help" },
        "A WebUI that has used the old file may keep its weights until the next start, so another name is safer.",
      ),
    ],
    [
      { label: "Cancel", value: null },
      { label: "Replace the file", value: { replace: true }, kind: "stop" },
      { label: "Take the other name", value: () => ({ name: input.value.trim() || free }), kind: "primary" },
    ],
  );
}

function spaceWarning(plan) {
  if (plan.needed_mb === null || plan.free_mb === null || plan.needed_mb <= plan.free_mb) return [];
  return [`The disk has ${megabytes(plan.free_mb)} free, and this run needs ${megabytes(plan.needed_mb)}.`];
}

/** The last preflight: how far it is, then what it has found out. */
class Preflight {
  constructor(live) {
    this.live = live;
    this.id = recall("preflight");
    this.bar = new Bar("Check");
    this.words = h("p", { class: "ls-help" });
    this.found = h("p", {});
    this.advice = h("ul", { class: "ls-list" });
    this.close = button("Close", () => this.dismiss(), { kind: "tool", icon: "close" });
    this.element = h(
      "div",
      { class: "ls-preflight", hidden: true, role: "status" },
      h("header", { class: "ls-part-head" }, h("h3", {}, "Check"), this.close),
      this.bar.element,
      this.words,
      this.found,
      this.advice,
    );
    live.addEventListener("jobs", () => this.draw());
  }

  watch(id) {
    this.id = id;
    remember("preflight", id);
    this.draw();
  }

  async dismiss() {
    const job = this.live.job(this.id);
    this.watch(null);
    if (job && !job.can.includes("remove")) await act(this.live, { ...job, status: "queued" }, "stop");
  }

  draw() {
    const job = this.live.job(this.id);
    show(this.element, job);
    if (!job) return;
    const found = job.preflight;
    const over = Boolean(found || job.error || job.ended);
    show(this.bar.element, !over);
    this.bar.set(job);
    text(this.words, over ? "" : job.status === "queued" ? "waits for its turn" : progressOf(job).words);
    text(
      this.found,
      found ? measured(found) : (job.error?.message ?? (over ? "It was ended before it had measured anything." : "")),
    );
    this.found.classList.toggle("ls-error", Boolean(job.error));
    if (this.drawn !== job.id + over)
      put(
        this.advice,
        (found?.advice ?? []).map((each) => h("li", {}, each)),
      );
    this.drawn = job.id + over;
  }
}

function measured(found) {
  const memory =
    found.memory_mb === null
      ? ""
      : `, ${megabytes(found.memory_mb)}${found.card_mb ? ` of ${megabytes(found.card_mb)}` : ""} of memory`;
  return `${speed(found.seconds_per_step)}: ${count(found.steps, "step")} take ${duration(found.seconds_total)}${memory}.`;
}
