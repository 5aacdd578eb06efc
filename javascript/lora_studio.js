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

  // "Send to dataset" under the WebUI's results.
  function addButtons() {
    for (const tab of ["txt2img", "img2img"]) {
      const row = document.getElementById(`image_buttons_${tab}`);
      const bar = row?.querySelector(".form") ?? row;
      if (!bar || bar.querySelector(".lora-studio-send")) continue;
      const like = bar.querySelector("button");
      const send = document.createElement("button");
      send.type = "button";
      send.className = `${like ? like.className : ""} lora-studio-send`;
      send.textContent = "🗂️";
      send.title = "Send to a dataset of LoRA Studio, with the prompt as caption.";
      send.setAttribute("aria-label", "Send to dataset");
      send.onclick = () => import(address("send.js")).then((module) => module.sendResults(tab));
      bar.append(send);
    }
  }

  function find() {
    const mount = document.getElementById("lora-studio");
    if (!mount) return false;
    watch(mount);
    addButtons();
    return true;
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
