// What the best picture of a grid says: about the next training, and about the checkpoint that the LoRA suits.

import { post } from "../api.js";
import { confirm, tell } from "../dialogs.js";
import { button, h, put, show } from "../dom.js";
import { fileName } from "../format.js";
import { attempt } from "../presets.js";

export class Advice {
  /** @param {import("./run.js").Actions} actions */
  constructor(actions) {
    Object.assign(this, { actions, asked: 0 });
    this.element = h("div", { class: "ls-result ls-advice", role: "status", hidden: true });
  }

  clear() {
    this.asked += 1;
    show(this.element, false);
  }

  /**
   * @param {string} label of the best picture
   * @param {{lora: string, unet: number, te: number, weights: string | null, checkpoint: string | null}} values
   * @param {boolean} tellsStrengths whether it was chosen among several strengths
   */
  async ask(label, values, tellsStrengths) {
    const number = ++this.asked;
    const { lora, unet, te, checkpoint } = values;
    const advice = tellsStrengths && (await attempt(() => post("blocks/advice", { unet, te, lora })));
    if (number !== this.asked) return;
    put(
      this.element,
      h("b", {}, `Best: ${label}`),
      advice && this.words(advice),
      this.buttons(values, advice, checkpoint),
    );
    show(this.element, true);
  }

  words({ why, values }) {
    const lines = [why].flat();
    return [
      lines.length > 0 &&
        h(
          "ul",
          { class: "ls-list" },
          lines.map((line) => h("li", {}, line)),
        ),
      Object.keys(values).length > 0 &&
        h(
          "dl",
          { class: "ls-facts ls-tool-facts" },
          Object.entries(values).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value)))),
        ),
    ];
  }

  buttons(values, advice, checkpoint) {
    const changes = advice && Object.keys(advice.values).length > 0;
    return h(
      "div",
      { class: "ls-row ls-small" },
      changes &&
        button("To the Train tab", () => this.actions.train(advice.values), {
          kind: "primary",
          title: "Put these values into the form of the next training",
        }),
      button("Use it", () => this.actions.use(values), {
        title: "Take this LoRA, its strengths and weights to the left side",
      }),
      checkpoint &&
        button("Note the checkpoint …", () => this.note(values.lora, checkpoint), {
          title: "Write into the LoRA's file that it works best with this checkpoint",
        }),
    );
  }

  async note(lora, checkpoint) {
    const name = fileName(checkpoint);
    const sure = await confirm(
      "Note the checkpoint",
      `The metadata of ${lora} will say that it works best with ${name}. Its tensors stay as they are.`,
      "Write it",
      "primary",
    );
    if (!sure) return;
    await attempt(async () => {
      await post("blocks/best", { lora, checkpoint });
      tell(`${lora} says now that it works best with ${name}.`);
    });
  }
}
