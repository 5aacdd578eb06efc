// The page's way to the server: JSON over routes relative to this file, so that any sub-path works.

const BASE = new URL("../", import.meta.url);

/** The server has said no, and why. `field` names the option at fault. */
export class Refused extends Error {
  constructor(status, error) {
    super(error.message);
    Object.assign(this, { status, field: error.field, file: error.file, came: error.came, allowed: error.allowed });
  }
}

/** Nobody answers. */
export class Lost extends Error {}

export const address = (path) => new URL(path, BASE).href;

/** A path's part from foreign text; the slashes of a name in a subfolder stay. */
export const part = (name) => String(name).split("/").map(encodeURIComponent).join("/");

async function call(method, path, body) {
  const options = { method, credentials: "same-origin", headers: {} };
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(address(path), options);
  } catch (error) {
    throw new Lost(error.message);
  }
  if (answer.ok) return answer;
  // 502 to 504 come from a proxy whose server is away.
  if (answer.status >= 502) throw new Lost(`status ${answer.status}`);
  let error = null;
  try {
    ({ error } = await answer.json());
  } catch {
    // a page in place of JSON
  }
  throw new Refused(answer.status, error ?? { message: `the server answers ${answer.status} ${answer.statusText}` });
}

const json = async (...request) => (await call(...request)).json();

export const get = (path) => json("GET", path);
export const post = (path, body = {}) => json("POST", path, body);
export const remove = (path) => json("DELETE", path, {});
export const getText = async (path) => (await call("GET", path)).text();
