// Small pictures, fetched when they are looked at and given up when they are scrolled away.

const AT_ONCE = 6,
  KEPT = 600, // some 6 MB
  REST_MS = 60, // what is scrolled past in less time is not asked for
  FAST_REST_MS = 150;

export class Thumbnails {
  constructor() {
    this.kept = new Map(); // address -> object URL, the longest unused first
    this.wanted = new Map(); // image -> {address, since}
    this.busy = new Map(); // image -> AbortController
    this.timer = 0;
    this.quietUntil = 0;
  }

  /** The pictures fly past: nothing is asked for before they stand still. A request that is given up costs the server
   * as much as any other. */
  rest() {
    this.quietUntil = performance.now() + FAST_REST_MS;
  }

  /** @param {HTMLImageElement} image */
  show(image, address) {
    if (image.dataset.address === address) return;
    this.forget(image);
    image.dataset.address = address;
    const known = this.kept.get(address);
    if (known) {
      this.kept.delete(address);
      this.kept.set(address, known);
      image.src = known;
      return;
    }
    this.wanted.set(image, { address, since: performance.now() });
    this.later(REST_MS);
  }

  forget(image) {
    this.wanted.delete(image);
    this.busy.get(image)?.abort();
    this.busy.delete(image);
    image.removeAttribute("src");
    delete image.dataset.address;
    delete image.dataset.failed;
  }

  clear() {
    for (const image of [...this.wanted.keys(), ...this.busy.keys()]) this.forget(image);
    for (const url of this.kept.values()) URL.revokeObjectURL(url);
    this.kept.clear();
  }

  later(milliseconds) {
    if (!this.timer)
      this.timer = setTimeout(() => {
        this.timer = 0;
        this.start();
      }, milliseconds);
  }

  start() {
    const now = performance.now();
    if (now < this.quietUntil) return this.later(this.quietUntil - now);
    for (const [image, { address, since }] of this.wanted) {
      if (this.busy.size >= AT_ONCE) return null;
      if (now - since < REST_MS) return this.later(REST_MS); // later ones are younger still
      this.wanted.delete(image);
      this.load(image, address);
    }
    return null;
  }

  async load(image, address) {
    const stop = new AbortController();
    this.busy.set(image, stop);
    try {
      const answer = await fetch(address, { signal: stop.signal, credentials: "same-origin" });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      const url = URL.createObjectURL(await answer.blob());
      this.keep(address, url);
      if (image.dataset.address === address) image.src = url;
    } catch {
      if (image.dataset.address === address) image.dataset.failed = "";
    } finally {
      if (this.busy.get(image) === stop) this.busy.delete(image);
      this.start();
    }
  }

  keep(address, url) {
    this.kept.set(address, url);
    if (this.kept.size <= KEPT) return;
    const [oldest, old] = this.kept.entries().next().value;
    this.kept.delete(oldest);
    URL.revokeObjectURL(old);
  }
}
