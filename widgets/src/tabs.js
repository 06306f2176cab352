// @ts-check
import { element } from "./dom.js";

const MOST_TABS = 8; // ranks with a tab of their own; more are in a list

/**
 * Tabs for the merged log and each rank's.
 * @param {(rank: number | null) => void} onChoose
 * @param {string} panel  the id of what they switch
 */
export function logTabs(onChoose, panel) {
  const node = element("span", { class: "anb-tabs", role: "tablist", "aria-label": "Whose log" });
  /** @type {number | null} */
  let chosen = null;
  let shown = "";

  /** @param {number | null} rank */
  function choose(rank) {
    chosen = rank;
    mark();
    onChoose(rank);
  }

  function mark() {
    for (const tab of node.querySelectorAll("button")) {
      const isChosen = tab.value === String(chosen);
      tab.setAttribute("aria-selected", String(isChosen));
      tab.tabIndex = isChosen || (tab.value === "null" && node.querySelector("select")) ? 0 : -1;
    }
    const list = node.querySelector("select");
    if (!list) return;
    list.value = chosen === null ? "" : String(chosen);
    list.classList.toggle("anb-chosen", chosen !== null);
  }

  /** @param {number[]} ranks */
  function update(ranks) {
    if (ranks.join() === shown) return;
    shown = ranks.join();
    node.hidden = ranks.length < 2;
    const tab = (/** @type {number | null} */ rank, /** @type {string} */ text) =>
      element("button", {
        type: "button",
        role: "tab",
        value: String(rank),
        "aria-controls": panel,
        text,
        onclick: () => choose(rank),
      });
    const all = tab(null, "Merged");
    if (ranks.length <= MOST_TABS)
      node.replaceChildren(all, word(), ...ranks.map((rank) => tab(rank, `${rank}`)));
    else node.replaceChildren(all, rankList(ranks));
    for (const button of node.querySelectorAll("button"))
      if (button.value !== "null") button.setAttribute("aria-label", `Rank ${button.value}`);
    mark();
  }

  /** @param {number[]} ranks */
  function rankList(ranks) {
    const list = element(
      "select",
      {
        "aria-label": "Log of one rank",
        onchange: () => choose(list.value === "" ? null : Number(list.value)),
      },
      element("option", { value: "", text: "one rank…" }),
      ...ranks.map((rank) => element("option", { value: String(rank), text: `rank ${rank}` })),
    );
    return list;
  }

  node.addEventListener("keydown", (event) => {
    const tabs = [...node.querySelectorAll("button")];
    const at = tabs.indexOf(/** @type {HTMLButtonElement} */ (event.target));
    if (at < 0) return;
    const targets = new Map([
      ["ArrowRight", (at + 1) % tabs.length],
      ["ArrowLeft", (at + tabs.length - 1) % tabs.length],
      ["Home", 0],
      ["End", tabs.length - 1],
    ]);
    const target = targets.get(event.key);
    if (target === undefined) return;
    event.preventDefault();
    tabs[target].focus();
    tabs[target].click();
  });
  return { node, update };
}

function word() {
  return element("span", { class: "anb-tabs-word", "aria-hidden": "true", text: "rank" });
}
