// Draws what an algorithm answered; one function for each kind of answer.
"use strict";
const COLOURS = ["#0f9d8f", "#d1552f", "#3a6ea5", "#9a6a00", "#8a4fa3", "#c2366b", "#4c7a1e"];

cb.colourOf = (label) => {
  let sum = 0;
  for (const letter of label) sum = (sum * 31 + letter.codePointAt(0)) % 9973;
  return COLOURS[sum % COLOURS.length];
};

/** A picture with a frame around each thing, and a table of the same for readers of text. */
cb.drawObjects = async (file, result, labels) => {
  const picture = await createImageBitmap(file);
  const canvas = cb.make("canvas", { class: "picture", role: "img", "aria-label": cb.say("js.found") });
  canvas.width = picture.width;
  canvas.height = picture.height;
  const pen = canvas.getContext("2d");
  pen.drawImage(picture, 0, 0);
  const [sx, sy] = [picture.width / result.width, picture.height / result.height];
  const unit = Math.max(1, Math.min(picture.width, picture.height) / 320);
  pen.lineWidth = 2 * unit;
  pen.font = `600 ${11 * unit}px ${cb.css("--sans")}`;
  pen.textBaseline = "top";
  for (const one of [...result.objects].reverse()) {
    const [x1, y1, x2, y2] = [one.box[0] * sx, one.box[1] * sy, one.box[2] * sx, one.box[3] * sy];
    const text = `${labels[one.label] ?? one.label} ${Math.round(100 * one.score)}%`;
    pen.strokeStyle = pen.fillStyle = cb.colourOf(one.label);
    pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
    const [width, height] = [pen.measureText(text).width + 6 * unit, 15 * unit];
    const top = y1 >= height ? y1 - height : y1;
    const left = Math.max(0, Math.min(x1 - pen.lineWidth / 2, canvas.width - width));
    pen.fillRect(left, top, width, height);
    pen.fillStyle = "#fff";
    pen.fillText(text, left + 3 * unit, top + 2 * unit);
  }
  const rows = result.objects.map((one) => [labels[one.label] ?? one.label, `${(100 * one.score).toFixed(1)}%`, one.box.map(Math.round).join(", ")]);
  const head = [cb.say("js.label"), cb.say("js.score"), "x1, y1, x2, y2"];
  const table = rows.length ? cb.table(head, rows.slice(0, 12)) : cb.make("p", { class: "empty" }, cb.say("js.nothing_found"));
  return [canvas, cb.make("p", {}, `${cb.say("js.found")}: ${rows.length}`), table];
};

cb.table = (head, rows) => {
  const cells = (tag, texts) => cb.make("tr", {}, ...texts.map((text) => cb.make(tag, {}, String(text))));
  return cb.make("div", { class: "scroll" }, cb.make("table", {}, cb.make("thead", {}, cells("th", head)), cb.make("tbody", {}, ...rows.map((row) => cells("td", row)))));
};

/** The class on top, or that the model keeps silent, and a bar for each probability. */
cb.drawClasses = (result, labels) => {
  const named = (label) => labels[label] ?? label;
  const top = result.abstained ? cb.make("p", { class: "big error" }, cb.say("js.abstained")) : cb.make("p", { class: "big" }, named(result.label));
  const bars = cb.make("div", { class: "bars" });
  const sorted = Object.entries(result.probabilities).sort((a, b) => b[1] - a[1]).slice(0, 12);
  sorted.forEach(([label, share], place) => {
    const fill = cb.make("span", { class: place === 0 && !result.abstained ? "fill best" : "fill" });
    fill.style.width = `${Math.max(0.4, 100 * share)}%`;
    bars.append(
      cb.make("span", { class: "label" }, named(label)),
      cb.make("span", { class: "track", role: "presentation" }, fill),
      cb.make("span", { class: "n" }, `${(100 * share).toFixed(1)}%`),
    );
  });
  return [top, bars];
};

cb.drawTranscript = (result) => [
  cb.make("p", { class: "big" }, result.text || `(${cb.say("js.silence")})`),
  cb.make("p", { class: "dim" }, `${cb.say("js.confidence")} ${(100 * result.confidence).toFixed(1)}%`),
];

/** A player of the WAV file; the page's policy lets media come from blobs only. */
cb.drawSpeech = (result) => {
  const bytes = Uint8Array.from(atob(result.audio), (letter) => letter.charCodeAt(0));
  const player = cb.make("audio", { controls: true });
  player.src = URL.createObjectURL(new Blob([bytes], { type: "audio/wav" }));
  return [player, cb.make("p", { class: "dim" }, `${result.seconds} ${cb.say("js.seconds")}, ${result.sample_rate} Hz`)];
};

/** The end of the history, then the median within the band of the outer quantiles. */
cb.drawForecast = (history, lastTime, result) => {
  const levels = Object.keys(result.quantiles).sort((a, b) => a - b);
  const middle = levels.reduce((best, one) => (Math.abs(one - 0.5) < Math.abs(best - 0.5) ? one : best));
  const [low, high] = [levels[0], levels[levels.length - 1]];
  const shown = history.slice(-Math.max(24, 5 * result.horizon));
  const start = Date.parse(lastTime) / 1000;
  const timed = Number.isFinite(start);
  const x = [];
  for (let i = 1 - shown.length; i <= result.horizon; i += 1) x.push(timed ? start + i * result.step_seconds : i);
  const before = shown.length - 1;
  const past = [...shown, ...Array(result.horizon).fill(null)];
  const ahead = (level) => [...Array(before).fill(null), shown[before], ...result.quantiles[level]];
  const place = cb.make("div", { class: "chart" });
  requestAnimationFrame(() => cb.chart(place, () => ({
    data: [x, past, ahead(middle), ahead(high), ahead(low)],
    options: {
      cursor: { points: { size: 6 } },
      scales: { x: { time: false } },
      axes: [cb.axis({ space: 60, size: 30, values: (_, ticks) => ticks.map((tick) => (timed ? cb.clock(tick) : String(tick))), ...(timed ? { incrs: [300, 900, 1800, 3600, 7200, 21600, 86400] } : {}) }), cb.axis({ size: 52 })],
      bands: [{ series: [3, 4], fill: cb.alpha("--accent", 22) }],
      series: [
        { label: cb.say(timed ? "js.time" : "js.step"), value: (_, v) => (v === null ? "–" : timed ? cb.clock(v) : v) },
        { label: cb.say("js.history"), stroke: cb.css("--dim"), width: 1.4, points: { show: false }, value: (_, v) => cb.number(v) },
        { label: cb.say("js.forecast"), stroke: cb.css("--accent"), width: 2.2, points: { show: false }, value: (_, v) => cb.number(v) },
        { label: high, stroke: cb.alpha("--accent", 50), width: 1, points: { show: false }, value: (_, v) => cb.number(v) },
        { label: low, stroke: cb.alpha("--accent", 50), width: 1, points: { show: false }, value: (_, v) => cb.number(v) },
      ],
    },
  })));
  const rows = result.quantiles[middle].slice(0, 12).map((value, index) => [`+${index + 1}`, cb.number(value), `${cb.number(result.quantiles[low][index])} – ${cb.number(result.quantiles[high][index])}`]);
  return [place, cb.table([cb.say("js.step"), cb.say("js.forecast"), `${low} – ${high}`], rows)];
};

cb.drawRaw = (value) => [cb.make("pre", { tabindex: "0" }, JSON.stringify(value, null, 2))];
