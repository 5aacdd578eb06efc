// LoRAs as a prompt has them, and as rows: `<lora:name:strength:unet:te=0.5:lbw=OUTD>`.
//
// The WebUI's rule: te= or else the first number or else 1 for the text encoder, unet= or else the second number or
// else the text encoder's for the UNet. A row has one strength, and the two others where they differ from it.

/** @typedef {{name: string, strength: string, te: string, unet: string, blocks: string, more: string[]}} Row */

const TAG = /<(?:lora|lyco):([^>]+)>/g;
const BLOCKS = ["lbw", "lwb", "w"];

/** @returns {Row} */
export const emptyRow = () => ({ name: "", strength: "1", te: "", unet: "", blocks: "", more: [] });

export const hasTags = (text) => /<(?:lora|lyco):/.test(text);

/** The LoRAs of a prompt; its other words do not matter. @returns {Row[]} */
export const rowsOf = (prompt) => [...prompt.matchAll(TAG)].map(([, inside]) => rowOf(inside.split(":")));

/** The prompt of some rows; those without a LoRA are left out. */
export const promptOf = (rows) =>
  rows
    .filter((row) => row.name)
    .map(tagOf)
    .join(" ");

function rowOf(items) {
  const [name, ...plain] = items.filter((item) => !item.includes("="));
  const named = new Map(items.filter((item) => item.includes("=")).map((item) => halves(item)));
  // Before WebUI 1.5 the block weights stood third, and the value of X fourth.
  if (plain.length > 1 && !isNumber(plain[1])) {
    named.set("lbw", plain[1]);
    if (plain.length > 2) named.set("x", plain[2]);
    plain.length = 1;
  }
  const te = named.get("te") ?? plain[0] ?? "1";
  const strength = plain[0] ?? te;
  const unet = named.get("unet") ?? plain[1] ?? te;
  const blocks = BLOCKS.map((word) => named.get(word)).find(Boolean) ?? "";
  for (const word of ["te", "unet", ...BLOCKS]) named.delete(word);
  return {
    name: (name ?? "").trim(),
    strength,
    te: te === strength ? "" : te,
    unet: unet === strength ? "" : unet,
    blocks,
    more: [...plain.slice(2), ...[...named].map(([word, value]) => `${word}=${value}`)],
  };
}

function tagOf({ name, strength, te, unet, blocks, more }) {
  const items = [name, strength || "1"];
  const second = more.some((item) => !item.includes("=")); // a third number stands behind it
  if (te || unet || second) items.push(unet || strength || "1");
  items.push(...more);
  if (te) items.push(`te=${te}`);
  if (blocks) items.push(`lbw=${blocks}`);
  return `<lora:${items.join(":")}>`;
}

const halves = (item) => [item.slice(0, item.indexOf("=")).trim(), item.slice(item.indexOf("=") + 1)];

const isNumber = (text) => text.trim() !== "" && Number.isFinite(Number(text));
