// A job's status in words, colours and a bar, the same wherever a job is shown.

import { h, text } from "./dom.js";
import { duration, speed, took, whole } from "./format.js";

const WORDS = {
  queued: "waiting",
  running: "running",
  pausing: "pausing",
  paused: "paused",
  stopping: "stopping",
  done: "done",
  stopped: "stopped",
  failed: "failed",
  interrupted: "interrupted",
};

export function pill(status) {
  return h("span", { class: "ls-pill", "data-status": status }, WORDS[status] ?? status);
}

export function setPill(element, status) {
  if (element.dataset.status === status) return;
  element.dataset.status = status;
  text(element, WORDS[status] ?? status);
}

export const kindName = (kind) => ({ train: "training", preflight: "check" })[kind] ?? kind;

/** Where a job runs and why. A host that lends no model has only one way, and nothing to say about it. */
export function whereWords(job, host) {
  if (!job.way || !host.can_lend) return "";
  return `${job.way === "live" ? "On the loaded model" : "In a process of its own"}${job.way_why ? `: ${job.way_why}` : ""}`;
}

/** How far a job is: {share from 0 to 1, null while nobody knows; words}. */
export function progressOf(job) {
  const part = job.progress;
  if (part && part.total > 0)
    return { share: part.done / part.total, words: `${part.what}: ${whole(part.done)} of ${whole(part.total)}` };
  if (job.total_steps)
    return { share: job.step / job.total_steps, words: `step ${whole(job.step)} of ${whole(job.total_steps)}` };
  if (job.status === "done") return { share: 1, words: "" };
  return { share: job.status === "running" ? null : 0, words: job.status === "running" ? "starting" : "" };
}

export const epochWords = (job) => (job.epochs ? `epoch ${whole(Math.max(1, job.epoch))} of ${whole(job.epochs)}` : "");

/** Speed and time left of a running job; how long an ended one took. */
export function timeWords(job) {
  if (job.ended && job.started) return `took ${took(job.ended - job.started)}`;
  if (job.progress?.rate) return paceWords(job.progress);
  if (!job.seconds_per_step) return "";
  return `${speed(job.seconds_per_step)}, ${duration(job.seconds_left)} left`;
}

/** Of work in parts, such as layers. */
function paceWords({ rate, seconds_left: left }) {
  const pace = `${rate < 10 ? rate.toFixed(1) : whole(rate)} a second`;
  return left === null || left === undefined ? pace : `${pace}, ${duration(left)} left`;
}

export class Bar {
  constructor(label) {
    this.fill = h("i");
    this.element = h(
      "div",
      { class: "ls-progress", role: "progressbar", "aria-label": label, "aria-valuemin": "0", "aria-valuemax": "100" },
      this.fill,
    );
  }

  set(job) {
    const { share, words } = progressOf(job);
    this.element.dataset.status = job.status;
    this.element.classList.toggle("ls-unknown", share === null);
    this.fill.style.width = `${((share ?? 1) * 100).toFixed(2)}%`;
    if (share === null) this.element.removeAttribute("aria-valuenow");
    else this.element.setAttribute("aria-valuenow", Math.round(share * 100));
    this.element.setAttribute("aria-valuetext", words || job.status);
  }
}

/** What a person can do to a job: button's label by the name of the action. */
export const ACTIONS = {
  pause: "Pause",
  resume: "Resume",
  save: "Save now",
  stop: "Stop and save",
  abort: "Abort",
  retry: "Retry",
  remove: "Remove",
};

/** Training alone has something to save when it is stopped. */
export const actionName = (action, kind) => (action === "stop" && kind !== "train" ? "Stop" : ACTIONS[action]);
