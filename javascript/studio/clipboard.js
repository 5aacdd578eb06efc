// Text for other programs.

import { tell } from "./dialogs.js";

/** Copy a text that stands in `element`, or mark it there: only pages from this machine or over https may copy. */
export async function copyText(words, element, name) {
  try {
    await navigator.clipboard.writeText(words);
    tell(`${name} is copied.`);
  } catch {
    getSelection().selectAllChildren(element);
    tell(`${name} is marked: copy it with Ctrl+C.`);
  }
}
