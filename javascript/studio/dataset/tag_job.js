// The job that tags the dataset: how far it is, and its end.

import { post } from "../api.js";
import { button, h, show, text } from "../dom.js";
import { duration } from "../format.js";
import { ACTIVE } from "../live.js";
import { attempt } from "../presets.js";
import { Bar, progressOf } from "../status.js";

const goesOn = (job) => ACTIVE.has(job.status) || job.status === "queued";

export class TagJob {
  /**
   * @param {import("./store.js").Dataset} dataset
   * @param {import("../live.js").Live} live
   * @param {() => void} onchange it begins, or has ended
   */
  constructor(dataset, live, onchange) {
    Object.assign(this, { dataset, live, onchange });
    this.id = null;
    this.running = false;
    this.bar = new Bar("Tagging");
    this.words = h("span", { class: "ls-grow ls-figure" });
    this.stop = button("Stop", () => this.act("stop"));
    this.element = h(
      "div",
      { class: "ls-task", hidden: true },
      this.bar.element,
      h("div", { class: "ls-row ls-small" }, this.words, this.stop),
    );
    live.addEventListener("jobs", () => this.draw());
  }

  /** That of this folder which goes on, also when another page has begun it; else the one that was begun here. */
  get job() {
    if (!this.dataset.isOpen) return null;
    const { folder, caption_extension: extension } = this.dataset.place;
    const isOwn = ({ kind, values }) =>
      kind === "tag" && values.folder === folder && (values.caption_extension ?? extension) === extension;
    const own = this.live.jobs.filter(isOwn);
    return own.find(goesOn) ?? own.find((job) => job.id === this.id) ?? null;
  }

  async start(values) {
    this.id = (await post("jobs", { kind: "tag", values })).id;
    await this.live.renew();
  }

  act(action) {
    return attempt(() => post(`jobs/${encodeURIComponent(this.job.id)}/${action}`).then(() => this.live.renew()));
  }

  draw() {
    const { job } = this;
    show(this.element, job);
    const running = Boolean(job) && goesOn(job);
    if (job) this.show(job);
    if (running === this.running) return;
    this.running = running;
    this.onchange();
  }

  show(job) {
    this.id = job.id;
    this.bar.set(job);
    const { words } = progressOf(job);
    const left =
      job.seconds_left === null || job.seconds_left === undefined ? "" : `${duration(job.seconds_left)} left`;
    const state = job.status === "running" ? [words, left] : [job.status, words];
    text(this.words, job.error?.message ?? state.filter(Boolean).join(", "));
    this.words.classList.toggle("ls-bad", Boolean(job.error));
    show(this.stop, job.can.includes("stop"));
  }
}
