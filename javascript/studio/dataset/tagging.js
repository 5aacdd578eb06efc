// Taggers: run them, then move the thresholds afterwards and see at once what they come to.

import { get, post } from "../api.js";
import { tell } from "../dialogs.js";
import { button, debounce, h, put, show, text } from "../dom.js";
import { count, whole } from "../format.js";
import { attempt } from "../presets.js";
import { Disagreements } from "./disagreements.js";
import { tellConflicts } from "./history.js";
import { exampleRows } from "./preview.js";
import { Scope } from "./scope.js";
import { TagForm } from "./tag_form.js";
import { TagJob } from "./tag_job.js";

const MOST_TOP = 60,
  MOST_EXAMPLES = 8;
const COUNT_REST_MS = 40,
  PREVIEW_REST_MS = 400; // the captions take longer

export class Tagging {
  /**
   * @param {import("./store.js").Dataset} dataset
   * @param {import("./selection.js").Selection} selection
   * @param {import("./captions.js").Captions} captions
   * @param {import("../live.js").Live} live
   * @param {{show: (ids: number[]) => void, edit: (name: string, values: Object, ids: number[]) => Promise<void>}} look
   */
  constructor(dataset, selection, captions, live, look) {
    Object.assign(this, { dataset, captions, look });
    this.form = null;
    this.place = h("div", {});
    this.scope = new Scope(dataset, selection, () => this.soon());
    this.start = button("Tag", () => this.run(), { kind: "primary" });
    this.error = h("p", { class: "ls-error", role: "alert", hidden: true });
    this.job = new TagJob(dataset, live, () => this.soon());
    this.keptScores();
    this.element = h(
      "div",
      { class: "ls-panel" },
      this.place,
      this.scope.element,
      h("div", { class: "ls-row" }, this.start),
      this.error,
      this.job.element,
      this.stored,
      this.disagreements.element,
    );
    this.soon = debounce(() => this.count(), COUNT_REST_MS);
    this.previewSoon = debounce(() => this.preview(), PREVIEW_REST_MS);
    dataset.addEventListener("captions", () => this.soon());
    dataset.addEventListener("opened", () => this.element.offsetParent && attempt(() => this.load()));
  }

  keptScores() {
    this.figures = h("p", { class: "ls-found ls-figure", role: "status" });
    this.write = button("Write captions", () => this.apply(), { disabled: true });
    this.top = h("ul", { class: "ls-chips" });
    this.examples = h("ul", { class: "ls-examples" });
    this.stored = h(
      "section",
      { class: "ls-panel", hidden: true },
      h("h3", {}, "With the scores that are kept"),
      this.figures,
      h("div", { class: "ls-row" }, this.write),
      this.top,
      this.examples,
    );
    this.disagreements = new Disagreements(this.dataset, this.look, () => this.body);
  }

  async load() {
    if (!this.dataset.isOpen) return;
    if (!this.form) {
      this.form = new TagForm(await get("dataset/tagging"), () => this.soon());
      put(this.place, this.form.element);
    }
    this.job.draw();
    await this.count();
  }

  get body() {
    return { values: this.form.values, ids: this.scope.ids };
  }

  /** What the scores that are kept come to with these thresholds. */
  async count() {
    if (!this.form || !this.dataset.isOpen || !this.element.offsetParent) return;
    const turn = (this.turn = (this.turn ?? 0) + 1);
    text(this.start, `Tag ${count(this.scope.ids.length, "picture")}`);
    this.start.disabled = this.job.running || this.scope.ids.length === 0;
    try {
      await this.findScores();
      if (this.stored.hidden) return;
      const answer = await post(this.dataset.route("tagging/count"), this.body);
      if (turn !== this.turn) return;
      this.fail(null);
      this.drawCount(answer);
      this.previewSoon();
    } catch (error) {
      if (turn === this.turn) this.fail(error);
    }
  }

  /** Whether a chosen tagger has said anything; asked again only when it may have. */
  async findScores() {
    const asked = `${this.dataset.version} ${this.job.running} ${this.form.chosen}`;
    if (asked === this.asked) return;
    const { taggers } = await get(this.dataset.route("tagging"));
    this.asked = asked;
    const some = taggers.some((each) => each.pictures > 0 && this.form.chosen.includes(each.name));
    show(this.stored, some);
    this.disagreements.show(some);
  }

  drawCount({ pictures, per_picture, without, top }) {
    const none = without ? `, none on ${whole(without)}` : "";
    text(this.figures, `${count(pictures, "picture")}, ${per_picture.toFixed(1)} tags each${none}`);
    put(
      this.top,
      top
        .slice(0, MOST_TOP)
        .map(([tag, category, number]) =>
          h(
            "li",
            { class: "ls-chip", "data-category": category },
            h("span", { class: "ls-chip-tag" }, tag),
            h("span", { class: "ls-count" }, whole(number)),
          ),
        ),
    );
  }

  /** What writing would change. */
  async preview() {
    const { turn } = this;
    try {
      const { changed, examples } = await post(this.dataset.route("tagging/preview"), this.body);
      if (turn !== this.turn) return;
      text(this.write, changed ? `Write ${count(changed, "caption")}` : "Nothing to write");
      this.write.disabled = changed === 0;
      put(this.examples, exampleRows(this.dataset, examples.slice(0, MOST_EXAMPLES)));
    } catch (error) {
      if (turn === this.turn) this.fail(error);
    }
  }

  async apply() {
    await this.captions.save();
    try {
      const { changed, conflicts } = await this.dataset.change("tagging/write", this.body);
      tell(`${count(changed.length, "caption")} written. Ctrl+Z takes it back.`);
      if (conflicts.length) tellConflicts(conflicts, this.dataset);
    } catch (error) {
      this.fail(error);
    }
  }

  async run() {
    await this.captions.save();
    if (!this.scope.ids.length) return this.fail(new Error("No picture is chosen.")); // none would mean all of them
    this.fail(null);
    try {
      await this.job.start({ ...this.form.values, ...this.dataset.place, ...this.pictures() });
    } catch (error) {
      this.fail(error);
    }
  }

  /** Which pictures: thousands of names would be sent back with every look at the job, a filter is short. */
  pictures() {
    const { value, ids } = this.scope;
    if (value === "all") return {};
    if (value === "filtered" && !/\bselected\b/.test(this.dataset.query)) return { filter: this.dataset.query };
    return { pictures: ids.map((id) => this.dataset.name(id)) };
  }

  fail(error) {
    this.form.form.clearErrors();
    const elsewhere = error && !(error.field && this.form.form.showError(error, { focus: false }));
    text(this.error, elsewhere ? error.message : "");
    show(this.error, elsewhere);
  }
}
