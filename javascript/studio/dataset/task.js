// Something that takes the server a while: started, watched and stopped.

import { get, post } from "../api.js";
import { button, h, show, text } from "../dom.js";
import { attempt } from "../presets.js";
import { Bar, progressOf, timeWords } from "../status.js";

const ASK_MS = 300;

export class TaskView {
  /** @param {import("./store.js").Dataset} dataset */
  constructor(dataset) {
    this.dataset = dataset;
    this.bar = new Bar("Progress");
    this.words = h("span", { class: "ls-grow ls-figure" });
    this.element = h(
      "div",
      { class: "ls-task", hidden: true },
      this.bar.element,
      h(
        "div",
        { class: "ls-row ls-small" },
        this.words,
        button("Stop", () => attempt(() => post(this.dataset.route("task/stop")))),
      ),
    );
  }

  /**
   * Start it and wait for its end.
   * @returns its result; null where it was stopped
   * @throws {Error} what the server refused, or why the task failed
   */
  async run(path, body) {
    const route = this.dataset.route("task");
    show(this.element, true);
    this.draw({ what: "", done: 0, total: 0 });
    try {
      let view = await post(this.dataset.route(path), body);
      while (view.running) {
        this.draw(view.progress);
        await new Promise((resolve) => setTimeout(resolve, ASK_MS));
        view = await get(route);
      }
      if (view.error) throw Object.assign(new Error(view.error.message), view.error);
      return view.result;
    } finally {
      show(this.element, false);
    }
  }

  draw(progress) {
    const job = { status: "running", progress };
    this.bar.set(job);
    const words = [progressOf(job).words, timeWords(job)].filter(Boolean).join(", ");
    text(this.words, progress.total ? words : progress.what || "Starting …");
  }
}
