// The loss curve as inline SVG: training loss as a thin line, held-out loss as a bold line with points.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 240;
const MARGIN = { top: 28, right: 16, bottom: 40, left: 52 };
const GAP_PX = 70; // minimum distance of two labels on the step axis

function shape(name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, String(value));
  if (text !== undefined) node.textContent = text;
  return node;
}

// Return about `count` round numbers (1, 2 or 5 times a power of ten) from 0 to at least `top`.
export function ticks(top, count) {
  const rough = Math.max(top, 1e-6) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * (1 - 1e-9));
  const digits = Math.max(0, -Math.floor(Math.log10(step)));
  return Array.from({ length: Math.ceil(top / step - 1e-9) + 1 }, (_, i) => Number((i * step).toFixed(digits)));
}

const points = (progress, key) =>
  progress
    .filter((line) => line.phase === "training" && Number.isFinite(line[key]))
    .map((line) => ({ step: line.step, loss: line[key] }));

// Return { train, heldout, best }: the points to draw; `best` is the held-out point of the best step so far, undefined
// without one. Progress written by an earlier version does not name the step: there the lowest loss is the best.
export function series(progress) {
  const heldout = points(progress, "heldout_loss");
  const lowest = heldout.reduce((low, point) => (low && low.loss <= point.loss ? low : point), undefined);
  const kept = progress.findLast((line) => Number.isFinite(line.best_step))?.best_step;
  const best = heldout.find((point) => point.step === kept) ?? lowest;
  return { train: points(progress, "loss"), heldout, best };
}

function axes(svg, steps, losses, x, y, width) {
  const right = width - MARGIN.right;
  for (const loss of losses) {
    svg.append(shape("line", { class: "grid", x1: MARGIN.left, x2: right, y1: y(loss), y2: y(loss) }));
    svg.append(shape("text", { x: MARGIN.left - 8, y: y(loss) + 4, "text-anchor": "end" }, String(loss)));
  }
  for (const step of steps) {
    svg.append(shape("text", { x: x(step), y: HEIGHT - MARGIN.bottom + 18, "text-anchor": "middle" }, String(step)));
  }
  svg.append(shape("text", { x: (MARGIN.left + right) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, "step"));
  svg.append(shape("text", { x: 4, y: 14 }, "loss, nats per token"));
}

function legend(svg, width) {
  const entries = [["held-out", "heldout", 82], ["train", "train", 56]];
  let right = width - MARGIN.right;
  for (const [word, name, room] of entries) {
    svg.append(shape("line", { class: name, x1: right - room, x2: right - room + 20, y1: 10, y2: 10 }));
    svg.append(shape("text", { x: right - room + 26, y: 14 }, word));
    right -= room + 12;
  }
}

// Return an SVG of `width` pixels; `total` is the number of planned steps, `label` the text for screen readers.
export function draw({ train, heldout, best }, total, width, label) {
  const all = [...train, ...heldout];
  const losses = ticks(Math.max(...all.map((point) => point.loss)), 5);
  const last = Math.max(total || 0, ...all.map((point) => point.step));
  const inner = width - MARGIN.left - MARGIN.right;
  const steps = ticks(last, Math.max(2, Math.floor(inner / GAP_PX))).filter((step) => step <= last && step % 1 === 0);
  const x = (step) => MARGIN.left + (step / Math.max(last, 1)) * inner;
  const y = (loss) => HEIGHT - MARGIN.bottom - (loss / losses.at(-1)) * (HEIGHT - MARGIN.top - MARGIN.bottom);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label });
  const path = (line) => line.map(({ step, loss }) => `${x(step).toFixed(1)},${y(loss).toFixed(1)}`).join(" ");
  axes(svg, steps, losses, x, y, width);
  legend(svg, width);
  svg.append(shape("polyline", { class: "train", points: path(train) }));
  svg.append(shape("polyline", { class: "heldout", points: path(heldout) }));
  for (const point of heldout) {
    const dot = shape("circle", { class: point === best ? "best" : "point", cx: x(point.step), cy: y(point.loss), r: 4 });
    dot.append(shape("title", {}, `step ${point.step}: held-out loss ${point.loss.toPrecision(3)}`));
    svg.append(dot);
  }
  return svg;
}
