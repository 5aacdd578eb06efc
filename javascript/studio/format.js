// Numbers as people read them.

/** 3725 -> "1:02:05" */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  const whole = Math.max(0, Math.round(seconds));
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (number) => String(number).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

/** How long something took: 0.42 -> "0.4 s", 75 -> "1:15" */
export const took = (seconds) => (seconds < 60 ? `${seconds.toFixed(seconds < 10 ? 1 : 0)} s` : duration(seconds));

export const whole = (number) => Math.round(number).toLocaleString("en");

/** 1300 -> "1.3 GB" */
export function megabytes(number) {
  if (number === null || number === undefined) return "–";
  if (number < 1) return `${Math.max(1, Math.round(number * 1024))} KB`;
  return number < 1000 ? `${number.toFixed(number < 10 ? 1 : 0)} MB` : `${(number / 1024).toFixed(1)} GB`;
}

export const bytes = (number) => megabytes(number / 2 ** 20);

/** Seconds per step, with as many digits as tell something. */
export const speed = (seconds) => (seconds ? `${seconds.toFixed(seconds < 0.1 ? 3 : 2)} s/it` : "–");

/** 0.0001 -> "1e−4", 0.000123 -> "1.23e−4" */
export function rate(number) {
  if (!Number.isFinite(number)) return "–";
  if (number === 0) return "0";
  const [digits, power] = number.toExponential(2).split("e");
  const short = String(Number(digits));
  return Math.abs(number) >= 0.01 && Math.abs(number) < 1000
    ? String(Number(number.toPrecision(3)))
    : `${short}e${power.replace("-", "−").replace("+", "")}`;
}

export const loss = (number) => (Number.isFinite(number) ? number.toFixed(4) : "–");

export const count = (number, one, many = `${one}s`) => `${whole(number)} ${number === 1 ? one : many}`;

export const clock = (seconds) =>
  seconds ? new Date(seconds * 1000).toLocaleString([], { dateStyle: "short", timeStyle: "short" }) : "–";

/** "/a/b/c.safetensors" -> "c.safetensors", also with Windows' separators. */
export const fileName = (path) => String(path).split(/[\\/]/).pop();

/** "/a/b/c.png" -> "/a/b" */
export const folderName = (path) => String(path).replace(/[\\/][^\\/]*$/, "");

/** A log without the states of progress bars that were written over. */
export const withoutBars = (log) => log.replace(/[^\n]*\r(?!\n)/g, "");
