// @ts-check
/** @import {RunStore} from "./store.js" */
import { chart, colourOf, MOST_COLOURS } from "./chart.js";
import { element, keep, setText } from "./dom.js";

const MOST_CHARTS = 12; // until the user asks for all
const REST = 4; // times as long as a drawing took, until the next: many ranks take a while

/**
 * A chart a metric, with smoothing and a logarithmic axis.
 * @param {RunStore} store
 * @param {() => void} redraw  asks for `update` with the next frame
 */
export function metricCharts(store, redraw) {
  const options = { smoothing: 0, log: false };
  let showsAll = false;
  const summary = element("span", { class: "anb-summary anb-names" });
  const amount = element("output", { text: "0" });
  const slider = element("input", {
    type: "range",
    min: "0",
    max: "0.99",
    step: "0.01",
    value: "0",
    "aria-label": "Smoothing",
    oninput: () => {
      options.smoothing = Number(slider.value);
      setText(amount, slider.value);
      redraw();
    },
  });
  const log = element("input", {
    type: "checkbox",
    onchange: () => {
      options.log = log.checked;
      redraw();
    },
  });
  const legend = element("span", { class: "anb-legend" });
  const grid = element("div", { class: "anb-charts" });
  const more = element("button", {
    type: "button",
    class: "anb-link",
    onclick: () => {
      showsAll = true;
      redraw();
    },
  });
  const node = element(
    "details",
    { class: "anb-section", open: true, ontoggle: redraw },
    element("summary", {}, element("span", { class: "anb-heading", text: "Metrics" }), summary),
    element(
      "div",
      { class: "anb-controls" },
      element("label", {}, "smoothing", slider, amount),
      element("label", {}, log, "log scale"),
      legend,
    ),
    grid,
    more,
  );
  /** @type {Map<string, ReturnType<typeof chart>>} */
  const charts = new Map();
  /** @type {Map<string, HTMLElement>} */
  const known = new Map();
  /** @type {Map<string, string>} what each chart shows */
  const shown = new Map();
  let drawnAt = Number.NEGATIVE_INFINITY;
  let cost = 0;
  let timer = 0;
  let shownLegend = "";
  const observer = new ResizeObserver(redraw);
  observer.observe(grid);

  function update() {
    const names = [...store.points.keys()];
    node.hidden = names.length === 0;
    setText(summary, names.join(", "));
    if (node.hidden || !node.open) return;
    const visible = showsAll ? names : names.slice(0, MOST_CHARTS);
    keep(grid, known, visible, (name) => {
      const made = chart(name);
      charts.set(name, made);
      return made.node;
    });
    more.hidden = visible.length === names.length;
    setText(more, `Show all ${names.length} metrics`);
    drawLegend();
    const wait = drawnAt + REST * cost - performance.now();
    clearTimeout(timer);
    if (wait > 0) timer = window.setTimeout(redraw, wait);
    else drawCharts(visible);
  }

  /** @param {string[]} visible */
  function drawCharts(visible) {
    const begun = performance.now();
    for (const name of visible) {
      const width = Math.floor(known.get(name)?.clientWidth || 320);
      const wanted = [store.changedIn.get(name), options.smoothing, options.log, width].join();
      if (shown.get(name) === wanted) continue;
      shown.set(name, wanted);
      charts.get(name)?.draw(store.points.get(name) ?? new Map(), store.info.ranks, options, width);
    }
    drawnAt = performance.now();
    cost = drawnAt - begun;
  }

  function drawLegend() {
    const { ranks } = store.info;
    const wanted = ranks.join();
    if (wanted === shownLegend) return;
    shownLegend = wanted;
    if (ranks.length > MOST_COLOURS)
      legend.replaceChildren(
        key(0, `mean of ${ranks.length} ranks`),
        key("band", "lowest to highest"),
      );
    else if (ranks.length > 1)
      legend.replaceChildren(...ranks.map((rank) => key(colourOf(rank, ranks), `rank ${rank}`)));
    else legend.replaceChildren();
  }

  function close() {
    clearTimeout(timer);
    observer.disconnect();
  }

  return { node, update, close };
}

/**
 * @param {number | string} colour
 * @param {string} text
 */
function key(colour, text) {
  const sign = element("span", {
    class: "anb-key",
    style: `background: var(--anb-c${colour})`,
    "aria-hidden": "true",
  });
  return element("span", {}, sign, text);
}
