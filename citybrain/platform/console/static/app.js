// What every page needs: texts, notices, copying, errors of htmx calls.
"use strict";
const cb = {
  texts: JSON.parse(document.body.dataset.texts || "{}"),

  say(key) { return cb.texts[key] ?? key; },

  /** An element with text; nothing that comes from outside is ever read as HTML. */
  make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== undefined && value !== "") element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  },

  notice(text) {
    const box = document.getElementById("notice");
    box.textContent = text;
    box.hidden = false;
    clearTimeout(cb.timer);
    cb.timer = setTimeout(() => { box.hidden = true; }, 6000);
  },

  number(value, digits = 4) {
    if (value === null || value === undefined || !Number.isFinite(value)) return "–";
    const language = document.documentElement.lang;
    return value.toLocaleString(language, { maximumSignificantDigits: digits });
  },

  css(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); },
};

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const code = button.parentElement.querySelector("code");
  try {
    await navigator.clipboard.writeText(code.textContent);
    cb.notice(cb.say("js.copied"));
  } catch {
    getSelection().selectAllChildren(code);
  }
});

document.body.addEventListener("htmx:afterRequest", (event) => {
  const { elt, successful, xhr } = event.detail;
  if (successful) {
    if (elt.dataset.then === "reload") location.reload();
    return;
  }
  if (!elt.matches("button, form")) return; // a poll that failed will come again
  let text = cb.say("js.offline");
  try {
    const problem = JSON.parse(xhr.responseText);
    text = [problem.detail, problem.hint].filter(Boolean).join(" ");
  } catch { /* not a problem document: the platform is away */ }
  cb.notice(text);
});

// What somebody opened stays open when its part of the page is renewed.
let opened = [];
document.body.addEventListener("htmx:beforeSwap", (event) => {
  opened = [...event.detail.target.querySelectorAll("details[id][open]")].map((one) => one.id);
});
document.body.addEventListener("htmx:afterSwap", () => {
  for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
});
