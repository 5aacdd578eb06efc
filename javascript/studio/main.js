// The page: what lora_studio.js loads when the mount is first seen.

import { get, post } from "./api.js";
import { BlocksTab } from "./blocks.js";
import { BLOCKS_KINDS } from "./blocks/run.js";
import { placeDialogs, tell } from "./dialogs.js";
import { button, h, put, show, text } from "./dom.js";
import { duration } from "./format.js";
import { DatasetTab } from "./dataset.js";
import { USUAL } from "./dataset/store.js";
import { Live } from "./live.js";
import { attempt } from "./presets.js";
import { QueueTab } from "./queue.js";
import { Tabs } from "./tabs.js";
import { TOOL_KINDS, ToolsTab } from "./tools.js";
import { TrainTab } from "./train.js";

/** @param {HTMLElement} mount */
export async function start(mount) {
  freeSticky(mount);
  // The WebUI takes Escape for its Interrupt, looks for that button in the open tab, and finds none in this one.
  mount.addEventListener("keydown", (event) => event.key === "Escape" && event.stopPropagation());
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
  const dataset = new DatasetTab(schema, live, {
    train: ({ folder, caption_extension: extension }) => {
      train.form.set("train_data_dir", folder);
      train.form.set("caption_extension", extension);
      tabs.open("Train");
    },
    values: () => train.form.submitted(),
  });
  const train = new TrainTab(schema, live, {
    edit: (folder) => {
      dataset.open(folder, { ...USUAL, caption_extension: train.form.values.caption_extension });
      tabs.open("Dataset");
    },
  });
  const tools = new ToolsTab(live);
  const blocks = new BlocksTab(live, {
    train: (values) => {
      train.form.fill(values);
      tabs.open("Train");
      tell("The form has these values now. Everything else in it stays.");
    },
    saveLora: (values) => {
      tools.load({ kind: "blocks", values });
      tabs.open("Tools");
    },
  });
  const queue = new QueueTab(
    live,
    {
      train: {
        watch: (job) => {
          train.run.pin(job.id);
          tabs.open("Train");
        },
        change: (job) => {
          train.load(job.values);
          tabs.open("Train");
        },
        defaults: () => schema.defaults,
      },
      ...homesOf(TOOL_KINDS, tools, () => tabs.open("Tools")),
      ...homesOf(BLOCKS_KINDS, blocks, () => tabs.open("Block weights")),
    },
    schema.host,
  );
  const tabs = new Tabs([
    { name: "Train", element: train.element },
    { name: "Dataset", element: dataset.element, opened: () => dataset.begin() },
    { name: "Block weights", element: blocks.element, opened: () => blocks.opened() },
    { name: "Tools", element: tools.element, opened: () => tools.opened() },
    { name: "Queue", element: queue.element },
  ]);
  put(
    mount,
    h("header", { class: "ls-head" }, tabs.list),
    banner(live),
    shutdownBanner(live),
    train.element,
    dataset.element,
    blocks.element,
    tools.element,
    queue.element,
  );
  placeDialogs(mount);
  live.refresh();
}

/** Where the queue's jobs of some kinds are looked at and changed. */
function homesOf(kinds, tab, open) {
  const home = (kind) => ({
    watch: (job) => {
      tab.watch(job.id);
      open();
    },
    change: (job) => {
      tab.load(job);
      open();
    },
    defaults: () => tab.defaults(kind),
  });
  return Object.fromEntries(kinds.map((kind) => [kind, home(kind)]));
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
