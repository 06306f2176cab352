// @ts-check
/** @import {Histogram} from "./types.js" */
/** @import {RunStore} from "./store.js" */
import { colourOf, MOST_COLOURS } from "./chart.js";
import { element, keep, setText, svg } from "./dom.js";
import { domain, scale } from "./scales.js";
import { exact, rankText } from "./text.js";

const WIDTH = 300;
const HEIGHT = 120;
const MARGIN = { left: 4, right: 4, top: 6, bottom: 18 };

/**
 * Histograms and images that ranks streamed, each in its newest state.
 * @param {RunStore} store
 */
export function pictures(store) {
  const grid = element("div", { class: "anb-pictures" });
  const summary = element("span", { class: "anb-summary" });
  const node = element(
    "details",
    { class: "anb-section", open: true },
    element(
      "summary",
      {},
      element("span", { class: "anb-heading", text: "Images and histograms" }),
      summary,
    ),
    grid,
  );
  /** @type {Map<string, HTMLElement>} */
  const known = new Map();
  /** @type {Map<string, number>} */
  const drawn = new Map();

  function update() {
    const histograms = [...store.histograms.keys()].map((name) => `h/${name}`);
    const images = [...store.images].flatMap(([name, byRank]) =>
      [...byRank.keys()].sort((a, b) => a - b).map((rank) => `i/${rank}/${name}`),
    );
    node.hidden = histograms.length + images.length === 0;
    setText(summary, node.hidden ? "" : `${histograms.length + images.length}`);
    if (node.hidden) return;
    keep(grid, known, [...histograms, ...images], () =>
      element("figure", { class: "anb-picture" }),
    );
    for (const [key, figure] of known) {
      const isImage = key.startsWith("i/");
      const name = isImage ? key.slice(key.indexOf("/", 2) + 1) : key.slice(2);
      const version = store.changedIn.get(name) ?? 0;
      if (drawn.get(key) === version) continue;
      drawn.set(key, version);
      if (isImage) drawImage(figure, name, Number(key.split("/", 2)[1]));
      else drawHistograms(figure, name, store.histograms.get(name) ?? new Map());
    }
  }

  /**
   * @param {HTMLElement} figure
   * @param {string} name
   * @param {number} rank
   */
  function drawImage(figure, name, rank) {
    const [step, url] = store.images.get(name)?.get(rank) ?? [0, ""];
    if (!url.startsWith("data:image/")) return;
    const caption = captionOf(name, `rank ${rank} · step ${step}`);
    figure.replaceChildren(
      caption,
      element("img", { src: url, alt: `${name}, rank ${rank}, step ${step}` }),
    );
  }

  /**
   * @param {HTMLElement} figure
   * @param {string} name
   * @param {Map<number, Histogram>} byRank
   */
  function drawHistograms(figure, name, byRank) {
    const all = [...byRank].sort((a, b) => a[0] - b[0]).slice(0, MOST_COLOURS);
    const ranks = all.map(([rank]) => rank);
    const step = Math.max(...all.map(([, histogram]) => histogram[0]));
    const who = ranks.length === 1 ? `rank ${ranks[0]}` : `ranks ${rankText(ranks)}`;
    const more = byRank.size > all.length ? ` of ${byRank.size}` : "";
    const plot = histogramPlot(all, store.info.ranks);
    plot.setAttribute("aria-label", `Histogram of ${name}, ${who}, step ${step}`);
    figure.replaceChildren(captionOf(name, `${who}${more} · step ${step}`), plot);
  }

  return { node, update };
}

/**
 * @param {string} name
 * @param {string} detail
 */
function captionOf(name, detail) {
  return element(
    "figcaption",
    {},
    element("span", { class: "anb-chart-name", text: name, title: name }),
    element("span", { class: "anb-quiet", text: detail }),
  );
}

/**
 * @param {[number, Histogram][]} all
 * @param {number[]} ranks
 */
function histogramPlot(all, ranks) {
  const plot = svg("svg", { class: "anb-plot", role: "img", viewBox: `0 0 ${WIDTH} ${HEIGHT}` });
  const xs = domain(
    all.flatMap(([, [, , edges]]) => [edges[0], edges[edges.length - 1]]),
    { air: 0 },
  );
  if (!xs) return plot;
  const bottom = HEIGHT - MARGIN.bottom;
  const x = scale(xs, [MARGIN.left, WIDTH - MARGIN.right]);
  const y = scale(
    [0, Math.max(1, ...all.flatMap(([, [, counts]]) => counts))],
    [bottom, MARGIN.top],
  );
  const grid = svg("g", { class: "anb-grid" });
  grid.append(
    svg("line", {
      class: "anb-axis",
      x1: MARGIN.left,
      x2: WIDTH - MARGIN.right,
      y1: bottom,
      y2: bottom,
    }),
  );
  for (const tick of x.ticks(4)) {
    const anchor = x(tick) < 20 ? "start" : x(tick) > WIDTH - 20 ? "end" : "middle";
    grid.append(
      svg("text", { x: x(tick), y: bottom + 13, "text-anchor": anchor, text: exact(tick) }),
    );
  }
  plot.append(grid);
  for (const [rank, [, counts, edges]] of all) {
    let outline = `M${x(edges[0]).toFixed(1)} ${bottom}`;
    counts.forEach((n, index) => {
      outline += `V${y(n).toFixed(1)}H${x(edges[index + 1]).toFixed(1)}`;
    });
    const colour = `var(--anb-c${colourOf(rank, ranks)})`;
    plot.append(
      svg("path", {
        class: "anb-steps",
        d: `${outline}V${bottom}`,
        style: `stroke: ${colour}; fill: ${colour}`,
      }),
    );
  }
  return plot;
}
