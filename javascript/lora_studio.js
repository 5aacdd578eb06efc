// Waits for the page's mount and loads its modules when it is first shown: until then it costs the WebUI nothing.
(() => {
  "use strict";
  const address = (file) => new URL(`lora-studio/static/${file}`, document.baseURI).href;

  function fill(mount) {
    // The WebUI has loaded style.css by itself.
    if (!getComputedStyle(mount).getPropertyValue("--lora-studio-style")) {
      const link = document.createElement("link");
      link.rel = "stylesheet";
      link.href = address("style.css");
      document.head.append(link);
    }
    import(address("main.js"))
      .then((main) => main.start(mount))
      .catch((error) => {
        mount.textContent = `LoRA Studio cannot be loaded (${error.message}). Reload the page.`;
      });
  }

  function watch(mount) {
    const seen = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      seen.disconnect();
      fill(mount);
    });
    seen.observe(mount);
  }

  function find() {
    const mount = document.getElementById("lora-studio");
    if (mount) watch(mount);
    return Boolean(mount);
  }

  function start() {
    if (find()) return;
    const changes = new MutationObserver(() => {
      if (find()) changes.disconnect();
    });
    changes.observe(document.documentElement, { childList: true, subtree: true });
  }

  start();
})();
