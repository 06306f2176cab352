// @ts-check
// Whether the page around a view is dark: front ends say it each in their own way, their colour
// is what all have in common.

/**
 * Keep the class `anb-dark` of a node in step with its page.
 * @param {HTMLElement} node
 * @returns {() => void} ends it
 */
export function followTheme(node) {
  const apply = () => node.classList.toggle("anb-dark", isDark(node));
  const observer = new MutationObserver(apply);
  const attributes = ["class", "style", "theme", "data-theme", "data-jp-theme-name"];
  for (const watched of [document.documentElement, document.body])
    observer.observe(watched, { attributes: true, attributeFilter: attributes });
  const media = matchMedia("(prefers-color-scheme: dark)");
  media.addEventListener("change", apply);
  apply();
  // The view is put into the page only after it is made.
  const frame = requestAnimationFrame(apply);
  return () => {
    observer.disconnect();
    media.removeEventListener("change", apply);
    cancelAnimationFrame(frame);
  };
}

/** @param {HTMLElement} node */
function isDark(node) {
  for (let at = node.parentElement; at; at = at.parentElement) {
    const dark = isDarkColour(getComputedStyle(at).backgroundColor);
    if (dark !== null) return dark;
  }
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

/**
 * Whether a computed colour is dark; null if it is transparent or not known.
 * @param {string} colour  rgb(…) or rgba(…)
 */
export function isDarkColour(colour) {
  const [red, green, blue, alpha = 1] = (colour.match(/[\d.]+/g) ?? []).map(Number);
  if (blue === undefined || alpha < 0.5) return null;
  return 0.299 * red + 0.587 * green + 0.114 * blue < 128;
}
