// The page: what lora_studio.js loads when the mount is first seen.

import { get, post } from "./api.js";
import { placeDialogs } from "./dialogs.js";
import { button, h, put, show, text } from "./dom.js";
import { duration } from "./format.js";
import { Live } from "./live.js";
import { attempt } from "./presets.js";
import { QueueTab } from "./queue.js";
import { Tabs } from "./tabs.js";
import { TrainTab } from "./train.js";

/** @param {HTMLElement} mount */
export async function start(mount) {
  freeSticky(mount);
  put(mount, h("p", { class: "ls-empty", role: "status" }, "Loading …"));
  let schema;
  try {
    schema = await get("form");
  } catch (error) {
    put(
      mount,
      h(
        "div",
        { class: "ls-banner", role: "alert" },
        h("span", {}, `The form cannot be loaded: ${error.message || "the server does not answer"}`),
        button("Try again", () => start(mount)),
      ),
    );
    return;
  }
  build(mount, schema);
}

function build(mount, schema) {
  const live = new Live(mount);
  const train = new TrainTab(schema, live);
  const queue = new QueueTab(live, schema, {
    watch: (id) => {
      train.run.pin(id);
      tabs.open("Train");
    },
    change: (values) => {
      train.load(values);
      tabs.open("Train");
    },
  });
  const tabs = new Tabs([
    { name: "Train", element: train.element },
    { name: "Queue", element: queue.element },
  ]);
  put(
    mount,
    h("header", { class: "ls-head" }, tabs.list),
    banner(live),
    shutdownBanner(live),
    train.element,
    queue.element,
  );
  placeDialogs(mount);
  live.refresh();
}

/** Says when the server does not answer, or wants a login again. */
function banner(live) {
  const words = h("span");
  const element = h(
    "div",
    { class: "ls-banner", role: "alert", hidden: true },
    words,
    button("Reload the page", () => location.reload()),
  );
  live.addEventListener("lost", ({ detail: refused }) => {
    text(words, refused ? refused.message : "The connection to the server is lost. Trying again …");
    show(element, true);
  });
  live.addEventListener("found", () => show(element, false));
  return element;
}

/** The machine goes down in a minute, unless somebody is there after all. */
function shutdownBanner(live) {
  const words = h("span");
  const stay = async () => {
    await attempt(() => post("queue", { when_done: "nothing" }));
    await live.renew();
  };
  const element = h(
    "div",
    { class: "ls-banner", role: "alert", hidden: true },
    words,
    button("Stay on", stay, { kind: "primary" }),
  );
  live.addEventListener("jobs", () => {
    show(element, live.shutdownAt);
    text(words, `The queue is done. This machine shuts down in ${duration(live.shutdownAt - Date.now() / 1000)}.`);
  });
  return element;
}

/** The run panel is sticky; gradio's own boxes around the mount cut off what overflows them, which would hold it. */
function freeSticky(mount) {
  for (let box = mount.parentElement; box && box !== document.body; box = box.parentElement) {
    if (getComputedStyle(box).overflowY !== "visible") box.style.setProperty("overflow", "visible", "important");
  }
}
