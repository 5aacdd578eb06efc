// One picture as large as the window allows; the arrow keys go on to its neighbours.

import { address } from "../api.js";
import { ask } from "../dialogs.js";
import { button, h, text } from "../dom.js";

export function enlarge(dataset, selection) {
  const image = h("img", { class: "ls-large", alt: "" });
  const words = h("p", { class: "ls-caption" });

  async function draw() {
    const id = selection.cursor;
    image.src = address(dataset.look(`picture/${id}?v=${dataset.value(id, "stamps")}`));
    const view = await dataset.item(id).catch(() => null);
    if (view && id === selection.cursor) text(words, `${view.name}: ${view.caption ?? "no caption"}`);
  }

  const go = (by) => {
    selection.go(by);
    draw();
  };
  draw();
  const moves = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };
  return ask(
    "Picture",
    () =>
      h(
        "div",
        {
          class: "ls-lightbox",
          tabindex: "-1",
          autofocus: true,
          onkeydown: (event) => moves[event.key] && go(moves[event.key]),
        },
        h(
          "div",
          { class: "ls-lightbox-row" },
          button("Previous", () => go(-1), { kind: "tool", icon: "left" }),
          image,
          button("Next", () => go(1), { kind: "tool", icon: "right" }),
        ),
        words,
      ),
    [],
    { wide: true },
  );
}
