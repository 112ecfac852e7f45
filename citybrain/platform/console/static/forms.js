// Forms that send JSON to the API (`data-send`, of the form or of its button), secrets that are shown once, printing.
"use strict";
document.addEventListener("submit", async (event) => {
  const form = event.target;
  const to = event.submitter?.dataset.send ?? form.dataset.send;
  if (!to) return;
  event.preventDefault();
  if (form.dataset.sure && !confirm(form.dataset.sure)) return;
  const body = {};
  for (const [name, value] of new FormData(form)) {
    const { many, day, times } = form.elements[name].dataset ?? {};
    if (many !== undefined) body[name] = value.split(/[\s,]+/).filter(Boolean);
    else if (value === "") continue;
    else if (day !== undefined) body[name] = atCity(value, day);
    else if (times !== undefined) body[name] = Math.round(Number(value) * Number(times));
    else body[name] = value;
  }
  const headers = { "content-type": "application/json", "x-requested-with": "citybrain" };
  const method = form.dataset.method || "POST";
  let text = cb.say("js.offline");
  try {
    const answer = await fetch(to, { method, headers, body: JSON.stringify(body) });
    const found = await answer.json();
    if (answer.ok) {
      const secret = found.password ?? found.secret;
      if (secret) return showOnce(secret);
      return location.reload();
    }
    text = [found.detail, found.hint].filter(Boolean).join(" ");
  } catch { /* the platform is away */ }
  cb.notice(text);
});

/** A day of the city, wherever the browser is: its end, or (`begin`) its first moment. */
function atCity(day, which) {
  const zone = { timeZone: document.body.dataset.zone, timeZoneName: "longOffset" };
  const parts = new Intl.DateTimeFormat("en", zone).formatToParts(new Date(`${day}T12:00:00Z`));
  const offset = parts.find((part) => part.type === "timeZoneName").value.slice(3) || "Z";
  return `${day}T${which === "begin" ? "00:00:00" : "23:59:59"}${offset}`;
}

document.addEventListener("click", (event) => {
  if (event.target.closest("[data-print]")) print();
});

function showOnce(secret) {
  const dialog = document.getElementById("once");
  dialog.querySelector("code").textContent = secret;
  dialog.addEventListener("close", () => location.reload(), { once: true });
  dialog.showModal();
}
