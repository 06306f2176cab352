import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { FakeModel } from "../dev/model.js";
import makeWidget from "../src/run.js";

const running = { state: "running", seconds: 3, banners: [], rate: 41.24, step: 120 };
const row = (rank, more) => ({
  rank,
  state: "running",
  step: 120,
  rate: 41.2,
  memory: 8e8,
  device_memory: null,
  line: "hi",
  ...more,
});
const bar = (more) => ({
  key: "e",
  ranks: [0, 1],
  label: "train",
  done: 45,
  total: 100,
  unit: "it",
  rate: 12.5,
  closed: false,
  by_rank: { 0: 45, 1: 45 },
  ...more,
});

/** @type {(() => void)[]} */
const ends = [];

function open(ranks = [0, 1], state = {}) {
  const info = { title: "Cell In[5]", ranks, device: "cpu", precision: "bf16", can_stop: true };
  const model = new FakeModel({ info, status: running, rows: [], bars: [], delta: {}, ...state });
  const widget = makeWidget();
  ends.push(widget.initialize({ model }));
  const views = [];
  const show = () => {
    const el = document.body.appendChild(document.createElement("div"));
    ends.push(widget.render({ model, el }));
    views.push(el);
    return el;
  };
  return { model, el: show(), show };
}
const frame = () => vi.advanceTimersByTime(50);
const logTexts = (el) => [...el.querySelectorAll(".anb-text")].map((node) => node.textContent);
const delta = (...texts) => ({
  from: 0,
  to: 1,
  lines: texts.map(([ranks, text, stream = "stdout"]) => [ranks, stream, text]),
});

beforeEach(() => vi.useFakeTimers());
afterEach(() => {
  for (const end of ends.splice(0).reverse()) end();
  document.body.replaceChildren();
  vi.useRealTimers();
});

test("the status line says what runs, and the clock ticks by itself", () => {
  const { el } = open();
  const text = () => el.querySelector(".anb-status").textContent;
  expect(text()).toContain("RunningCell In[5] · 2 ranks · cpu · bf16step 12041.2 steps/s0:03Stop");
  vi.advanceTimersByTime(60_000);
  expect(text()).toContain("1:03");
});

test("stop asks the kernel once, and says so if it is not heard", () => {
  const { model, el } = open();
  const button = el.querySelector(".anb-stop");
  button.click();
  button.click();
  frame();
  expect(model.sent).toEqual([{ type: "stop" }]);
  expect(button.textContent).toBe("stopping…");
  expect(button.disabled).toBe(true);
  vi.advanceTimersByTime(2100);
  expect(el.querySelector(".anb-unheard").hidden).toBe(false);
  expect(el.querySelector(".anb-unheard").textContent).toContain("notebook’s own stop button");
});

test("a stop that is heard ends with the run", () => {
  const { model, el } = open();
  el.querySelector(".anb-stop").click();
  model.set({ status: { ...running, state: "stopping" } });
  vi.advanceTimersByTime(5000);
  expect(el.querySelector(".anb-unheard").hidden).toBe(true);
  model.set({ status: { ...running, state: "stopped" } });
  frame();
  expect(el.querySelector(".anb-state").textContent).toBe("Stopped");
  expect(el.querySelector(".anb-stop").hidden).toBe(true);
});

test("there is no stop button where nobody would hear it", () => {
  const { model, el } = open();
  model.set({ info: { ...model.get("info"), can_stop: false } });
  frame();
  expect(el.querySelector(".anb-stop").hidden).toBe(true);
});

test("each rank has a row, and only columns that say something are there", () => {
  const waiting = { state: "waiting in all_reduce", rate: null, line: "\x1b[31mred" };
  const { model, el } = open([0, 1], { rows: [row(0), row(1, waiting)] });
  const rows = () =>
    [...el.querySelectorAll("tbody tr")].map((node) =>
      [...node.cells].map((cell) => cell.textContent),
    );
  const heads = () => [...el.querySelectorAll("th")].map((node) => node.textContent);
  expect(heads()).toEqual(["rank", "state", "step", "steps/s", "memory", "last line"]);
  expect(rows()[1]).toEqual(["1", "waiting in all_reduce", "120", "", "800 MB", "red"]);
  expect(el.querySelector(".anb-summary").textContent).toBe("1 running, 1 waiting in all_reduce");
  const kept = el.querySelector("tbody tr");
  model.set({ rows: [row(0, { step: 121 }), row(1, { device_memory: 2e9 })] });
  frame();
  expect(heads()).toContain("device mem.");
  model.set({ rows: [row(0, { step: 1234 }), row(1, { device_memory: 2e9 })] });
  frame();
  expect(rows()[0][2]).toBe("1,234");
  expect(kept.isConnected).toBe(false); // other columns, other rows
});

test("ranks that share a model say how, and where in the mesh each is", () => {
  const info = { title: "Cell In[5]", ranks: [0, 1], device: "cpu", precision: "no" };
  const sharing = "data 2; each rank holds 1/2";
  const { el } = open([0, 1], {
    info: { ...info, sharing },
    rows: [row(0, { place: "dp_shard 0" }), row(1, { place: "dp_shard 1" })],
  });
  expect(el.querySelector(".anb-facts").textContent).toContain(`cpu · ${sharing}`);
  expect(el.querySelector(".anb-facts").title).toBe(sharing);
  const places = [...el.querySelectorAll("td.anb-place")].map((node) => node.textContent);
  expect(places).toEqual(["dp_shard 0", "dp_shard 1"]);
});

test("a bar shows its share, the time left and who lags", () => {
  const { model, el } = open([0, 1], { bars: [bar({ by_rank: { 0: 45, 1: 20 } })] });
  expect(el.querySelector(".anb-bar").textContent).toBe(
    "train45 %45/100 · 12.5 it/s · 0:04 leftrank 1 at 20 %",
  );
  expect(el.querySelector(".anb-bar-fill").style.width).toBe("20.00%");
  expect(el.querySelector(".anb-bar-lead").style.width).toBe("45.00%");
  const closed = [1, 2, 3, 4, 5].map((n) => bar({ key: `${n}`, done: 100, closed: true }));
  model.set({ bars: [...closed, bar({ ranks: [1], label: "" })] });
  frame();
  const labels = [...el.querySelectorAll(".anb-bar-label")].map((node) => node.textContent);
  expect(labels).toEqual(["train", "train", "train", "[1] progress"]);
  expect(el.querySelector(".anb-bars").textContent).toContain("2 more finished");
});

test("a stall and an error are told, as text", () => {
  const { model, el } = open();
  const text = "rank 1: all_reduce, cell line 12\n<b>rank 0</b>: barrier";
  model.set({ status: { ...running, banners: [{ kind: "stall", text }] } });
  frame();
  const banner = el.querySelector("[role=alert].anb-banner");
  expect(banner.querySelector(".anb-banner-text").textContent).toBe(text);
  expect(banner.querySelector("b")).toBeNull();
  expect(el.querySelector(".anb-state").textContent).toBe("Stalled");
});

test("the log holds text, never HTML, and marks whose it is", () => {
  const { el } = open([0, 1], {
    delta: delta([[0, 1], "<img src=x onerror=alert(1)>"], [[1], "b", "stderr"]),
  });
  expect(logTexts(el)).toEqual(["<img src=x onerror=alert(1)>", "b"]);
  expect(el.querySelector(".anb-log img")).toBeNull();
  expect([...el.querySelectorAll(".anb-who")].map((n) => n.textContent)).toEqual(["0-1", "1"]);
  expect(el.querySelectorAll("[data-stream=stderr]")).toHaveLength(1);
});

test("arrow keys walk the tabs; each shows its rank's lines", () => {
  const { el } = open([0, 1], { delta: delta([[0, 1], "both"], [[1], "one"], [[0], "zero"]) });
  const [merged, first] = el.querySelectorAll("[role=tab]");
  const press = (key) =>
    document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  merged.focus();
  press("ArrowRight");
  frame();
  expect(document.activeElement).toBe(first);
  expect(first.getAttribute("aria-selected")).toBe("true");
  expect(logTexts(el)).toEqual(["both", "zero"]);
  press("ArrowLeft");
  frame();
  expect(logTexts(el)).toEqual(["both", "one", "zero"]);
});

test("64 ranks get a list instead of tabs", () => {
  const ranks = Array.from({ length: 64 }, (_, rank) => rank);
  const { el } = open(ranks, { delta: delta([ranks, "all"], [[63], "last"]) });
  expect(el.querySelectorAll("[role=tab]")).toHaveLength(1);
  const list = el.querySelector(".anb-tabs select");
  list.value = "5";
  list.dispatchEvent(new Event("change"));
  frame();
  expect(logTexts(el)).toEqual(["all"]);
});

test("search marks, counts, jumps and filters", () => {
  const { el } = open([0], { delta: delta([[0], "loss 1"], [[0], "other"], [[0], "Loss 2"]) });
  const field = el.querySelector(".anb-search");
  const enter = () => field.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
  field.value = "loss";
  field.dispatchEvent(new Event("input"));
  frame();
  const marks = () => [...el.querySelectorAll("mark")].map((node) => node.textContent);
  const found = () => el.querySelector(".anb-found").textContent;
  expect(marks()).toEqual(["loss", "Loss"]);
  expect(found()).toBe("2");
  enter();
  frame();
  expect(found()).toBe("1/2");
  enter();
  frame();
  expect(found()).toBe("2/2");
  expect(el.querySelector(".anb-current .anb-text").textContent).toBe("Loss 2");
  el.querySelector(".anb-filter").click();
  frame();
  expect(logTexts(el)).toEqual(["loss 1", "Loss 2"]);
  field.value = "loss 1"; // a fast typist: no frame before Enter
  field.dispatchEvent(new Event("input"));
  enter();
  frame();
  expect(el.querySelector(".anb-current .anb-text").textContent).toBe("loss 1");
});

test("of 5,000 lines only those in sight are in the page", () => {
  const texts = Array.from({ length: 5000 }, (_, n) => [[0], `line ${n}`]);
  const { el } = open([0], { delta: delta(...texts) });
  expect(el.querySelectorAll(".anb-row").length).toBeLessThan(60);
});

test("two views of one run show the same, and one may go", () => {
  const { model, el, show } = open([0], { delta: delta([[0], "a"]) });
  const second = show();
  expect(logTexts(second)).toEqual(["a"]);
  ends.pop()();
  model.set({ delta: { from: 1, to: 2, lines: [[[0], "stdout", "b"]] } });
  frame();
  expect(logTexts(el)).toEqual(["a", "b"]);
  expect(second.childElementCount).toBe(0);
});

test("streamed images and histograms are shown with rank and step", () => {
  const images = { sample: { 1: [7, "data:image/png;base64,AA=="] } };
  const histograms = { weights: { 0: [7, [1, 5, 2], [-1, 0, 1, 2]] } };
  const { el } = open([0, 1], { delta: { from: 0, to: 1, images, histograms } });
  expect(el.querySelector("img").alt).toBe("sample, rank 1, step 7");
  const label = el.querySelector(".anb-picture svg").getAttribute("aria-label");
  expect(label).toBe("Histogram of weights, rank 0, step 7");
});

test("keys in the view are not the notebook's commands, chords are", () => {
  const { el } = open([0], { delta: delta([[0], "a"]) });
  const log = el.querySelector(".anb-log");
  const isOurs = (more) => {
    log.dispatchEvent(new KeyboardEvent("keydown", { bubbles: true, ...more }));
    return log.hasAttribute("data-lm-suppress-shortcuts");
  };
  expect(isOurs({ key: "d" })).toBe(true);
  expect(isOurs({ key: "s", ctrlKey: true })).toBe(false);
  expect(isOurs({ key: "Enter" })).toBe(true);
  expect(isOurs({ key: "Enter", shiftKey: true })).toBe(false);
});
