// Plays a made-up run into the view.
import makeWidget from "../dist/run.js";
import { FakeModel } from "./model.js";

const query = new URLSearchParams(location.search);
const ranks = Array.from({ length: Number(query.get("ranks") ?? 2) }, (_, rank) => rank);
const state = query.get("state") ?? "running";
const steps = Number(query.get("steps") ?? 300);
document.body.classList.toggle("dark", query.get("theme") === "dark");

let seed = 7;
const random = () => {
  seed = (seed * 16807) % 2147483647;
  return seed / 2147483647 - 0.5;
};

const isOver = ["done", "failed", "stopped"].includes(state);
const model = new FakeModel({
  info: {
    title: "Cell In[5]",
    ranks,
    device: ranks.length > 2 ? "cuda" : "cpu",
    precision: "bf16",
    can_stop: true,
    log_folder: "/tmp/accelnb-8f2k1q/run-5",
  },
  status: status(0),
  rows: [],
  bars: [],
  delta: {},
});

function status(step) {
  const banners = [];
  if (state === "stalled")
    banners.push({
      kind: "stall",
      text:
        "No rank has made progress for 30 s.\nrank 1: all_reduce, cell line 12 (in the loop of line 9)\n" +
        "other ranks: barrier, cell line 20\nThey parted at line 10: if rank == 1:",
    });
  if (state === "failed")
    banners.push({
      kind: "error",
      text: "rank 1: ZeroDivisionError: division by zero (Cell In[5], line 14)",
    });
  return {
    state: isOver ? state : "running",
    seconds: 2 + step / 12,
    banners,
    rate: step ? 41.2 + random() : null,
    step: step || null,
  };
}

function rankState(rank) {
  if (state === "failed") return rank === 1 ? "failed" : "stopped";
  if (state === "stalled") return rank === 1 ? "waiting in all_reduce" : "waiting in barrier";
  return isOver ? state : "running";
}

function rows(step) {
  return ranks.map((rank) => ({
    rank,
    state: rankState(rank),
    step: step - (rank % 3),
    rate: 41 + random(),
    memory: 6.1e8 + rank * 1.3e7,
    device_memory: ranks.length > 2 ? 1.42e10 + rank * 3e8 : null,
    line: `epoch ${Math.floor(step / 100)} step ${step - (rank % 3)}: loss ${loss(step, rank).toFixed(4)}`,
  }));
}

function loss(step, rank) {
  return 2.3 * Math.exp(-step / 90) + 0.35 + 0.05 * Math.sin(step / 7 + rank) + 0.12 * random();
}

function bars(step) {
  const late = ranks.length > 3 ? { 3: Math.floor((step % 100) * 0.6) } : {};
  const byRank = Object.fromEntries(ranks.map((rank) => [rank, step % 100]));
  return [
    {
      key: "data",
      ranks: [0],
      label: "download",
      done: 4.2e8,
      total: 4.2e8,
      unit: "B",
      rate: 8.1e7,
      closed: true,
      by_rank: { 0: 4.2e8 },
    },
    {
      key: "epoch",
      ranks,
      label: `epoch ${Math.floor(step / 100)}`,
      done: step % 100,
      total: 100,
      unit: "it",
      rate: 41.3,
      closed: false,
      by_rank: { ...byRank, ...late },
    },
    ...(ranks.length > 2
      ? [
          {
            key: "read",
            ranks,
            label: "tokens read",
            done: step * 8192,
            total: null,
            unit: "tok",
            rate: 337000,
            closed: false,
            by_rank: {},
          },
        ]
      : []),
  ];
}

function lines(step) {
  const found = [];
  if (step === 1) {
    found.push([
      ranks,
      "stdout",
      "model: \u001b[1mGPT\u001b[0m, \u001b[36m124.4 M\u001b[0m parameters, data: 10.2 M tokens",
    ]);
    found.push([
      [0],
      "stderr",
      "/opt/conda/lib/python3.11/site-packages/torch/utils/data/dataloader.py:617: UserWarning: This DataLoader will create 4 worker processes in total. Our suggested max number of worker in current system is 2, which is smaller than what this DataLoader is going to create.",
    ]);
  }
  if (step % 10 === 0)
    found.push([ranks, "stdout", `epoch ${Math.floor(step / 100)} step ${step}: lr 3.0e-4`]);
  if (step % 7 === 0)
    found.push([
      [step % ranks.length],
      "stdout",
      `step ${step}: loss \u001b[32m${loss(step, 0).toFixed(4)}\u001b[0m`,
    ]);
  if (step % 100 === 99)
    found.push([[0], "note", `checkpoint saved in gpt_project/step-00${step}`]);
  return found;
}

function histogram(rank, step) {
  const edges = Array.from({ length: 33 }, (_, i) => -1 + i / 16);
  const width = 0.18 + step / 2000 + rank / 60;
  const counts = edges
    .slice(1)
    .map((edge) => Math.round(900 * Math.exp(-((edge / width) ** 2)) * (1 + random() / 5)));
  return [step, counts, edges];
}

function picture(rank) {
  const canvas = Object.assign(document.createElement("canvas"), { width: 28, height: 28 });
  const context = canvas.getContext("2d");
  for (let x = 0; x < 28; x += 1)
    for (let y = 0; y < 28; y += 1) {
      const near = Math.abs(Math.hypot(x - 14, y - 14 + rank) - 8) < 2.2 ? 235 : 25 + 20 * random();
      context.fillStyle = `rgb(${near} ${near} ${near})`;
      context.fillRect(x, y, 1, 1);
    }
  return canvas.toDataURL();
}

let at = 0;
function play(until) {
  const first = at === 0;
  const delta = {
    from: at,
    to: until,
    lines: [],
    points: { loss: {}, accuracy: {}, "grad norm": {} },
    histograms: {},
    images: {},
    skipped: 0,
  };
  for (let step = at + 1; step <= until; step += 1) {
    delta.lines.push(...lines(step));
    for (const rank of ranks) {
      const push = (name, value) => {
        delta.points[name][rank] ??= [];
        delta.points[name][rank].push([step, value]);
      };
      push("loss", loss(step, rank));
      if (step % 10 === 0) push("accuracy", 1 - 0.8 * Math.exp(-step / 120) + 0.02 * random());
      push(
        "grad norm",
        step > 150 && step < 160 ? "inf" : 1 / (1 + step / 50) + 0.2 * Math.abs(random()),
      );
    }
  }
  if (query.has("pictures") && (first || until % 50 === 0)) {
    delta.histograms.weights = Object.fromEntries(
      ranks.map((rank) => [rank, histogram(rank, until)]),
    );
    delta.images.sample = Object.fromEntries(
      ranks.slice(0, 2).map((rank) => [rank, [until, picture(rank)]]),
    );
  }
  at = until;
  model.set({ status: status(at), rows: rows(at), bars: bars(at), delta });
}

play(steps);
const widget = makeWidget();
widget.initialize({ model });
widget.render({ model, el: document.getElementById("view") });
if (query.has("live") && !isOver) setInterval(() => play(at + 1), 100);
if (query.has("stop")) document.querySelector(".anb-stop").click();
Object.assign(window, { model, play });
