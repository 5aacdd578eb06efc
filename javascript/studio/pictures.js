// Preview pictures: a grid by step, one picture large, a prompt's pictures of all steps side by side.

import { address, part } from "./api.js";
import { ask } from "./dialogs.js";
import { button, h, put, show, text } from "./dom.js";
import { count, whole } from "./format.js";

export const pictureAddress = (job, name) => address(`jobs/${encodeURIComponent(job)}/pictures/${part(name)}`);

/** Pictures grouped by their step, in the order of the steps. */
export function bySteps(pictures) {
  const steps = new Map();
  for (const picture of pictures) {
    if (!steps.has(picture.step)) steps.set(picture.step, []);
    steps.get(picture.step).push(picture);
  }
  return [...steps].sort(([a], [b]) => a - b);
}

const stepName = (step, perEpoch) =>
  step === 0
    ? "before the first step"
    : perEpoch && step % perEpoch === 0
      ? `epoch ${step / perEpoch}, step ${whole(step)}`
      : `step ${whole(step)}`;

export class Gallery {
  constructor() {
    this.rows = h("div", { class: "ls-picture-rows" });
    this.title = h("h3", {}, "Previews");
    this.compare = button("Side by side", () => sideBySide(this.job, this.prompts()[0]));
    this.element = h(
      "section",
      { class: "ls-pictures", hidden: true },
      h("header", { class: "ls-part-head" }, this.title, this.compare),
      this.rows,
    );
    this.drawn = "";
  }

  prompts() {
    return [...new Set(this.job.pictures.map((picture) => picture.prompt))];
  }

  update(job) {
    this.job = job;
    show(this.element, job.pictures.length > 0);
    const key = `${job.id}/${job.pictures.length}`;
    if (key === this.drawn) return;
    this.drawn = key;
    text(this.title, `Previews (${job.pictures.length})`);
    show(this.compare, bySteps(job.pictures).length > 1);
    put(
      this.rows,
      bySteps(job.pictures)
        .reverse()
        .map(([step, pictures]) =>
          // the newest first
          h(
            "div",
            { class: "ls-picture-row" },
            h("h4", {}, stepName(step, job.steps_per_epoch)),
            h(
              "div",
              { class: "ls-thumbs" },
              pictures.map((picture) => thumb(job, picture, () => enlarge(job, picture))),
            ),
          ),
        ),
    );
  }
}

function thumb(job, picture, open) {
  return h(
    "button",
    { type: "button", class: "ls-thumb", title: picture.prompt, onclick: open },
    h("img", {
      src: pictureAddress(job.id, picture.name),
      alt: `${stepName(picture.step, job.steps_per_epoch)}: ${picture.prompt}`,
      loading: "lazy",
    }),
  );
}

/** One picture as large as the window allows; arrow keys go to earlier and later ones and to other prompts. */
export function enlarge(job, picture) {
  const image = h("img", { class: "ls-large" });
  const caption = h("p", { class: "ls-caption" });
  const where = h("p", { class: "ls-help" });
  let now = picture;

  function draw() {
    image.src = pictureAddress(job.id, now.name);
    image.alt = now.prompt;
    text(caption, now.prompt);
    text(where, stepName(now.step, job.steps_per_epoch));
  }

  /** Along the steps of one prompt, or along the prompts of one step. */
  function go(steps, prompts) {
    const same = job.pictures.filter((each) => (steps ? each.prompt === now.prompt : each.step === now.step));
    const next = same[same.indexOf(now) + steps + prompts];
    if (next) now = next;
    draw();
  }

  draw();
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  return ask(
    "Preview",
    (close) =>
      h(
        "div",
        {
          class: "ls-lightbox",
          tabindex: "-1",
          autofocus: true,
          onkeydown: (event) => moves[event.key] && go(...moves[event.key]),
        },
        h(
          "div",
          { class: "ls-lightbox-row" },
          button("Earlier", () => go(-1, 0), { kind: "tool", icon: "left" }),
          image,
          button("Later", () => go(1, 0), { kind: "tool", icon: "right" }),
        ),
        where,
        caption,
        button("Side by side", () => {
          close(null);
          sideBySide(job, now.prompt);
        }),
      ),
    [],
    { wide: true },
  );
}

/** A prompt's pictures of all steps in a row. */
export function sideBySide(job, prompt) {
  const prompts = [...new Set(job.pictures.map((picture) => picture.prompt))];
  const strip = h("div", { class: "ls-strip", tabindex: "0", role: "group", "aria-label": "Pictures by step" });
  const draw = (wanted) =>
    put(
      strip,
      job.pictures
        .filter((picture) => picture.prompt === wanted)
        .sort((a, b) => a.step - b.step)
        .map((picture) =>
          h(
            "figure",
            {},
            thumb(job, picture, () => enlarge(job, picture)),
            h("figcaption", {}, stepName(picture.step, job.steps_per_epoch)),
          ),
        ),
    );
  const choice = h(
    "select",
    { class: "ls-input", "aria-label": "Prompt", onchange: () => draw(choice.value) },
    prompts.map((each) => h("option", { value: each }, each)),
  );
  choice.value = prompt;
  draw(prompt);
  return ask(`Side by side: ${count(bySteps(job.pictures).length, "step")}`, () => [choice, strip], [], { wide: true });
}
