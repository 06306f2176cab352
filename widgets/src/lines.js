// @ts-check
// Which lines of the log are shown, how high each is, and where a text is found in them.
/** @import {Line} from "./types.js" */
import { plainText } from "./ansi.js";

const MOST_CHARACTERS = 10000; // of a line

/**
 * The lines of one tab.
 * @param {Line[]} lines
 * @param {number | null} rank  null for all
 */
export function linesOf(lines, rank) {
  return rank === null ? lines : lines.filter((line) => line.ranks.includes(rank));
}

/**
 * A line's text, cut where it would slow the page.
 * @param {Line} line
 */
export function textOf(line) {
  if (line.text.length <= MOST_CHARACTERS) return line.text;
  return `${line.text.slice(0, MOST_CHARACTERS)}… (${line.text.length} characters)`;
}

/** @type {WeakMap<Line, string>} */
const plainTexts = new WeakMap();

/**
 * A line's text without colours.
 * @param {Line} line
 */
export function plainOf(line) {
  let text = plainTexts.get(line);
  if (text === undefined) {
    text = plainText(textOf(line));
    plainTexts.set(line, text);
  }
  return text;
}

// East Asian characters and emoji take two columns.
const WIDE = /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60]/g;
const PAIR = /[\ud800-\udbff][\udc00-\udfff]/g;

/**
 * How many columns a text takes in a font of one width.
 * @param {string} text
 */
export function columns(text) {
  let taken = text.length;
  if (text.includes("\t")) taken += 7 * (text.split("\t").length - 1);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the characters of ASCII
  if (/^[\x00-\x7f]*$/.test(text)) return taken;
  // A pair of two code units is an emoji of two columns, so it counts as it is.
  return taken + (text.replace(PAIR, "").match(WIDE)?.length ?? 0);
}

/**
 * Where each line begins, in rows; one more entry for the end.
 * @param {Line[]} lines
 * @param {number} width  columns of the window
 * @param {Map<number, number>} [measured]  rows of lines, by number, that turned out otherwise
 */
export function offsets(lines, width, measured) {
  const starts = new Float64Array(lines.length + 1);
  lines.forEach((line, index) => {
    const rows =
      measured?.get(line.number) ?? Math.max(1, Math.ceil(columns(plainOf(line)) / width));
    starts[index + 1] = starts[index] + rows;
  });
  return starts;
}

/**
 * The lines that a window shows, with a few more on each side.
 * @param {Float64Array} starts  of `offsets`
 * @param {number} top  first row in sight
 * @param {number} rows  in sight
 * @returns {[number, number]} first line, and the one after the last
 */
export function visible(starts, top, rows) {
  const more = 8;
  const first = lineAt(starts, top - more);
  const last = lineAt(starts, top + rows + more);
  return [first, Math.min(last + 1, starts.length - 1)];
}

/**
 * The line that a row belongs to.
 * @param {Float64Array} starts
 * @param {number} row
 */
export function lineAt(starts, row) {
  let low = 0;
  let high = Math.max(0, starts.length - 2);
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (starts[middle] <= row) low = middle;
    else high = middle - 1;
  }
  return low;
}

/**
 * The indexes of lines that contain a text, whatever its case.
 * @param {Line[]} lines
 * @param {string} query
 */
export function matching(lines, query) {
  const wanted = query.toLowerCase();
  /** @type {number[]} */
  const found = [];
  if (!wanted) return found;
  lines.forEach((line, index) => {
    if (plainOf(line).toLowerCase().includes(wanted)) found.push(index);
  });
  return found;
}

/**
 * Where a query is in a text: [start, end] each.
 * @param {string} text
 * @param {string} query
 * @returns {[number, number][]}
 */
export function matchesIn(text, query) {
  /** @type {[number, number][]} */
  const found = [];
  if (!query) return found;
  const [haystack, needle] = [text.toLowerCase(), query.toLowerCase()];
  for (
    let at = haystack.indexOf(needle);
    at >= 0;
    at = haystack.indexOf(needle, at + needle.length)
  )
    found.push([at, at + needle.length]);
  return found;
}
