// Reloads what changed, at most twice a second, says when it no longer can, and moves by keyboard.
"use strict";
(() => {
  let due = false, paused = false, last = 0, lost = 0;
  let shown = document.getElementById("refreshed").textContent.replace(", not live", "");
  const stamp = document.getElementById("refreshed");
  const clock = () => new Date().toLocaleTimeString([], { hour12: false });
  async function refresh() {
    due = false;
    const main = document.querySelector("main");
    // The entry's checks are the reader's own work, and an entry never changes.
    if (paused || document.hidden || main.querySelector("#checks")) return;
    last = Date.now();
    let fresh;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      if (!answer.ok && answer.status !== 404) return;
      fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    } catch { return; }
    const open = new Set([...document.querySelectorAll("details[open]")].map((it) => it.id));
    const focus = main.contains(document.activeElement) && document.activeElement.id;
    main.replaceWith(fresh.querySelector("main"));
    document.title = fresh.title;
    open.forEach((id) => { const it = id && document.getElementById(id); if (it) it.open = true; });
    if (focus) {
      const it = document.getElementById(focus);
      if (it) it.focus({ preventScroll: true });
    }
    shown = "as of " + clock();
    tell();
    document.dispatchEvent(new Event("refreshed"));
  }
  function tell() {
    const ago = Math.round((Date.now() - lost) / 1000);
    document.body.classList.toggle("stale", lost > 0 && ago >= 2);
    if (lost) stamp.textContent = `▲ no connection for ${ago} s; shown ${shown}`;
    else stamp.textContent = paused ? `paused, ${shown}` : `● live, ${shown}`;
  }
  function soon() {
    if (due) return;
    due = true;
    setTimeout(refresh, Math.max(0, 500 - (Date.now() - last)));
  }
  const source = new EventSource("/api/events");
  source.addEventListener("open", () => { lost = 0; tell(); soon(); });
  source.addEventListener("grown", soon);
  source.addEventListener("error", () => { lost = lost || Date.now(); tell(); });
  setInterval(() => { if (lost) tell(); }, 1000);
  // A source that was refused does not try again by itself.
  setInterval(() => { if (source.readyState === EventSource.CLOSED) soon(); }, 10000);
  document.addEventListener("visibilitychange", soon);
  const pause = document.getElementById("pause");
  const keys = document.getElementById("keys");
  pause.hidden = document.getElementById("hint").hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "resume" : "pause";
    tell();
    if (!paused) soon();
  });
  document.addEventListener("keydown", (event) => {
    const search = document.getElementById("search");
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target === search) {
      if (event.key === "Escape") search.blur();
      return;
    }
    const rows = [...document.querySelectorAll("[data-row]")];
    const at = rows.indexOf(document.activeElement);
    if (event.key === "j" && rows.length) rows[Math.min(at + 1, rows.length - 1)].focus();
    else if (event.key === "k" && rows.length) rows[Math.max(at - 1, 0)].focus();
    else if (event.key === "/") search.focus();
    else if (event.key === "u") location.href = "/";
    else if (event.key === "?") keys.toggleAttribute("hidden");
    else return;
    event.preventDefault();
  });
})();
