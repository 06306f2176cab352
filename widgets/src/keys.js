// @ts-check

/**
 * Keep keys that are meant for a node from being commands of JupyterLab: a notebook whose output
 * has the focus is in command mode, where Enter edits the cell, arrows leave it and "d d" deletes
 * it. Chords such as Ctrl-S and Shift-Enter stay the notebook's.
 * @param {HTMLElement} node
 * @returns {() => void} ends it
 */
export function keepKeys(node) {
  const mark = (/** @type {KeyboardEvent} */ event) => {
    if (!(event.target instanceof HTMLElement) || !node.contains(event.target)) return;
    const isChord = event.ctrlKey || event.metaKey || event.altKey;
    const runsCell = event.shiftKey && event.key === "Enter" && !event.target.matches("input");
    // JupyterLab looks for this on the element with the focus only, before the event reaches it.
    event.target.toggleAttribute("data-lm-suppress-shortcuts", !isChord && !runsCell);
  };
  window.addEventListener("keydown", mark, true);
  return () => window.removeEventListener("keydown", mark, true);
}
