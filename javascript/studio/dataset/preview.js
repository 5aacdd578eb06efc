// Captions before and after, in a list and in a question.

import { ask } from "../dialogs.js";
import { h } from "../dom.js";
import { count } from "../format.js";
import { difference } from "./caption_text.js";
import { marked } from "./conflict.js";

/** @param {import("./store.js").Dataset} dataset  @param {[number, string, string][]} examples id, before, after */
export const exampleRows = (dataset, examples) =>
  examples.map(([id, before, after]) =>
    h(
      "li",
      {},
      h("span", { class: "ls-count" }, dataset.name(id)),
      h("p", { class: "ls-difference" }, marked(difference(before ?? "", after ?? ""))),
    ),
  );

/** Show what would be changed and ask whether it shall be. */
export const askChange = (dataset, title, { changed, examples }, yes) =>
  ask(
    title,
    () => [
      h("p", {}, `This changes ${count(changed, "picture's caption", "pictures' captions")}. Undo takes it back.`),
      h("ul", { class: "ls-examples ls-examples-box" }, exampleRows(dataset, examples)),
    ],
    [
      { label: "Cancel", value: false },
      { label: yes, value: true, kind: "primary" },
    ],
  );
