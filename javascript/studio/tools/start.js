// A tool's Start button, and what would be written.

import { post, Refused } from "../api.js";
import { tell } from "../dialogs.js";
import { breakable, button, debounce, h, put, show, text } from "../dom.js";
import { megabytes } from "../format.js";
import { Refusal } from "../refusal.js";
import { askName } from "../start.js";

const WAIT_MS = 450;

export class ToolStart {
  /**
   * @param {import("./form.js").ToolForm} toolForm
   * @param {import("../live.js").Live} live
   * @param {(job: Object) => void} started
   */
  constructor(toolForm, live, started) {
    Object.assign(this, { toolForm, live, started, asked: 0 });
    const { tool, form } = toolForm;
    this.start = button(tool.label, () => this.go(), { kind: "primary" });
    this.start.classList.add("ls-start");
    this.general = h("p", { class: "ls-error", role: "alert", hidden: true });
    this.target = h("p", { class: "ls-help", "aria-live": "polite" });
    this.warnings = h("ul", { class: "ls-warnings" });
    this.refusal = new Refusal(form, (error) => this.fail(error));
    this.later = debounce(() => this.plan().catch(() => {}), WAIT_MS);
    this.element = h(
      "section",
      { class: "ls-section ls-start-panel", "aria-label": `Start: ${tool.label}` },
      h("div", { class: "ls-row ls-start-row" }, this.start),
      this.general,
      this.target,
      this.warnings,
    );
    live.addEventListener("jobs", () =>
      text(this.start, live.running ? `${tool.label}: add to the queue` : tool.label),
    );
  }

  route(values) {
    return post(`tools/${this.toolForm.tool.name}/plan`, { values });
  }

  /** What the form as it stands would write. @throws the server's refusal */
  async plan(values = this.toolForm.submitted()) {
    const number = ++this.asked;
    try {
      const plan = await this.route(values);
      if (number === this.asked) this.draw(plan, null);
      return plan;
    } catch (error) {
      if (error instanceof Refused && number === this.asked) this.draw(null, error);
      throw error;
    }
  }

  draw(plan, error) {
    this.refusal.show(error);
    const { output, exists, warnings = [] } = plan ?? {};
    put(
      this.target,
      output && [exists ? "Exists already: " : "Writes ", h("span", { class: "ls-path" }, breakable(output))],
    );
    this.target.classList.toggle("ls-bad", Boolean(exists));
    put(
      this.warnings,
      [...warnings, ...(plan ? spaceWarning(plan) : [])].map((warning) => h("li", {}, warning)),
    );
  }

  /** An error that has no field on the page. */
  fail(error) {
    show(this.general, error);
    text(this.general, error ? error.message : "");
  }

  async go() {
    const { tool, form } = this.toolForm;
    this.start.disabled = true;
    form.clearErrors();
    this.fail(null);
    try {
      const values = await this.settled(this.toolForm.submitted());
      if (!values) return;
      const job = await post("jobs", { kind: tool.name, values });
      await this.live.renew();
      this.started(job);
    } catch (error) {
      if (!(error instanceof Refused)) tell("The server does not answer. Nothing was started.", "error");
      else if (!form.showError(error)) this.fail(error);
    } finally {
      this.start.disabled = false;
    }
  }

  /** The values with a name that is free, or may be taken; null where a person has thought better of it. */
  async settled(values) {
    const plan = await this.plan(values);
    if (!plan.exists) return values;
    const answer = await askName(plan.output, await this.freeName(values), "This file exists already");
    if (answer === null) return null;
    if (answer.replace) return { ...values, overwrite: true };
    this.toolForm.form.set("output", answer.name);
    return this.settled({ ...values, output: answer.name });
  }

  async freeName(values) {
    const stem = values.output.replace(/-\d+$/, "");
    for (let number = 2; number < 100; number++) {
      const output = `${stem}-${number}`;
      if (!(await this.route({ ...values, output })).exists) return output;
    }
    return `${stem}-${Date.now()}`;
  }
}

function spaceWarning({ needed_mb: needed, free_mb: free }) {
  if (needed === null || free === null || needed <= free) return [];
  return [`The disk has ${megabytes(free)} free, and this needs ${megabytes(needed)}.`];
}
