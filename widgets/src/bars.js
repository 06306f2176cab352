// @ts-check
/** @import {Bar} from "./types.js" */
/** @import {RunStore} from "./store.js" */
import { element, keep, setText } from "./dom.js";
import { clock, count, rankText, short } from "./text.js";

const MOST_CLOSED = 3; // finished bars that stay
const BEHIND = 0.05; // of the total: a rank that lags by more is named

/**
 * The ranks' progress bars.
 * @param {RunStore} store
 */
export function progressBars(store) {
  const node = element("div", { class: "anb-bars" });
  const more = element("div", { class: "anb-quiet" });
  /** @type {Map<string, ReturnType<typeof progressBar>>} */
  const made = new Map();
  /** @type {Map<string, HTMLElement>} */
  const known = new Map();
  const list = element("div", { class: "anb-bar-list" });
  node.append(list, more);

  function update() {
    const { shown, hidden } = barsToShow(store.bars);
    node.hidden = shown.length === 0;
    const keys = shown.map(keyOf);
    keep(list, known, keys, (key) => {
      const bar = progressBar();
      made.set(key, bar);
      return bar.node;
    });
    for (const key of made.keys()) if (!known.has(key)) made.delete(key);
    for (const bar of shown) made.get(keyOf(bar))?.update(bar, store.info.ranks, store.isLive);
    more.hidden = hidden === 0;
    setText(more, `${hidden} more finished`);
  }
  return { node, update };
}

/** @param {Bar} bar */
function keyOf(bar) {
  return `${bar.key}/${bar.ranks.join()}`;
}

/**
 * All bars that go on, and the last finished ones.
 * @param {Bar[]} bars
 */
export function barsToShow(bars) {
  const closed = bars.filter((bar) => bar.closed);
  const dropped = new Set(closed.slice(0, Math.max(0, closed.length - MOST_CLOSED)));
  return { shown: bars.filter((bar) => !dropped.has(bar)), hidden: dropped.size };
}

function progressBar() {
  const label = element("span", { class: "anb-bar-label" });
  const lead = element("span", { class: "anb-bar-lead" });
  const fill = element("span", { class: "anb-bar-fill" });
  const track = element(
    "span",
    { class: "anb-bar-track", role: "progressbar", "aria-valuemin": "0" },
    lead,
    fill,
  );
  const share = element("span", { class: "anb-bar-share" });
  const figures = element("span", { class: "anb-bar-figures" });
  const late = element("span", { class: "anb-bar-late" });
  const node = element("div", { class: "anb-bar" }, label, track, share, figures, late);

  /**
   * @param {Bar} bar
   * @param {number[]} ranks  of the run
   * @param {boolean} isLive
   */
  function update(bar, ranks, isLive) {
    const who = bar.ranks.length < ranks.length ? `[${rankText(bar.ranks)}] ` : "";
    setText(label, `${who}${bar.label || "progress"}`);
    label.title = label.textContent ?? "";
    const values = Object.values(bar.by_rank);
    const slowest = Math.min(bar.done, ...values);
    const fastest = Math.max(bar.done, ...values);
    node.dataset.state = bar.closed
      ? bar.total !== null && bar.done < bar.total
        ? "cut"
        : "closed"
      : "open";
    track.classList.toggle("anb-unknown", bar.total === null && !bar.closed && isLive);
    track.setAttribute("aria-label", label.textContent ?? "");
    if (bar.total === null) track.removeAttribute("aria-valuenow");
    else {
      track.setAttribute("aria-valuemax", String(bar.total));
      track.setAttribute("aria-valuenow", String(bar.done));
    }
    lead.style.width = percent(fastest, bar.total);
    fill.style.width = percent(slowest, bar.total);
    setText(share, bar.total === null ? "" : percent(bar.done, bar.total, 0));
    setText(figures, figuresOf(bar, isLive));
    setText(late, stragglers(bar));
  }
  return { node, update };
}

/**
 * @param {number} done
 * @param {number | null} total
 */
function percent(done, total, digits = 2) {
  if (total === null) return "0%";
  if (total <= 0) return "100%";
  const share = Math.min(1, Math.max(0, done / total));
  // 100 is said only of what is complete.
  return digits ? `${(100 * share).toFixed(digits)}%` : `${Math.floor(100 * share)} %`;
}

const PREFIXED = new Set(["B", "b", "iB"]);

/**
 * As "45/100 · 12.5 it/s · 0:04 left".
 * @param {Bar} bar
 * @param {boolean} isLive
 */
export function figuresOf(bar, isLive) {
  const number = PREFIXED.has(bar.unit) ? short : count;
  const parts = [
    bar.total === null
      ? `${number(bar.done)} ${bar.unit}`
      : `${number(bar.done)}/${number(bar.total)}`,
  ];
  if (bar.rate) {
    // As tqdm does: a slow rate reads better the other way round.
    if (bar.rate >= 1) parts.push(`${short(bar.rate)} ${bar.unit}/s`);
    else parts.push(`${short(1 / bar.rate)} s/${bar.unit}`);
    if (bar.total !== null && !bar.closed && isLive && bar.done < bar.total)
      parts.push(`${clock((bar.total - bar.done) / bar.rate)} left`);
  }
  return parts.join(" · ");
}

/**
 * The ranks that lag, as "rank 3 at 40 %", or nothing.
 * @param {Bar} bar
 */
export function stragglers(bar) {
  const entries = Object.entries(bar.by_rank).map(([rank, done]) => ({ rank: Number(rank), done }));
  const { total } = bar;
  if (!total || entries.length < 2) return "";
  const fastest = Math.max(...entries.map(({ done }) => done));
  const late = entries.filter(({ done }) => fastest - done > BEHIND * total);
  if (late.length === 0) return "";
  const slowest = Math.min(...late.map(({ done }) => done));
  const ranks = late.map(({ rank }) => rank).sort((a, b) => a - b);
  const share = Math.floor((100 * slowest) / total);
  if (ranks.length === 1) return `rank ${ranks[0]} at ${share} %`;
  if (ranks.length > 8) return `${ranks.length} ranks behind, slowest at ${share} %`;
  return `ranks ${rankText(ranks)} behind, slowest at ${share} %`;
}
