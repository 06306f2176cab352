// @ts-check
/** @import {Point} from "./types.js" */
/** @import {Scale} from "./scales.js" */
import { element, setText, svg } from "./dom.js";
import { domain, scale } from "./scales.js";
import { band, lonely, nearest, path, smoothed } from "./series.js";
import { exact, plural, short } from "./text.js";

export const MOST_COLOURS = 8; // ranks with a line of their own; more are drawn as a band
const HEIGHT = 150;
const MARGIN = { top: 8, right: 10, bottom: 20, left: 42 };

/**
 * @typedef {{smoothing: number, log: boolean}} ChartOptions
 * @typedef {{label: string, colour: number, points: Point[], raw: Point[]}} Curve
 */

/**
 * A chart of one metric over steps.
 * @param {string} name
 */
export function chart(name) {
  const latest = element("span", { class: "anb-chart-latest" });
  const plot = svg("svg", { class: "anb-plot", role: "img", height: HEIGHT });
  const tip = element("div", { class: "anb-tip", hidden: true });
  const node = element(
    "figure",
    { class: "anb-chart" },
    element(
      "figcaption",
      {},
      element("span", { class: "anb-chart-name", text: name, title: name }),
      latest,
    ),
    element("div", { class: "anb-plot-box" }, plot, tip),
  );
  const grid = svg("g", { class: "anb-grid" });
  const curves = svg("g", { class: "anb-curves" });
  const cursor = svg("g", { class: "anb-cursor" });
  plot.append(grid, curves, cursor);
  /** @type {{x: Scale, curves: Curve[], y: Scale, width: number} | null} */
  let drawn = null;
  /** @type {number | null} pointer's place */
  let pointer = null;

  /**
   * @param {Map<number, Point[]>} byRank
   * @param {number[]} ranks  of the run; a rank's colour is its place in it
   * @param {ChartOptions} options
   * @param {number} width
   */
  function draw(byRank, ranks, options, width) {
    plot.setAttribute("width", String(width));
    plot.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const all = [...byRank].sort((a, b) => a[0] - b[0]);
    const steps = all.flatMap(([, points]) => [points[0]?.[0], points.at(-1)?.[0]]);
    const xs = domain(
      steps.filter((step) => step !== undefined),
      { air: 0 },
    );
    const ys = domain(values(all), { log: options.log });
    setText(latest, latestText(all));
    latest.classList.toggle("anb-broken", latest.textContent === "NaN");
    plot.setAttribute("aria-label", `${name} over steps: ${latest.textContent}`);
    if (!xs || !ys) {
      grid.replaceChildren(
        svg("text", {
          x: width / 2,
          y: HEIGHT / 2,
          "text-anchor": "middle",
          text: nothingText(all, options.log),
        }),
      );
      curves.replaceChildren();
      cursor.replaceChildren();
      drawn = null;
      return;
    }
    const x = scale(xs, [MARGIN.left, width - MARGIN.right]);
    const y = scale(ys, [HEIGHT - MARGIN.bottom, MARGIN.top], options.log);
    drawGrid(grid, x, y, width);
    const isBand = all.length > MOST_COLOURS;
    const lines = isBand ? [] : curvesOf(all, ranks, options.smoothing);
    if (isBand) {
      const smooth = all.map(([, points]) => smoothed(points, options.smoothing));
      const { mean, low, high } = band(smooth, x);
      lines.push({ label: "mean", colour: 0, points: mean, raw: mean });
      lines.push({ label: "highest", colour: 0, points: high, raw: high });
      lines.push({ label: "lowest", colour: 0, points: low, raw: low });
      curves.replaceChildren(...drawBand(mean, low, high, x, y, options.log));
    } else {
      curves.replaceChildren(...lines.flatMap((line) => drawCurve(line, x, y, options)));
    }
    drawn = { x, y, curves: lines, width };
    point();
  }

  function point() {
    cursor.replaceChildren();
    tip.hidden = true;
    if (pointer === null || !drawn) return;
    const { x, y, curves: lines, width } = drawn;
    const wanted = x.invert(pointer);
    const hits = lines
      .map((line) => ({ line, hit: nearest(line.points, wanted), raw: nearest(line.raw, wanted) }))
      .filter(({ hit }) => hit !== undefined);
    const step = nearest(
      hits.map(({ hit }) => /** @type {Point} */ (hit)).sort((a, b) => a[0] - b[0]),
      wanted,
    )?.[0];
    if (step === undefined) return;
    const at = x(step);
    cursor.append(svg("line", { x1: at, x2: at, y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }));
    const rows = [];
    for (const { line, hit, raw } of hits) {
      if (!hit || hit[0] !== step) continue;
      const cy = y(hit[1]);
      if (Number.isFinite(cy))
        cursor.append(
          svg("circle", { cx: at, cy, r: 3, style: `fill: var(--anb-c${line.colour})` }),
        );
      rows.push(
        element(
          "div",
          { class: "anb-tip-row" },
          element("span", { class: "anb-key", style: `background: var(--anb-c${line.colour})` }),
          element("span", { text: line.label }),
          element("b", { text: exact((raw ?? hit)[1]) }),
        ),
      );
    }
    tip.replaceChildren(
      element("div", { class: "anb-tip-head", text: `step ${step.toLocaleString("en-US")}` }),
      ...rows,
    );
    tip.hidden = false;
    const isRight = at > width / 2;
    tip.style.left = isRight ? "" : `${at + 10}px`;
    tip.style.right = isRight ? `${width - at + 10}px` : "";
  }

  plot.addEventListener("pointermove", (event) => {
    pointer = /** @type {PointerEvent} */ (event).clientX - plot.getBoundingClientRect().left;
    point();
  });
  plot.addEventListener("pointerleave", () => {
    pointer = null;
    point();
  });
  return { node, draw };
}

/** @param {[number, Point[]][]} all */
function* values(all) {
  for (const [, points] of all) for (const [, value] of points) yield value;
}

/**
 * @param {[number, Point[]][]} all
 * @param {number[]} ranks
 * @param {number} smoothing
 * @returns {Curve[]}
 */
function curvesOf(all, ranks, smoothing) {
  return all.map(([rank, raw]) => ({
    label: `rank ${rank}`,
    colour: colourOf(rank, ranks),
    points: smoothed(raw, smoothing),
    raw,
  }));
}

/**
 * @param {number} rank
 * @param {number[]} ranks
 */
export function colourOf(rank, ranks) {
  return Math.max(0, ranks.indexOf(rank)) % MOST_COLOURS;
}

/**
 * @param {Element} grid
 * @param {Scale} x
 * @param {Scale} y
 * @param {number} width
 */
function drawGrid(grid, x, y, width) {
  const bottom = HEIGHT - MARGIN.bottom;
  const nodes = [];
  for (const tick of y.ticks(5)) {
    nodes.push(
      svg("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y(tick), y2: y(tick) }),
    );
    nodes.push(
      svg("text", {
        x: MARGIN.left - 6,
        y: y(tick) + 3.5,
        "text-anchor": "end",
        text: exact(tick),
      }),
    );
  }
  for (const tick of x.ticks(Math.max(2, Math.floor(width / 70)))) {
    if (!Number.isInteger(tick)) continue;
    nodes.push(
      svg("text", {
        x: x(tick),
        y: bottom + 14,
        "text-anchor": "middle",
        text: tick < 1e5 ? tick : short(tick),
      }),
    );
  }
  nodes.push(
    svg("line", {
      class: "anb-axis",
      x1: MARGIN.left,
      x2: width - MARGIN.right,
      y1: bottom,
      y2: bottom,
    }),
  );
  grid.replaceChildren(...nodes);
}

/**
 * @param {Curve} line
 * @param {Scale} x
 * @param {Scale} y
 * @param {ChartOptions} options
 */
function drawCurve({ colour, points, raw }, x, y, { smoothing, log }) {
  const style = `stroke: var(--anb-c${colour}); fill: none`;
  const nodes = [];
  if (smoothing > 0) nodes.push(svg("path", { class: "anb-raw", d: path(raw, x, y, log), style }));
  nodes.push(svg("path", { class: "anb-curve", d: path(points, x, y, log), style }));
  for (const [step, value] of lonely(points, log))
    nodes.push(
      svg("circle", { cx: x(step), cy: y(value), r: 2, style: `fill: var(--anb-c${colour})` }),
    );
  return nodes;
}

/**
 * @param {Point[]} mean
 * @param {Point[]} low
 * @param {Point[]} high
 * @param {Scale} x
 * @param {Scale} y
 * @param {boolean} log
 */
function drawBand(mean, low, high, x, y, log) {
  const floor = y.invert(HEIGHT - MARGIN.bottom);
  const lowest = low.map(
    ([step, value]) => /** @type {Point} */ ([step, log && value <= 0 ? floor : value]),
  );
  const back = path(lowest.toReversed(), x, y, log).replace("M", "L");
  const outline = path(high, x, y, log);
  const nodes = [];
  if (outline && back) nodes.push(svg("path", { class: "anb-band", d: `${outline}${back}Z` }));
  nodes.push(
    svg("path", {
      class: "anb-curve",
      d: path(mean, x, y, log),
      style: "stroke: var(--anb-c0); fill: none",
    }),
  );
  for (const [step, value] of lonely(mean, log))
    nodes.push(svg("circle", { cx: x(step), cy: y(value), r: 2, style: "fill: var(--anb-c0)" }));
  return nodes;
}

/** @param {[number, Point[]][]} all */
function latestText(all) {
  const last = all.map(([, points]) => points.at(-1)?.[1]).filter((value) => value !== undefined);
  if (last.length === 0) return "";
  const low = Math.min(...last);
  const high = Math.max(...last);
  if (last.some(Number.isNaN)) return "NaN";
  return exact(low) === exact(high) ? exact(low) : `${exact(low)} – ${exact(high)}`;
}

/**
 * @param {[number, Point[]][]} all
 * @param {boolean} log
 */
function nothingText(all, log) {
  const n = all.reduce((sum, [, points]) => sum + points.length, 0);
  if (n === 0) return "no values yet";
  return log ? "no value above zero to draw" : `${plural(n, "value")}, none finite`;
}
