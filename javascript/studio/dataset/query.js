// Conditions of the filter as the server reads them (dataset/query.py).

/** A condition that a tag is there, exactly as it is written. */
export const quoted = (tag) => `"${tag.replaceAll('"', '\\"')}"`;
