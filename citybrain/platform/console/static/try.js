// The form that calls the algorithm as a department would, with this session's key.
"use strict";
{
  const form = document.getElementById("try-form");
  const answer = document.getElementById("answer");
  const find = (id) => document.getElementById(id);
  const kind = form.dataset.form;
  const example = JSON.parse(form.dataset.example);
  const labels = JSON.parse(form.dataset.labels);
  let file = null;

  class Wrong extends Error {}

  const bytesOf = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

  const take = async (chosen, name) => {
    file = chosen;
    find("file-name").textContent = name;
    if (kind !== "audio") return;
    const player = find("player");
    URL.revokeObjectURL(player.src);
    player.src = URL.createObjectURL(chosen);
    player.hidden = false;
    await drawWave(chosen);
  };

  const drawWave = async (chosen) => {
    const canvas = find("wave");
    try {
      const context = new OfflineAudioContext(1, 1, 44100);
      const samples = (await context.decodeAudioData(await chosen.arrayBuffer())).getChannelData(0);
      const pen = canvas.getContext("2d");
      pen.clearRect(0, 0, canvas.width, canvas.height);
      pen.fillStyle = cb.css("--accent");
      const step = samples.length / canvas.width;
      for (let x = 0; x < canvas.width; x += 1) {
        let most = 0;
        for (let i = Math.floor(x * step); i < (x + 1) * step && i < samples.length; i += 1) most = Math.max(most, Math.abs(samples[i]));
        const height = Math.max(1, most * canvas.height);
        pen.fillRect(x, (canvas.height - height) / 2, 1, height);
      }
      canvas.hidden = false;
    } catch { canvas.hidden = true; } // the browser need not know the format, the platform does
  };

  const useExample = async () => {
    const item = example.inputs[0];
    if (kind === "image") await take(new Blob([bytesOf(item.image)]), "example.png");
    else if (kind === "audio") await take(new Blob([bytesOf(item.audio)], { type: "audio/wav" }), "example.wav");
    else if (kind === "text") find("text").value = item.text;
    else if (kind === "series") {
      find("values").value = item.series.join(" ");
      find("last").value = item.last_time ?? "";
    } else if (kind === "table") {
      for (const [name, value] of Object.entries(item.features)) form.elements.namedItem(name).value = Number(value.toPrecision(6));
    } else find("body").value = JSON.stringify(example, null, 2);
  };

  const numbers = () => {
    const found = find("values").value.split(/[\s,;，；]+/).filter(Boolean).map(Number);
    if (!found.length || !found.every(Number.isFinite)) throw new Wrong(cb.say("js.no_numbers"));
    return found;
  };

  /** The body of the call; for files a form, as `curl -F file=@…` sends it. */
  const body = () => {
    if (kind === "image" || kind === "audio") {
      if (!file) throw new Wrong(cb.say("js.no_file"));
      const parts = new FormData();
      parts.append("file", file, "file");
      return parts;
    }
    if (kind === "text") return { inputs: [{ text: find("text").value }] };
    if (kind === "series") {
      const last = find("last").value.trim();
      return { inputs: [{ series: numbers(), ...(last ? { last_time: last } : {}) }] };
    }
    if (kind === "table") {
      const names = Object.keys(example.inputs[0].features);
      return { inputs: [{ features: Object.fromEntries(names.map((name) => [name, Number(form.elements.namedItem(name).value)])) }] };
    }
    try { return JSON.parse(find("body").value); } catch { throw new Wrong(cb.say("js.bad_json")); }
  };

  const draw = async (sent, results) => {
    const first = results[0];
    if (form.dataset.form === "image" && first.objects) return cb.drawObjects(file, first, labels);
    if (first.probabilities) return cb.drawClasses(first, labels);
    if (first.audio !== undefined) return cb.drawSpeech(first);
    if (first.text !== undefined) return cb.drawTranscript(first);
    if (first.quantiles) return cb.drawForecast(sent.inputs[0].series ?? [], sent.inputs[0].last_time, first);
    return cb.drawRaw(results);
  };

  const meta = (milliseconds, found) => cb.make("p", { class: "meta" },
    cb.make("span", {}, `${cb.say("js.latency")} ${milliseconds.toFixed(0)} ms`),
    found.version === undefined ? null : cb.make("span", {}, `${cb.say("js.version")} ${found.version}`),
    found.request_id ? cb.make("span", {}, `${cb.say("js.request")} `, cb.make("code", {}, found.request_id)) : null);

  const problem = (found, status, milliseconds) => [
    cb.make("div", { class: "problem", role: "alert" },
      cb.make("b", {}, `${status || ""} ${found.code ?? ""}`.trim()),
      cb.make("p", {}, found.detail ?? ""),
      found.hint ? cb.make("p", { class: "hint" }, found.hint) : null),
    milliseconds === null ? null : meta(milliseconds, found),
  ].filter(Boolean);

  const raw = (found) => cb.make("details", {}, cb.make("summary", {}, cb.say("js.raw")), ...cb.drawRaw(found));

  const call = async () => {
    const sent = body();
    const target = find("target")?.value;
    const name = target && target !== "champion" ? `${form.dataset.name}@${target}` : form.dataset.name;
    const headers = { "X-Requested-With": "citybrain" };
    if (find("purpose")) headers["X-Purpose"] = find("purpose").value;
    if (!(sent instanceof FormData)) headers["Content-Type"] = "application/json";
    const started = performance.now();
    const response = await fetch(`/v1/algorithms/${encodeURIComponent(name)}/predict`, {
      method: "POST", headers, body: sent instanceof FormData ? sent : JSON.stringify(sent), credentials: "same-origin",
    });
    const found = await response.json();
    const milliseconds = performance.now() - started;
    if (!response.ok) return problem(found, response.status, milliseconds);
    return [...(await draw(sent, found.results)), meta(milliseconds, found), raw(found)];
  };

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector('[type="submit"]');
    button.disabled = true;
    answer.setAttribute("aria-busy", "true");
    try {
      answer.replaceChildren(...(await call()));
    } catch (error) {
      const text = error instanceof Wrong ? error.message : error.name === "InvalidStateError" ? cb.say("js.bad_image") : cb.say("js.offline");
      answer.replaceChildren(...problem({ detail: text }, "", null));
    }
    button.disabled = false;
    answer.setAttribute("aria-busy", "false");
  });

  find("use-example").addEventListener("click", useExample);
  if (["series", "json"].includes(kind)) useExample();
  const input = find("file");
  input?.addEventListener("change", () => { if (input.files[0]) take(input.files[0], input.files[0].name); });
  const drop = document.querySelector(".drop");
  for (const name of ["dragover", "dragleave", "drop"]) {
    drop?.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      const [first] = name === "drop" ? event.dataTransfer.files : [];
      if (first) take(first, first.name);
    });
  }
}
