// @ts-check
// The live view of one run: an anywidget module. Its default export is called once a model, so
// that all views of a model share one store.
/** @import {Model} from "./types.js" */
import { progressBars } from "./bars.js";
import { element } from "./dom.js";
import { keepKeys } from "./keys.js";
import { logView } from "./log.js";
import { metricCharts } from "./metrics.js";
import { pictures } from "./pictures.js";
import { rankTable } from "./ranks.js";
import { banners, statusLine } from "./status.js";
import { RunStore } from "./store.js";
import { followTheme } from "./theme.js";

const TICK = 500; // ms, of the clock

export default () => {
  /** @type {RunStore | undefined} */
  let store;

  /** @param {{model: Model}} context */
  function initialize({ model }) {
    store = new RunStore(model);
    return () => store?.close();
  }

  /** @param {{model: Model, el: HTMLElement}} context */
  function render({ model, el }) {
    store ??= new RunStore(model);
    return show(store, el);
  }

  return { initialize, render };
};

/**
 * @param {RunStore} store
 * @param {HTMLElement} el
 * @returns {() => void} ends the view
 */
function show(store, el) {
  let frame = 0;
  const redraw = () => {
    if (!frame) frame = requestAnimationFrame(draw);
  };
  const status = statusLine(store);
  const metrics = metricCharts(store, redraw);
  const log = logView(store, redraw);
  const parts = [
    status,
    banners(store),
    progressBars(store),
    rankTable(store),
    metrics,
    pictures(store),
    log,
  ];
  const root = element("div", { class: "anb" }, ...parts.map((part) => part.node));

  function draw() {
    frame = 0;
    for (const part of parts) part.update();
  }

  el.append(root);
  const endTheme = followTheme(root);
  const endKeys = keepKeys(root);
  const endUpdates = store.subscribe(redraw);
  const clock = setInterval(() => store.isLive && status.update(), TICK);
  draw();
  return () => {
    clearInterval(clock);
    cancelAnimationFrame(frame);
    endUpdates();
    endTheme();
    endKeys();
    metrics.close();
    log.close();
    root.remove();
  };
}
