// @ts-check

/**
 * Make an element. Text is set as text, never as HTML.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, string | boolean | ((event: any) => void)>} [attributes]
 *   `class`, `text`, `on…` (a listener), or any attribute; true stands for "", false for none
 * @param {(Node | string)[]} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (name === "text") node.textContent = String(value);
    else if (value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

/**
 * @param {string} tag
 * @param {Record<string, string | number>} [attributes]
 * @param {Node[]} children
 */
export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") node.textContent = String(value);
    else node.setAttribute(name, String(value));
  }
  node.append(...children);
  return node;
}

/**
 * Set text only where it changes, so that a selection in it survives.
 * @param {Element} node
 * @param {string} text
 */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Give `parent` one child a key, in order; children of known keys are kept as they are.
 * @template {HTMLElement} E
 * @param {HTMLElement} parent
 * @param {Map<string, E>} known  the children so far by their keys; kept up to date
 * @param {string[]} keys
 * @param {(key: string) => E} create
 */
export function keep(parent, known, keys, create) {
  const wanted = new Set(keys);
  for (const [key, node] of known) {
    if (wanted.has(key)) continue;
    node.remove();
    known.delete(key);
  }
  keys.forEach((key, index) => {
    let node = known.get(key);
    if (!node) {
      node = create(key);
      known.set(key, node);
    }
    if (parent.children[index] !== node) parent.insertBefore(node, parent.children[index] ?? null);
  });
}
