// Reloads the parts of the page that changed, at most twice a second, and moves by keyboard.
"use strict";
(() => {
  let due = false, paused = false, last = 0;
  const stamp = document.getElementById("refreshed");
  async function refresh() {
    due = false;
    if (paused || document.hidden) return;
    last = Date.now();
    const answer = await fetch(location.href, { headers: { accept: "text/html" } });
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const open = new Set([...document.querySelectorAll("details[open]")].map((it) => it.id));
    const focus = document.activeElement && document.activeElement.id;
    document.querySelector("main").replaceWith(fresh.querySelector("main"));
    document.title = fresh.title;
    open.forEach((id) => { const it = id && document.getElementById(id); if (it) it.open = true; });
    if (focus) { const it = document.getElementById(focus); if (it) it.focus(); }
    stamp.textContent = "refreshed " + new Date().toLocaleTimeString();
  }
  function soon() {
    if (due) return;
    due = true;
    setTimeout(refresh, Math.max(0, 500 - (Date.now() - last)));
  }
  const source = new EventSource("/api/events");
  source.addEventListener("grown", soon);
  source.addEventListener("error", () => { stamp.textContent = "connection lost; trying again"; });
  document.addEventListener("visibilitychange", soon);
  const pause = document.getElementById("pause");
  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "resume" : "pause";
    if (!paused) soon();
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const rows = [...document.querySelectorAll("[data-row]")];
    const at = rows.indexOf(document.activeElement);
    if (event.key === "j" && rows.length) rows[Math.min(at + 1, rows.length - 1)].focus();
    else if (event.key === "k" && rows.length) rows[Math.max(at - 1, 0)].focus();
    else if (event.key === "u") location.href = "/";
    else if (event.key === "?") document.getElementById("keys").toggleAttribute("hidden");
    else return;
    event.preventDefault();
  });
})();
