// One picture of many, as large as the window allows; the arrow keys go to its neighbours.

import { ask } from "../dialogs.js";
import { button, h, show, text } from "../dom.js";

/**
 * @typedef {{source: string, label: string, note?: string, base?: string | null, row: number, column: number}} Shown
 *   `base` is the same picture without the LoRA
 */

const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

/**
 * @param {string} title
 * @param {Shown[]} pictures
 * @param {Shown} start
 * @param {(picture: Shown, draw: () => void) => Node | null} more what else is to be said or done about a picture;
 *   `draw` asks for it anew
 */
export function zoom(title, pictures, start, more = () => null) {
  let now = start;
  let bare = false;
  const image = h("img", { class: "ls-large" });
  const label = h("p", { class: "ls-caption" });
  const note = h("p", { class: "ls-help" });
  const place = h("div", { class: "ls-row" });
  const compare = button("Without the LoRA (B)", () => flip());

  function draw() {
    const without = bare && now.base;
    image.src = without ? now.base : now.source;
    image.alt = without ? `${now.label}, without the LoRA` : now.label;
    text(label, now.label);
    text(note, without ? "without the LoRA" : (now.note ?? ""));
    show(compare, now.base);
    compare.setAttribute("aria-pressed", String(Boolean(without)));
    const focused = place.contains(document.activeElement);
    const extra = more(now, draw);
    place.replaceChildren(...(extra ? [extra] : []));
    if (focused) extra?.focus();
  }

  function flip() {
    bare = !bare;
    draw();
  }

  /** The next picture in that direction, past places that are still empty. */
  function go(rows, columns) {
    const ahead = pictures
      .map((picture) => ({
        picture,
        by: rows ? (picture.row - now.row) * rows : (picture.column - now.column) * columns,
      }))
      .filter(({ picture, by }) => by > 0 && (rows ? picture.column === now.column : picture.row === now.row))
      .sort((a, b) => a.by - b.by);
    if (ahead.length) now = ahead[0].picture;
    draw();
  }

  function key(event) {
    if (event.key in MOVES) go(...MOVES[event.key]);
    else if (event.key.toLowerCase() === "b" && now.base) flip();
    else return;
    event.preventDefault();
  }

  draw();
  return ask(
    title,
    () =>
      h(
        "div",
        { class: "ls-lightbox", tabindex: "-1", autofocus: true, onkeydown: key },
        h(
          "div",
          { class: "ls-lightbox-row" },
          button("To the left", () => go(0, -1), { kind: "tool", icon: "left" }),
          image,
          button("To the right", () => go(0, 1), { kind: "tool", icon: "right" }),
        ),
        label,
        note,
        h("div", { class: "ls-row" }, compare, place),
      ),
    [],
    { wide: true },
  );
}
