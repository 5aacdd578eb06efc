// What goes on at the server: the jobs, and the events of the one that is looked at.

import { get, Lost } from "./api.js";

export const ACTIVE = new Set(["running", "pausing", "paused", "stopping"]);
const BUSY_MS = 1000,
  IDLE_MS = 3000,
  HIDDEN_MS = 8000;
const MANY = 500; // after so many events at once there may be more

/**
 * Asks for the jobs again and again, seldom while nobody looks.
 * Events: "jobs" after each answer, "lost" and "found" with the connection.
 */
export class Live extends EventTarget {
  /** @param {HTMLElement} mount */
  constructor(mount) {
    super();
    this.mount = mount;
    this.jobs = [];
    this.running = null;
    this.whenDone = "nothing";
    this.shutdownAt = null; // epoch seconds
    this.lost = false;
    this.timer = 0;
    this.asking = null;
    document.addEventListener("visibilitychange", () => document.hidden || this.refresh());
  }

  job(id) {
    return this.jobs.find((job) => job.id === id) ?? null;
  }

  /** Ask now. Two callers at once share one question. */
  refresh() {
    this.asking ??= this.ask().finally(() => {
      this.asking = null;
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.refresh(), this.wait());
    });
    return this.asking;
  }

  /** Ask anew, also when a question is under way: its answer may be older than what was just done. */
  async renew() {
    await this.asking;
    return this.refresh();
  }

  async ask() {
    try {
      const answer = await get("jobs");
      this.jobs = answer.jobs;
      this.running = answer.running;
      this.whenDone = answer.when_done;
      this.shutdownAt = answer.shutdown_at;
      this.connection(null);
      this.dispatchEvent(new Event("jobs"));
    } catch (error) {
      this.connection(error);
    }
  }

  connection(error) {
    const lost = error !== null;
    if (lost) this.dispatchEvent(new CustomEvent("lost", { detail: error instanceof Lost ? null : error }));
    else if (this.lost) this.dispatchEvent(new Event("found"));
    this.lost = lost;
  }

  wait() {
    const seen = !document.hidden && this.mount.offsetParent !== null;
    if (!seen) return HIDDEN_MS;
    if (this.shutdownAt) return BUSY_MS;
    return this.jobs.some((job) => ACTIVE.has(job.status) || job.status === "queued") ? BUSY_MS : IDLE_MS;
  }
}

/** A job's events, gathered as charts and lists want them. */
export class Feed {
  constructor(id) {
    this.id = id;
    this.asking = null;
    this.begin();
  }

  begin() {
    this.next = 0;
    this.steps = [];
    this.losses = [];
    this.rates = new Map(); // group -> one rate a step
    this.epochs = []; // {step, epoch} at the end of each
    this.validations = []; // {step, epoch, loss} of what is held out
    this.best = null; // the lowest of them, also where the run has gone back from it
    this.notes = [];
    this.saves = [];
    this.checked = null;
    this.preflight = null;
    this.axes = null; // labels of a grid of pictures
    this.cells = []; // its pictures
    this.blocks = []; // what has been measured of a LoRA's blocks
  }

  /** Fetch what is new. @returns whether there was anything */
  update() {
    this.asking ??= this.fetch().finally(() => (this.asking = null));
    return this.asking;
  }

  async fetch() {
    let any = false;
    for (;;) {
      const answer = await get(`jobs/${encodeURIComponent(this.id)}/events?after=${this.next}`);
      if (answer.next < this.next) {
        // a retried job begins anew
        this.begin();
        continue;
      }
      for (const event of answer.events) this.take(event);
      this.next = answer.next;
      any ||= answer.events.length > 0;
      if (answer.events.length < MANY) return any;
    }
  }

  take(event) {
    TAKE[event.event]?.(this, event);
  }

  /** A resumed run makes again what came after its last state. */
  forgetFrom(step) {
    const keep = this.steps.findIndex((each) => each >= step);
    if (keep < 0) return;
    this.steps.length = this.losses.length = keep;
    for (const rates of this.rates.values()) rates.length = Math.min(rates.length, keep);
    this.epochs = this.epochs.filter((each) => each.step < step);
    this.validations = this.validations.filter((each) => each.step < step);
  }
}

const TAKE = {
  StepDone(feed, event) {
    if (feed.steps.length && event.step <= feed.steps[feed.steps.length - 1]) feed.forgetFrom(event.step);
    feed.steps.push(event.step);
    feed.losses.push(event.loss ?? NaN);
    for (const [group, rate] of Object.entries(event.lr)) {
      if (!feed.rates.has(group)) feed.rates.set(group, new Array(feed.steps.length - 1).fill(NaN));
      feed.rates.get(group).push(rate ?? NaN);
    }
  },
  EpochDone: (feed, event) => feed.epochs.push({ step: event.step, epoch: event.epoch }),
  WentBack: (feed, event) => feed.forgetFrom(event.step + 1),
  Validated(feed, event) {
    const measured = { step: event.step, epoch: event.epoch, loss: event.loss ?? NaN };
    feed.validations.push(measured);
    if (event.best) feed.best = measured;
  },
  Note: (feed, event) => feed.notes.push({ text: event.text, level: event.level }),
  Saved(feed, event) {
    feed.saves = feed.saves.filter((save) => save.path !== event.path);
    feed.saves.push({ path: event.path, step: event.step, final: event.final });
  },
  Removed: (feed, event) => (feed.saves = feed.saves.filter((save) => save.path !== event.path)),
  Checked: (feed, event) => (feed.checked = event),
  PreflightDone: (feed, event) => (feed.preflight = event),
  // A job that was stopped and is resumed lays its grid out anew, and tells of every picture again.
  GridLaidOut: (feed, event) => Object.assign(feed, { axes: event.axes, cells: [] }),
  CellReady: (feed, event) => feed.cells.push(event),
  BlockMeasured(feed, event) {
    feed.blocks = feed.blocks.filter((each) => each.block !== event.block);
    feed.blocks.push(event);
  },
};
