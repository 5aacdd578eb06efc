// Sub-tabs. A tab is {name, element, opened?}; the page has one entry for each.

import { h, newId, show } from "./dom.js";
import { recall, remember } from "./memory.js";

export class Tabs {
  /** @param {{name: string, element: HTMLElement, opened?: () => void}[]} tabs `opened` is called when it is shown
   *  @param {{key?: string, label?: string}} look `key` is what the browser remembers the open one by */
  constructor(tabs, { key = "tab", label = "LoRA Studio" } = {}) {
    Object.assign(this, { tabs, key });
    this.list = h("div", {
      class: "ls-tabs",
      role: "tablist",
      "aria-label": label,
      onkeydown: (event) => this.walk(event),
    });
    this.buttons = tabs.map((tab) => {
      const [id, panel] = [newId(), newId()];
      const name = h(
        "button",
        {
          type: "button",
          role: "tab",
          id,
          class: "ls-tab",
          "aria-controls": panel,
          onclick: () => this.open(tab.name),
        },
        tab.name,
      );
      for (const [key, value] of Object.entries({ id: panel, role: "tabpanel", "aria-labelledby": id }))
        tab.element.setAttribute(key, value);
      return name;
    });
    this.list.append(...this.buttons);
    const last = recall(key);
    this.open(tabs.some((tab) => tab.name === last) ? last : tabs[0].name);
  }

  open(name) {
    remember(this.key, name);
    this.tabs.forEach((tab, index) => {
      const chosen = tab.name === name;
      show(tab.element, chosen);
      this.buttons[index].setAttribute("aria-selected", String(chosen));
      this.buttons[index].tabIndex = chosen ? 0 : -1;
      if (chosen) tab.opened?.();
    });
  }

  /** Arrow keys go along the tabs. */
  walk(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    const count = this.tabs.length;
    const next = (this.buttons.indexOf(document.activeElement) + move + count) % count;
    this.open(this.tabs[next].name);
    this.buttons[next].focus();
  }
}
