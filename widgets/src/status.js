// @ts-check
/** @import {RunStore} from "./store.js" */
import { element, setText } from "./dom.js";
import { clock, duration, plural, short } from "./text.js";

const NAMES = new Map([
  ["running", "Running"],
  ["stalled", "Stalled"],
  ["stopping", "Stopping"],
  ["done", "Done"],
  ["failed", "Failed"],
  ["stopped", "Stopped"],
]);

/**
 * The line at the top: state, what runs where, time and rate, and the stop button.
 * @param {RunStore} store
 */
export function statusLine(store) {
  const dot = element("span", { class: "anb-dot", "aria-hidden": "true" });
  const state = element("strong", { class: "anb-state", role: "status" });
  const facts = element("span", { class: "anb-facts" });
  const elapsed = element("span", { class: "anb-elapsed", title: "Time since the cell began" });
  const step = element("span", { class: "anb-figure" });
  const rate = element("span", { class: "anb-figure" });
  const label = element("span");
  const button = element(
    "button",
    {
      type: "button",
      class: "anb-stop",
      "aria-label": "Stop the ranks of this cell",
      onclick: () => store.stop(),
    },
    element("span", { class: "anb-stop-sign", "aria-hidden": "true" }),
    label,
  );
  const unheard = element("div", {
    class: "anb-unheard",
    role: "alert",
    text: "The kernel cannot hear this button while the cell runs: use the notebook’s own stop button.",
  });
  const line = element(
    "div",
    { class: "anb-status" },
    element("span", { class: "anb-lead" }, dot, state),
    facts,
    element("span", { class: "anb-figures" }, step, rate, elapsed),
    button,
  );
  const node = element("div", { class: "anb-top" }, line, unheard);

  function update() {
    const { info, status, stopping } = store;
    const lost = node.closest(".jupyter-widgets-disconnected") !== null && store.isLive;
    const shown = lost ? "lost" : stateOf(status, stopping);
    line.dataset.state = shown;
    setText(state, lost ? "Kernel gone" : (NAMES.get(shown) ?? status.state));
    setText(facts, factsOf(info));
    facts.title = info.sharing ?? "";
    setText(step, status.step === null ? "" : `step ${status.step.toLocaleString("en-US")}`);
    setText(rate, status.rate === null ? "" : `${short(status.rate)} steps/s`);
    setText(elapsed, lost ? "" : (store.isLive ? clock : duration)(store.elapsed));
    const busy = stopping === "asked" || status.state === "stopping";
    setText(label, busy ? "stopping…" : "Stop");
    button.disabled = busy;
    button.hidden = !info.can_stop || !store.isLive || lost;
    unheard.hidden = stopping !== "unheard" || lost;
  }
  return { node, update };
}

/**
 * @param {import("./types.js").Status} status
 * @param {string} stopping
 */
function stateOf({ state, banners }, stopping) {
  if (state !== "running") return state;
  if (stopping === "asked") return "stopping";
  return banners.some(({ kind }) => kind === "stall") ? "stalled" : state;
}

/** @param {import("./types.js").Info} info */
function factsOf(info) {
  const precision = info.precision === "no" ? "" : info.precision;
  const ranks = info.ranks.length ? plural(info.ranks.length, "rank") : "";
  return [info.title, ranks, info.device, precision, info.sharing].filter(Boolean).join(" · ");
}

/**
 * What the user must know now: stalls, errors, notes.
 * @param {RunStore} store
 */
export function banners(store) {
  const node = element("div", { class: "anb-banners" });
  let shown = "";

  function update() {
    const { banners } = store.status;
    const wanted = JSON.stringify(banners);
    if (wanted === shown) return;
    shown = wanted;
    node.replaceChildren(
      ...banners.map(({ kind, text }) =>
        element(
          "div",
          { class: "anb-banner", "data-kind": kind, role: kind === "note" ? "status" : "alert" },
          element("span", { class: "anb-banner-sign", "aria-hidden": "true" }),
          element("div", { class: "anb-banner-text", text }),
        ),
      ),
    );
  }
  return { node, update };
}
