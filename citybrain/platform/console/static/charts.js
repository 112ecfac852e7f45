// Charts over time, drawn by uPlot in the colours of the style sheet.
"use strict";
cb.charts = [];

/** Keeps a chart as wide as its place, and draws it again when the colours change. */
cb.chart = (place, build) => {
  let chart = null;
  const draw = () => {
    chart?.destroy();
    const height = place.classList.contains("small") ? 130 : 200;
    const size = { width: Math.max(240, place.clientWidth), height };
    const { options, data } = build();
    chart = new uPlot({ ...size, ...options }, data, place);
  };
  let width = 0;
  new ResizeObserver(() => {
    if (place.clientWidth !== width) { width = place.clientWidth; draw(); }
  }).observe(place);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  return { draw, set: (data) => chart?.setData(data) };
};

cb.axis = (extra = {}) => ({
  stroke: cb.css("--dim"),
  font: `11px ${cb.css("--sans")}`,
  grid: { stroke: cb.css("--line"), width: 1 },
  ticks: { show: false },
  ...extra,
});

cb.alpha = (name, share) => `color-mix(in srgb, ${cb.css(name)} ${share}%, transparent)`;

// The city's clock, wherever the browser is.
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", timeZone: document.body.dataset.zone });
cb.clock = (seconds) => clock.format(new Date(seconds * 1000));

const bars = (of, size) => uPlot.paths.bars({ size: [0.7, size] });

/** Requests as bars, failures in red before them, latency as a line on the other side. */
cb.traffic = (place, series, by, small) => {
  const byDay = by === "day";
  const x = byDay ? series.x.map((_, index) => index) : series.x;
  const half = byDay ? 0.5 : 30;
  const name = (value) => (byDay ? series.x[value]?.slice(5) ?? "" : cb.clock(value));
  return cb.chart(place, () => ({
    data: [x, series.requests, series.failed, series.ms],
    options: {
      legend: { show: !small, live: true },
      cursor: { y: false, points: { size: 6 } },
      scales: {
        x: { time: false, range: (_, low, high) => [low - half, high + half] },
        y: { range: (_, __, high) => [0, Math.max(4, high * 1.1)] },
        ms: { range: (_, __, high) => [0, Math.max(1, (high || 1) * 1.15)] },
      },
      axes: [
        cb.axis({
          values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? name(tick) : "")),
          grid: { show: false }, space: 70, size: 30,
          ...(byDay ? {} : { incrs: [300, 600, 900, 1800] }),
        }),
        cb.axis({ size: 44, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 50000, 100000] }),
        cb.axis({ side: 1, scale: "ms", size: 56, grid: { show: false },
          values: (_, ticks) => ticks.map((tick) => `${cb.number(tick)} ms`) }),
      ],
      series: [
        { label: cb.say(byDay ? "js.day" : "js.time"), value: (_, value) => (value === null ? "–" : name(value)) },
        { label: cb.say("js.requests"), fill: cb.alpha("--accent", 55), stroke: cb.css("--accent"), width: 0, paths: bars(uPlot, 22), points: { show: false }, value: (_, v) => cb.number(v) },
        { label: cb.say("js.failed"), fill: cb.css("--bad"), stroke: cb.css("--bad"), width: 0, paths: bars(uPlot, 22), points: { show: false }, value: (_, v) => cb.number(v) },
        { label: cb.say(byDay ? "js.mean" : "js.p95"), scale: "ms", stroke: cb.css("--warn"), width: 1.6, spanGaps: false, points: { show: true, size: 4 }, value: (_, v) => (v === null ? "–" : `${cb.number(v, 3)} ms`) },
      ],
    },
  }));
};

{
  const place = document.getElementById("traffic");
  if (place && document.getElementById("series")) {
    let current = null;
    const source = () => document.getElementById("series");
    const chart = () => cb.traffic(place, current, source().dataset.by, false);
    current = JSON.parse(source().dataset.series);
    let drawn = chart();
    document.body.addEventListener("htmx:afterSettle", (event) => {
      if (event.detail.target.id !== "now" || !source()) return;
      const fresh = JSON.parse(source().dataset.series);
      Object.assign(current, fresh);
      const byDay = source().dataset.by === "day";
      const x = byDay ? fresh.x.map((_, index) => index) : fresh.x;
      drawn.set([x, fresh.requests, fresh.failed, fresh.ms]);
    });
  }
  for (const small of document.querySelectorAll('[data-chart="days"]')) {
    cb.traffic(small, JSON.parse(small.dataset.series), "day", true);
  }
}
