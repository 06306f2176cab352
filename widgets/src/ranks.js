// @ts-check
/** @import {Row} from "./types.js" */
/** @import {RunStore} from "./store.js" */
import { plainText } from "./ansi.js";
import { element, keep, setText } from "./dom.js";
import { memory, plural, short } from "./text.js";

/** @type {{name: string, title: string, text: (row: Row) => string, always?: boolean}[]} */
const COLUMNS = [
  { name: "rank", title: "rank", text: (row) => String(row.rank), always: true },
  { name: "state", title: "state", text: (row) => row.state, always: true },
  { name: "place", title: "place", text: (row) => row.place ?? "" },
  {
    name: "step",
    title: "step",
    text: ({ step }) => (step === null ? "" : step.toLocaleString("en-US")),
  },
  { name: "rate", title: "steps/s", text: ({ rate }) => (rate === null ? "" : short(rate)) },
  {
    name: "memory",
    title: "memory",
    text: (row) => (row.memory === null ? "" : memory(row.memory)),
  },
  {
    name: "device",
    title: "device mem.",
    text: (row) => (row.device_memory === null ? "" : memory(row.device_memory)),
  },
  { name: "line", title: "last line", text: (row) => plainText(row.line), always: true },
];

/**
 * A row a rank, under a heading that sums them up and folds them away.
 * @param {RunStore} store
 */
export function rankTable(store) {
  const summary = element("span", { class: "anb-summary" });
  const head = element("tr");
  const body = element("tbody");
  const table = element("table", { class: "anb-ranks" }, element("thead", {}, head), body);
  const node = element(
    "details",
    { class: "anb-section", open: true },
    element("summary", {}, element("span", { class: "anb-heading", text: "Ranks" }), summary),
    element(
      "div",
      { class: "anb-scroll", tabindex: "0", role: "region", "aria-label": "Ranks" },
      table,
    ),
  );
  /** @type {Map<string, HTMLTableRowElement>} */
  const known = new Map();
  let shownColumns = "";
  let columns = COLUMNS;

  function update() {
    const { rows } = store;
    node.hidden = rows.length === 0;
    setText(summary, summed(rows));
    if (!node.open || node.hidden) return;
    columns = COLUMNS.filter((column) => column.always || rows.some((row) => column.text(row)));
    const names = columns.map((column) => column.name).join();
    if (names !== shownColumns) {
      shownColumns = names;
      head.replaceChildren(
        ...columns.map(({ name, title }) =>
          element("th", { scope: "col", class: `anb-${name}`, text: title }),
        ),
      );
      body.replaceChildren();
      known.clear();
    }
    keep(
      body,
      known,
      rows.map((row) => String(row.rank)),
      () =>
        element("tr", {}, ...columns.map(({ name }) => element("td", { class: `anb-${name}` }))),
    );
    for (const row of rows) {
      const cells = known.get(String(row.rank))?.cells;
      if (!cells) continue;
      columns.forEach((column, index) => {
        setText(cells[index], column.text(row));
      });
      cells[1].dataset.state = stateKind(row.state);
      cells[1].title = row.state;
      cells[columns.length - 1].title = plainText(row.line);
    }
  }
  node.addEventListener("toggle", update);
  return { node, update };
}

/**
 * Which look a state has: a rank may say more, such as "waiting in all_reduce".
 * @param {string} state
 */
export function stateKind(state) {
  const word = state.split(/[\s:(]/, 1)[0].toLowerCase();
  if (["failed", "killed", "died", "lost", "error"].includes(word)) return "failed";
  if (["waiting", "stalled", "blocked"].includes(word)) return "waiting";
  if (["done", "finished", "ended"].includes(word)) return "done";
  if (["stopped", "stopping", "interrupted"].includes(word)) return "stopped";
  return "running";
}

/**
 * As "60 running, 4 waiting in all_reduce", the most frequent state first.
 * @param {Row[]} rows
 */
export function summed(rows) {
  /** @type {Map<string, number>} */
  const counts = new Map();
  for (const { state } of rows) counts.set(state, (counts.get(state) ?? 0) + 1);
  const parts = [...counts].sort((a, b) => b[1] - a[1]);
  const shown = parts.slice(0, 3).map(([state, n]) => `${n} ${state}`);
  if (parts.length > 3) shown.push(`${plural(parts.length - 3, "other state")}`);
  return shown.join(", ");
}
