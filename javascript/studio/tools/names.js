// Names for what the tools write.

import { fileName } from "../format.js";
import { rowsOf } from "./recipe_text.js";

const MOST_NAMED = 3;

const stem = (name) => fileName(name ?? "").replace(/\.(safetensors|ckpt|pt)$/i, "");

/** "a", "b" -> "a-b"; of many the first ones. */
function together(names) {
  const rest = names.length - MOST_NAMED;
  return [...names.slice(0, MOST_NAMED), ...(rest > 0 ? [`${rest}-more`] : [])].join("-");
}

/** "zorb", "0.7" -> "zorb-0.7": the strength of one alone is worth telling. */
function ofRecipe(prompt) {
  const rows = rowsOf(prompt ?? "").filter((row) => row.name);
  const parts = rows.map((row) => stem(row.name));
  if (rows.length === 1 && !["", "1"].includes(rows[0].strength)) parts.push(rows[0].strength);
  return together(parts);
}

const SUGGEST = {
  merge: (values) => {
    const name = ofRecipe(values.prompt);
    return [name, rowsOf(values.prompt ?? "").length === 1 && "copy", values.new_rank && `r${values.new_rank}`];
  },
  bake: (values) => {
    const name = ofRecipe(values.prompt);
    return values.checkpoint ? [stem(values.checkpoint), name || (values.vae && stem(values.vae))] : [];
  },
  resize: (values) => [
    stem(values.model),
    values.size_mb
      ? `${values.size_mb}mb`
      : values.dynamic_method
        ? `${values.dynamic_method.replace("sv_", "")}${values.dynamic_param}`
        : `r${values.new_rank}`,
  ],
  blocks: (values) => [stem(values.model), /^[^,]+$/.test(values.lbw) ? values.lbw : "weighted"],
  extract: (values) => [
    stem(values.model_tuned),
    values.size_mb ? `${values.size_mb}mb` : values.mode === "fixed" ? `r${values.dim}` : values.mode,
  ],
  convert: (values) => [
    stem(values.model),
    values.network_type && "lora",
    values.names === "kohya" ? null : values.names,
    values.save_precision,
    !values.network_type && values.names === "kohya" && !values.save_precision && "kohya",
  ],
};

/**
 * A name for a tool's result; "" while too little is known.
 * @param {string} tool
 * @param {Object} values the form's
 * @param {(name: string) => boolean} taken
 */
export function suggestName(tool, values, taken) {
  const parts = SUGGEST[tool]?.(values) ?? [];
  if (!parts[0]) return "";
  const name = parts
    .filter(Boolean)
    .join("-")
    .replace(/[^\p{L}\p{N}._+()-]+/gu, "_");
  if (!taken(name)) return name;
  for (let number = 2; ; number++) if (!taken(`${name}-${number}`)) return `${name}-${number}`;
}
