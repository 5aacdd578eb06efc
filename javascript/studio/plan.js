// What a run would do, while the form is being filled in.

import { post, Refused } from "./api.js";
import { LineChart } from "./charts.js";
import { debounce, h, put, show, svg, text } from "./dom.js";
import { count, fileName, megabytes, rate, whole } from "./format.js";

const WAIT_MS = 450;
const NO_DATASET = "Choose a folder of pictures: its buckets and steps are shown here.";

/**
 * Asks for the plan whenever the form changes, and tells who shows it. While a value is refused the last plan stays,
 * with `error` set; without a dataset there is none.
 */
export class Planner extends EventTarget {
  constructor(form) {
    super();
    this.form = form;
    this.asked = 0;
    this.plan = null;
    this.error = null;
    this.later = debounce(() => this.now().catch(() => {}), WAIT_MS);
  }

  /** The plan of the form as it stands. @throws the server's refusal */
  async now() {
    const number = ++this.asked;
    this.dispatchEvent(new Event("asked"));
    try {
      return this.told(number, await post("plan", { values: this.form.submitted() }), null);
    } catch (error) {
      if (error instanceof Refused) this.told(number, null, error);
      throw error;
    }
  }

  told(number, plan, error) {
    if (number === this.asked) {
      // an older question's answer may come later
      if (plan || error.field === "train_data_dir") this.plan = plan;
      this.error = error;
      this.dispatchEvent(new Event("plan"));
    }
    return plan;
  }
}

/** The run as it would be: numbers, buckets as bars, the learning rate as curves, what is left out. */
export class PlanView {
  constructor(planner) {
    this.empty = h("p", { class: "ls-empty" }, NO_DATASET);
    this.facts = h("dl", { class: "ls-facts" });
    this.chart = h("div", { class: "ls-buckets" });
    this.leftOut = h("details", { class: "ls-left-out", hidden: true }, h("summary"), h("ul"));
    this.body = h("div", { class: "ls-plan-body", hidden: true }, this.facts, this.chart);
    this.rates = new RateView();
    this.element = h(
      "div",
      { class: "ls-plan", "aria-live": "polite" },
      this.empty,
      this.body,
      this.rates.element,
      this.leftOut,
    );
    planner.addEventListener("asked", () =>
      text(this.empty, planner.form.values.train_data_dir ? "Reading the pictures …" : NO_DATASET),
    );
    planner.addEventListener("plan", () => this.draw(planner.plan, planner.error));
  }

  draw(plan, error) {
    this.body.classList.toggle("ls-stale", Boolean(error));
    text(this.empty, NO_DATASET);
    show(this.empty, !plan);
    show(this.body, plan);
    show(this.leftOut, plan && plan.left_out.length > 0);
    this.rates.draw(plan, error);
    if (!plan) return;
    put(
      this.facts,
      fact("Pictures", whole(plan.pictures)),
      plan.regularisation > 0 && fact("Regularisation", whole(plan.regularisation)),
      plan.held_out > 0 && fact("Held out", whole(plan.held_out)),
      fact("With repeats", whole(plan.repeats_total)),
      fact("Steps an epoch", whole(plan.steps_per_epoch)),
      fact("Steps in all", whole(plan.steps)),
    );
    put(this.chart, bucketChart(plan.buckets));
    const [summary, list] = this.leftOut.children;
    put(summary, `${count(plan.left_out.length, "file")} left out`);
    put(
      list,
      plan.left_out.map((each) => h("li", {}, h("b", { title: each.file }, fileName(each.file)), ` ${each.why}`)),
    );
  }
}

/** The learning rate of each group over the run. */
class RateView {
  constructor() {
    this.chart = new LineChart({ label: "Learning rate", format: rate, height: 84 });
    this.note = h("span", { class: "ls-help" });
    this.element = h(
      "div",
      { class: "ls-rates", hidden: true },
      h("header", { class: "ls-part-head" }, h("h3", {}, "Learning rate"), this.note),
      this.chart.element,
    );
  }

  draw(plan, error) {
    const rates = plan?.rates;
    this.element.classList.toggle("ls-stale", Boolean(error));
    show(this.element, rates);
    if (!rates) return;
    text(this.note, rates.note);
    show(this.chart.element, Object.keys(rates.groups).length > 0);
    const ends = Array.from({ length: plan.epochs }, (_, index) => ({
      step: (index + 1) * plan.steps_per_epoch,
      epoch: index + 1,
    }));
    this.chart.set(
      rates.steps,
      Object.entries(rates.groups).map(([name, y]) => ({ name, y })),
      ends,
    );
  }
}

export const fact = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));

const HEIGHT = 74,
  BAR = 34,
  GAP = 14,
  LABEL = 30,
  MOST_BARS = 24;

/** Bars of the buckets' pictures, each as wide as its shape asks. */
export function bucketChart(buckets) {
  const shown = [...buckets].sort((a, b) => a.width / a.height - b.width / b.height).slice(0, MOST_BARS);
  const most = Math.max(...shown.map((bucket) => bucket.pictures), 1);
  const width = shown.length * (BAR + GAP);
  const bars = shown.map((bucket, index) => {
    const height = Math.max(2, (bucket.pictures / most) * HEIGHT);
    const left = index * (BAR + GAP) + GAP / 2;
    const middle = left + BAR / 2;
    const bottom = HEIGHT + 14;
    return svg(
      "g",
      {},
      svg("title", {}, `${bucket.width} × ${bucket.height} px: ${count(bucket.pictures, "picture")}`),
      svg("rect", { x: left, y: bottom - height, width: BAR, height, rx: 2, class: "ls-bar" }),
      svg("text", { x: middle, y: bottom - height - 4, class: "ls-bar-count" }, bucket.pictures),
      svg("text", { x: middle, y: bottom + 12, class: "ls-bar-size" }, bucket.width),
      svg("text", { x: middle, y: bottom + 23, class: "ls-bar-size" }, bucket.height),
    );
  });
  const names = shown.map((bucket) => `${bucket.width} by ${bucket.height}: ${bucket.pictures}`).join(", ");
  return svg(
    "svg",
    {
      viewBox: `0 0 ${width} ${HEIGHT + LABEL + 12}`,
      width,
      height: HEIGHT + LABEL + 12,
      role: "img",
      "aria-label": `Pictures in each bucket. ${names}`,
    },
    bars,
  );
}

/** What will come of it, for the place beside the Start button. */
export function outcome(plan, form) {
  const [rank, alpha] = [form.values.network_dim, form.values.network_alpha];
  return h(
    "dl",
    { class: "ls-facts ls-outcome" },
    fact("Steps", whole(plan.steps)),
    fact("Epochs", whole(plan.epochs)),
    fact("File", megabytes(plan.file_mb)),
    fact("Alpha / rank", h("span", { title: `alpha ${alpha || "none"}, rank ${rank}` }, scale(plan.alpha_over_rank))),
  );
}

const scale = (ratio) => (ratio === null || ratio === undefined ? "–" : `× ${Number(ratio.toPrecision(3))}`);
