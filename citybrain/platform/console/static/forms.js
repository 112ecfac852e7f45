// Forms that send JSON to the API (`data-send`), and secrets that are shown once.
"use strict";
document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.dataset.send) return;
  event.preventDefault();
  if (form.dataset.sure && !confirm(form.dataset.sure)) return;
  const body = {};
  for (const [name, value] of new FormData(form)) {
    const words = form.elements[name].dataset?.many !== undefined;
    if (words) body[name] = value.split(/[\s,]+/).filter(Boolean);
    else if (value !== "") body[name] = value;
  }
  const headers = { "content-type": "application/json", "x-requested-with": "citybrain" };
  const method = form.dataset.method || "POST";
  let text = cb.say("js.offline");
  try {
    const answer = await fetch(form.dataset.send, { method, headers, body: JSON.stringify(body) });
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

function showOnce(secret) {
  const dialog = document.getElementById("once");
  dialog.querySelector("code").textContent = secret;
  dialog.addEventListener("close", () => location.reload(), { once: true });
  dialog.showModal();
}
