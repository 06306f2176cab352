// @ts-check
import { element, setText } from "./dom.js";
import { count } from "./text.js";

/**
 * The field that looks for a text in the log.
 * @param {{onQuery: (query: string) => void, onJump: (by: 1 | -1) => void,
 *          onFilter: (on: boolean) => void}} actions
 */
export function searchField({ onQuery, onJump, onFilter }) {
  const input = element("input", {
    type: "search",
    class: "anb-search",
    placeholder: "Search the log",
    "aria-label": "Search the log",
    spellcheck: "false",
    oninput: () => onQuery(input.value),
    onkeydown: (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Enter") onJump(event.shiftKey ? -1 : 1);
      if (event.key !== "Escape") return;
      input.value = "";
      onQuery("");
    },
  });
  const found = element("span", { class: "anb-found", role: "status" });
  const jump = (
    /** @type {1 | -1} */ by,
    /** @type {string} */ sign,
    /** @type {string} */ label,
  ) =>
    element("button", {
      type: "button",
      class: "anb-icon",
      "aria-label": label,
      title: label,
      text: sign,
      onclick: () => onJump(by),
    });
  const filter = element("button", {
    type: "button",
    class: "anb-icon anb-filter",
    "aria-pressed": "false",
    title: "Show only the lines that match",
    text: "only matches",
    onclick: () => {
      const on = filter.getAttribute("aria-pressed") !== "true";
      filter.setAttribute("aria-pressed", String(on));
      onFilter(on);
    },
  });
  const tools = element(
    "span",
    { class: "anb-search-tools", hidden: true },
    found,
    jump(-1, "↑", "Previous match (N)"),
    jump(1, "↓", "Next match (n)"),
    filter,
  );
  const node = element("span", { class: "anb-search-box", role: "search" }, input, tools);

  /**
   * @param {number} at  the match that is shown, or -1
   * @param {number} of
   */
  function update(at, of) {
    tools.hidden = input.value === "";
    setText(
      found,
      of === 0 ? "no match" : at < 0 ? `${count(of)}` : `${count(at + 1)}/${count(of)}`,
    );
  }
  return { node, update, focus: () => input.focus() };
}
