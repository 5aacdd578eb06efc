// Where dialogs and messages go while the page's own tab is hidden: over whatever else the WebUI shows.

import { address } from "./api.js";
import { h } from "./dom.js";

let inner = null;

/** An element with the page's style, in a tree of its own: there it may have the page's id. */
export function overlay() {
  if (!inner) {
    inner = h("div", { id: "lora-studio" });
    // What the page gets from around it, and the body has not.
    const { fontFamily } = getComputedStyle(document.querySelector(".gradio-container") ?? document.body);
    Object.assign(inner.style, { fontFamily, minHeight: "0" });
    const outer = h("div");
    const tree = outer.attachShadow({ mode: "open" });
    const look = document.querySelector(".dark") ? "dark" : "light";
    tree.append(h("link", { rel: "stylesheet", href: address("static/style.css") }), h("div", { class: look }, inner));
    document.body.append(outer);
  }
  return inner;
}
