// A caption as tags and sentences, and back. The server takes captions with sentences apart (dataset/tags.py).

const MOST_WORDS_OF_A_TAG = 3; // with more a part may be a sentence
const SENTENCE_END = /[.!?]["')\]]*$/;

/** @typedef {{text: string, prose: boolean}} Part */

/** The parts of a caption between its commas, with where each begins. */
export function piecesOf(caption) {
  const pieces = [];
  let start = 0;
  for (const piece of caption.split(",")) {
    const text = piece.trim();
    if (text) pieces.push({ text, start: start + piece.indexOf(text) });
    start += piece.length + 1;
  }
  return pieces;
}

export const tagsOf = (caption) => piecesOf(caption).map((piece) => piece.text);

/** @returns {Part[] | null} null where only the server can tell: there may be sentences */
export function plainParts(caption) {
  const tags = tagsOf(caption);
  if (tags.some((tag) => tag.split(" ").length > MOST_WORDS_OF_A_TAG)) return null;
  return tags.map((text) => ({ text, prose: false }));
}

/** @param {{before: string[], prose: string, after: string[]}} answer  @returns {Part[]} */
export function partsOf({ before, prose, after }) {
  const tag = (text) => ({ text, prose: false });
  return [...before.map(tag), ...(prose ? [{ text: prose, prose: true }] : []), ...after.map(tag)];
}

/** @param {Part[]} parts */
export function joined(parts) {
  let caption = "";
  parts.forEach(({ text }, place) => {
    const last = parts[place - 1];
    if (last) caption += last.prose && SENTENCE_END.test(last.text) ? " " : ", ";
    caption += text;
  });
  return caption;
}

/** What differs between two captions, tag by tag: {tag, change: "" | "new" | "gone"} in order. */
export function difference(before, after) {
  const [old, now] = [tagsOf(before), tagsOf(after)];
  // common[i][j]: the length of the longest common part of what follows i and j, as diff programs find it.
  const common = Array.from({ length: old.length + 1 }, () => new Array(now.length + 1).fill(0));
  for (let i = old.length - 1; i >= 0; i--)
    for (let j = now.length - 1; j >= 0; j--)
      common[i][j] = old[i] === now[j] ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1]);
  const found = [];
  for (let i = 0, j = 0; i < old.length || j < now.length;) {
    if (i < old.length && old[i] === now[j]) {
      found.push({ tag: old[i], change: "" });
      i++;
      j++;
    } else if (j >= now.length || (i < old.length && common[i + 1][j] >= common[i][j + 1])) {
      found.push({ tag: old[i++], change: "gone" });
    } else {
      found.push({ tag: now[j++], change: "new" });
    }
  }
  return found;
}
