// @ts-check
// Colours of terminals (SGR) in lines of text.

/**
 * @typedef {{fg: string, bg: string, bold: boolean, dim: boolean, italic: boolean,
 *            underline: boolean, inverse: boolean}} Style
 *   a colour is "" (none), the number of one of the 16 of the theme, or rgb(…)
 * @typedef {{text: string, style: Style}} Piece
 */

// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const SEQUENCE = /\x1b\[([0-?]*)[ -/]*([@-~])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\^_]/g;
// biome-ignore lint/suspicious/noControlCharactersInRegex: the rest of them cannot be shown
const UNSEEN = /[\x00-\x08\x0b-\x1f\x7f]/g;

/** @type {Style} */
const PLAIN = {
  fg: "",
  bg: "",
  bold: false,
  dim: false,
  italic: false,
  underline: false,
  inverse: false,
};

/**
 * The line without its control sequences.
 * @param {string} line
 */
export function plainText(line) {
  if (!line.includes("\x1b")) return line.replace(UNSEEN, "");
  return line.replace(SEQUENCE, "").replace(UNSEEN, "");
}

/**
 * The line as pieces of one style each; their texts together are `plainText(line)`.
 * @param {string} line
 * @returns {Piece[]}
 */
export function pieces(line) {
  /** @type {Piece[]} */
  const found = [];
  let style = PLAIN;
  let at = 0;
  const push = (/** @type {string} */ text) => {
    const seen = text.replace(UNSEEN, "");
    if (seen) found.push({ text: seen, style });
  };
  for (const match of line.matchAll(SEQUENCE)) {
    push(line.slice(at, match.index));
    at = match.index + match[0].length;
    if (match[2] === "m") style = restyled(style, match[1]);
  }
  push(line.slice(at));
  return found;
}

/**
 * @param {Style} style
 * @param {string} parameters  such as 1;38;5;208
 * @returns {Style}
 */
function restyled(style, parameters) {
  const codes = parameters.split(/[;:]/).map(Number);
  const next = { ...style };
  for (let i = 0; i < codes.length; i += 1) {
    const code = codes[i];
    if (code === 0) Object.assign(next, PLAIN);
    else if (code === 1) next.bold = true;
    else if (code === 2) next.dim = true;
    else if (code === 3) next.italic = true;
    else if (code === 4) next.underline = true;
    else if (code === 7) next.inverse = true;
    else if (code === 22) next.bold = next.dim = false;
    else if (code === 23) next.italic = false;
    else if (code === 24) next.underline = false;
    else if (code === 27) next.inverse = false;
    else if (code === 39) next.fg = "";
    else if (code === 49) next.bg = "";
    else if (code >= 30 && code <= 37) next.fg = String(code - 30);
    else if (code >= 40 && code <= 47) next.bg = String(code - 40);
    else if (code >= 90 && code <= 97) next.fg = String(code - 82);
    else if (code >= 100 && code <= 107) next.bg = String(code - 92);
    else if (code === 38 || code === 48) {
      const [colour, used] = extended(codes.slice(i + 1));
      next[code === 38 ? "fg" : "bg"] = colour;
      i += used;
    }
  }
  return next;
}

/**
 * The colour after 38 or 48, and how many codes it took.
 * @param {number[]} codes
 * @returns {[string, number]}
 */
function extended(codes) {
  if (codes[0] === 5) return [indexed(codes[1] ?? 0), 2];
  if (codes[0] === 2) return [`rgb(${codes.slice(1, 4).map(channel).join(",")})`, 4];
  return ["", 1];
}

/** @param {number} value */
function channel(value) {
  return Math.min(255, Math.max(0, value || 0));
}

/**
 * One of xterm's 256 colours.
 * @param {number} index
 */
function indexed(index) {
  if (index < 16) return String(index);
  if (index >= 232) {
    const grey = channel(8 + 10 * (index - 232));
    return `rgb(${grey},${grey},${grey})`;
  }
  const level = (/** @type {number} */ n) => (n === 0 ? 0 : 55 + 40 * n);
  const cube = index - 16;
  return `rgb(${[Math.floor(cube / 36), Math.floor(cube / 6) % 6, cube % 6].map(level).join(",")})`;
}

/**
 * Give a node the look of a style.
 * @param {HTMLElement} node
 * @param {Style} style
 */
export function paint(node, style) {
  const [fg, bg] = style.inverse ? [style.bg || "paper", style.fg || "ink"] : [style.fg, style.bg];
  if (fg) node.style.color = css(fg);
  if (bg) node.style.backgroundColor = css(bg);
  if (style.bold) node.style.fontWeight = "bold";
  if (style.dim) node.style.opacity = "0.7";
  if (style.italic) node.style.fontStyle = "italic";
  if (style.underline) node.style.textDecoration = "underline";
}

/** @param {string} colour */
function css(colour) {
  if (colour.startsWith("rgb")) return colour;
  if (colour === "paper" || colour === "ink") return `var(--anb-${colour})`;
  return `var(--anb-ansi-${colour})`;
}
