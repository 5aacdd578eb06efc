// Small helpers around the DOM. Foreign text only ever becomes text nodes and attributes, never markup.

/** @typedef {Node | string | number | null | undefined | false | Child[]} Child */

const SVG = "http://www.w3.org/2000/svg";

const ICONS = {
  reset: "M4 4v5h5 M4.6 9A8 8 0 1 1 4 13",
  up: "M6 15l6-6 6 6",
  down: "M6 9l6 6 6-6",
  left: "M15 6l-6 6 6 6",
  right: "M9 6l6 6-6 6",
  close: "M6 6l12 12 M18 6L6 18",
  copy: "M9 9h11v11H9z M5 15H4V4h11v1",
  drag: "M9 6h.01 M15 6h.01 M9 12h.01 M15 12h.01 M9 18h.01 M15 18h.01",
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14z M20 20l-4-4",
  folder: "M3 6h6l2 3h10v10H3z",
  edit: "M4 20l1-5L16 4l4 4L9 19z",
  clock: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18z M12 7v5l3 2",
  help: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18z M9.5 9.5a2.5 2.5 0 1 1 3.5 2.3c-.7.3-1 .8-1 1.7 M12 17h.01",
  undo: "M9 7L4 12l5 5 M4 12h11a5 5 0 0 1 0 10h-2",
  redo: "M15 7l5 5-5 5 M20 12H9a5 5 0 0 0 0 10h2",
};

let ids = 0;

/** A new id, unique on the page. */
export const newId = () => `ls-${++ids}`;

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...nodes(children));
  return element;
}

function nodes(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

/**
 * An element: h("button", { class: "ls-button", onclick: go }, "Go").
 * @param {string} tag
 * @param {Object} attributes a name with "on" before it takes a listener; null and false leave an attribute out
 * @param {...Child} children
 */
export const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

/** The same for SVG. */
export const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

export const icon = (name) =>
  svg("svg", { class: "ls-icon", viewBox: "0 0 24 24", "aria-hidden": "true" }, svg("path", { d: ICONS[name] }));

/** Replace what is in an element. */
export function put(element, ...children) {
  element.replaceChildren(...nodes(children));
  return element;
}

/** Change an element's text, and touch the page only when it differs: every change wakes the WebUI's observers. */
export function text(element, value) {
  const wanted = String(value ?? "");
  const only = element.childNodes.length === 1 ? element.firstChild : null;
  if (only instanceof Text) {
    if (only.data !== wanted) only.data = wanted;
  } else if (element.textContent !== wanted || element.childNodes.length) {
    element.textContent = wanted;
  }
}

/** Show or hide, again only when that changes something. */
export function show(element, visible) {
  if (element.hidden === Boolean(visible)) element.hidden = !visible;
}

/**
 * @param {string} label
 * @param {() => void} action
 * @param {{kind?: "primary"|"stop"|"plain"|"tool", icon?: string, title?: string, disabled?: boolean}} look
 *   "tool" shows the icon alone, and the label to screen readers and as a tip
 */
export function button(label, action, look = {}) {
  const tool = look.kind === "tool";
  return h(
    "button",
    {
      type: "button",
      class: `ls-button ls-${look.kind ?? "plain"}`,
      "aria-label": tool ? label : null,
      title: look.title ?? (tool ? label : null),
      disabled: look.disabled,
      onclick: action,
    },
    look.icon && icon(look.icon),
    tool ? null : label,
  );
}

/** A labelled control outside the option form. */
export function labelled(label, control, help = null) {
  control.id ||= newId();
  return h(
    "div",
    { class: "ls-field" },
    h("label", { for: control.id, class: "ls-label" }, label),
    control,
    help && h("p", { class: "ls-help" }, help),
  );
}

export function select(choices, value, onchange) {
  const element = h(
    "select",
    { class: "ls-input", onchange: () => onchange?.(element.value) },
    choices.map(([key, label]) => h("option", { value: key }, label)),
  );
  element.value = value;
  return element;
}

/** A path that is broken behind its slashes where it does not fit into a line. */
export const breakable = (path) =>
  path.split(/(?<=[\\/])/).flatMap((part, index) => (index ? [h("wbr"), part] : [part]));

/** Call `action` once things have been quiet for a while. */
export function debounce(action, milliseconds) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...values), milliseconds);
  };
}
