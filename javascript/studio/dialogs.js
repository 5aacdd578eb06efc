// Questions and short messages over the page.

import { button, h, icon, newId } from "./dom.js";
import { overlay } from "./over.js";

let page = null;

/** Dialogs and messages live inside the page's own element, so that its style applies. */
export function placeDialogs(mount) {
  page = mount;
}

/** The page; over the WebUI's other tabs, where the page is not seen, a place there. */
const root = () => (page?.offsetParent ? page : overlay());

function messages() {
  const place = root();
  let list = place.querySelector(":scope > .ls-messages");
  if (!list) {
    list = h("div", { class: "ls-messages", role: "status", "aria-live": "polite" });
    place.append(list);
  }
  return list;
}

/**
 * A modal dialog. The promise gives the pressed button's value, or null when it was closed.
 * @param {string} title
 * @param {(close: (value: any) => void) => Node | Node[]} content
 * @param {{label: string, value: any, kind?: string}[]} answers
 * @param {{wide?: boolean}} look
 */
export function ask(title, content, answers, look = {}) {
  return new Promise((resolve) => {
    const heading = newId();
    let given = null;
    const close = (value) => {
      given = value;
      dialog.close();
    };
    const dialog = h(
      "dialog",
      { class: `ls-dialog${look.wide ? " ls-wide" : ""}`, "aria-labelledby": heading },
      h(
        "header",
        {},
        h("h2", { id: heading }, title),
        button("Close", () => close(null), { kind: "tool", icon: "close" }),
      ),
      h("div", { class: "ls-dialog-body" }, content(close)),
      answers.length > 0 &&
        h(
          "div",
          { class: "ls-answers" },
          answers.map((answer) =>
            button(
              answer.label,
              () => close(typeof answer.value === "function" ? answer.value() : answer.value),
              answer,
            ),
          ),
        ),
    );
    // Where a button that had the focus is gone, the key comes from outside of the dialog.
    const outside = (event) => event.key === "Escape" && !dialog.contains(event.target) && event.stopPropagation();
    window.addEventListener("keydown", outside, true);
    dialog.addEventListener("close", () => {
      window.removeEventListener("keydown", outside, true);
      dialog.remove();
      resolve(given);
    });
    dialog.addEventListener("click", (event) => event.target === dialog && close(null));
    dialog.addEventListener("keydown", (event) => event.stopPropagation()); // the WebUI takes Escape for itself
    root().append(dialog);
    dialog.showModal();
  });
}

export const confirm = (title, question, yes, kind = "stop") =>
  ask(title, () => h("p", {}, question), [
    { label: "Cancel", value: false },
    { label: yes, value: true, kind },
  ]);

/** Ask for a line of text; null when it was cancelled. */
export function askText(title, label, value, yes) {
  const input = h("input", { class: "ls-input", value, autofocus: true });
  input.id = newId();
  return ask(
    title,
    (close) => {
      input.addEventListener("keydown", (event) => event.key === "Enter" && close(input.value.trim()));
      return h("div", { class: "ls-field" }, h("label", { for: input.id, class: "ls-label" }, label), input);
    },
    [
      { label: "Cancel", value: null },
      { label: yes, value: () => input.value.trim(), kind: "primary" },
    ],
  );
}

/** A message that goes by itself; one of kind "error" stays until it is closed. */
export function tell(message, kind = "info") {
  const note = h(
    "div",
    { class: `ls-message ls-${kind}` },
    h("span", {}, message),
    h(
      "button",
      { type: "button", class: "ls-button ls-tool", "aria-label": "Close", onclick: () => note.remove() },
      icon("close"),
    ),
  );
  messages().append(note);
  if (kind !== "error") setTimeout(() => note.remove(), 6000);
}
