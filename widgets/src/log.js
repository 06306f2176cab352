// @ts-check
/** @import {Line} from "./types.js" */
/** @import {RunStore} from "./store.js" */
import { element, keep, setText } from "./dom.js";
import { lineAt, linesOf, matching, offsets, plainOf, visible } from "./lines.js";
import { logRow } from "./row.js";
import { searchField } from "./search.js";
import { logTabs } from "./tabs.js";
import { plural } from "./text.js";

const ROWS = 18; // in sight at most
let logs = 0;

/**
 * The log: only the lines in sight are in the page.
 * @param {RunStore} store
 * @param {() => void} redraw  asks for `update` with the next frame
 */
export function logView(store, redraw) {
  logs += 1;
  const id = `anb-log-${logs}`;
  /** @type {number | null} */
  let rank = null;
  let query = "";
  let filters = false;
  let current = -1; // number of the line of the match that is shown
  let follows = true;
  /** @type {{number: number, within: number}} what is at the top, in rows */
  let anchor = { number: 0, within: 0 };
  /** @type {Line[]} */
  let lines = [];
  /** @type {number[]} */
  let matches = [];
  /** @type {Float64Array} */
  let starts = new Float64Array(1);
  let derivedFrom = "";
  let font = { row: 18, character: 7.2 };
  let width = 0;
  /** @type {Map<number, number>} */
  const measured = new Map();
  /** @type {Map<string, HTMLElement>} */
  const known = new Map();

  const ruler = element("span", {
    class: "anb-ruler",
    "aria-hidden": "true",
    text: "0".repeat(50),
  });
  const sheet = element("div", { class: "anb-sheet" });
  const space = element("div", { class: "anb-space" }, sheet);
  const view = element(
    "div",
    { class: "anb-log", id, role: "tabpanel", tabindex: "0", "aria-label": "Log" },
    space,
    ruler,
  );
  const toEnd = element("button", {
    type: "button",
    class: "anb-to-end",
    text: "↓ Jump to end",
    onclick: jumpToEnd,
  });
  const search = searchField({
    onQuery: (text) => {
      query = text;
      current = -1;
      redraw();
    },
    onJump: jump,
    onFilter: (on) => {
      filters = on;
      redraw();
    },
  });
  const tabs = logTabs((chosen) => {
    rank = chosen;
    current = -1;
    follows = true;
    measured.clear();
    redraw();
  }, id);
  const foot = element("div", { class: "anb-foot" });
  const summary = element("span", { class: "anb-summary" });
  const node = element(
    "details",
    { class: "anb-section", open: true, ontoggle: redraw },
    element("summary", {}, element("span", { class: "anb-heading", text: "Log" }), summary),
    element("div", { class: "anb-controls" }, tabs.node, search.node),
    element("div", { class: "anb-log-box" }, view, toEnd),
    foot,
  );

  view.addEventListener("scroll", () => {
    const bottom = view.scrollHeight - view.clientHeight;
    follows = view.scrollTop >= bottom - font.row / 2;
    const row = view.scrollTop / font.row;
    const index = lineAt(starts, row);
    if (lines[index]) anchor = { number: lines[index].number, within: row - starts[index] };
    draw();
  });
  view.addEventListener("keydown", (event) => {
    if (event.key === "n") jump(1);
    else if (event.key === "N") jump(-1);
    else if (event.key === "/") search.focus();
    else return;
    event.preventDefault();
  });
  const observer = new ResizeObserver(redraw);
  observer.observe(view);

  function jumpToEnd() {
    follows = true;
    redraw();
  }

  /** @param {1 | -1} by */
  function jump(by) {
    derive(); // the query may be newer than what is drawn
    if (matches.length === 0) return;
    // From the match that is shown, else from what is in sight.
    const from = lines.findIndex((line) => line.number === current);
    const here = from >= 0 ? from : lineAt(starts, view.scrollTop / font.row) - (by > 0 ? 1 : 0);
    const next =
      by > 0 ? matches.find((index) => index > here) : matches.findLast((index) => index < here);
    const target = next ?? (by > 0 ? matches[0] : matches[matches.length - 1]);
    current = lines[target].number;
    follows = false;
    anchor = { number: current, within: -Math.floor(ROWS / 3) };
    redraw();
  }

  function update() {
    const { lines: all, info } = store;
    node.hidden = all.length === 0;
    setText(
      summary,
      store.skipped || all[0]?.number
        ? `newest ${plural(all.length, "line")}`
        : plural(all.length, "line"),
    );
    if (node.hidden || !node.open) return;
    tabs.update(info.ranks);
    measure();
    derive();
    drawFoot();
    place();
    draw();
  }

  function measure() {
    const box = ruler.getBoundingClientRect();
    if (box.width > 0) font = { row: box.height, character: box.width / 50 };
    const who = view.querySelector(".anb-who");
    const taken = (who ? who.getBoundingClientRect().width : 0) + 2 * 10;
    const columns = Math.max(10, Math.floor(((view.clientWidth || 600) - taken) / font.character));
    if (columns !== width) measured.clear();
    width = columns;
  }

  /** Lines of this tab, matches and heights, where they changed. */
  function derive() {
    const wanted = [
      store.version,
      store.lines.length,
      rank,
      query,
      filters,
      width,
      measured.size,
    ].join("/");
    if (wanted === derivedFrom) return;
    derivedFrom = wanted;
    lines = linesOf(store.lines, rank);
    if (filters && query) lines = matching(lines, query).map((index) => lines[index]);
    matches = matching(lines, query);
    starts = offsets(lines, width, measured);
    search.update(
      matches.findIndex((index) => lines[index].number === current),
      matches.length,
    );
  }

  /** Keep what is in sight in its place, or the end. */
  function place() {
    const rows = starts[lines.length];
    space.style.height = `${rows * font.row}px`;
    view.style.height = `${Math.max(1, Math.min(rows, ROWS)) * font.row}px`;
    if (follows) {
      view.scrollTop = view.scrollHeight;
      return;
    }
    const index = lines.findIndex((line) => line.number >= anchor.number);
    const row = index < 0 ? rows : starts[index] + anchor.within;
    view.scrollTop = Math.max(0, row * font.row);
    search.update(
      matches.findIndex((match) => lines[match].number === current),
      matches.length,
    );
  }

  function draw() {
    const inSight = (view.clientHeight || ROWS * font.row) / font.row;
    const [first, last] = visible(starts, view.scrollTop / font.row, inSight);
    const shown = lines.slice(first, last);
    const withRanks = rank === null && store.info.ranks.length > 1;
    const byKey = new Map(shown.map((line) => [`${line.number}/${withRanks}/${query}`, line]));
    keep(sheet, known, [...byKey.keys()], (key) => {
      const line = /** @type {Line} */ (byKey.get(key));
      return logRow(line, withRanks, query);
    });
    sheet.style.transform = `translateY(${starts[first] * font.row}px)`;
    for (const [key, line] of byKey)
      known.get(key)?.classList.toggle("anb-current", line.number === current);
    view.classList.toggle("anb-wide-who", store.info.ranks.length > 10);
    toEnd.hidden = follows;
    correct(shown, byKey);
  }

  /**
   * Fonts may draw other characters than ASCII in other widths: see how high such lines are.
   * @param {Line[]} shown
   * @param {Map<string, Line>} byKey
   */
  function correct(shown, byKey) {
    const before = measured.size;
    const keys = [...byKey.keys()];
    shown.forEach((line, index) => {
      if (measured.has(line.number) || isSimple(plainOf(line))) return;
      const height = known.get(keys[index])?.getBoundingClientRect().height ?? 0;
      if (height > 0) measured.set(line.number, Math.max(1, Math.round(height / font.row)));
    });
    if (measured.size !== before) redraw();
  }

  function drawFoot() {
    const { skipped, info } = store;
    const dropped = store.lines[0]?.number ?? 0;
    const missing = skipped + dropped;
    foot.hidden = !info.log_folder;
    const text =
      missing > 0 ? `${plural(missing, "earlier line")} not shown. Whole log: ` : "Whole log: ";
    if (foot.dataset.text === text + info.log_folder) return;
    foot.dataset.text = text + info.log_folder;
    foot.replaceChildren(text, element("code", { text: info.log_folder }));
  }

  return { node, update, close: () => observer.disconnect() };
}

/** @param {string} text */
function isSimple(text) {
  return /^[\x20-\x7e]*$/.test(text);
}
