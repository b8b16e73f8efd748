// Lines over numbers, drawn by uPlot on a canvas: for the eye, for the arrow keys, and as a table.

import { html, useEffect, useRef } from "./vendor/preact-htm-3.1.1.module.js";
import { t } from "./words.js";

const HEIGHT = 220;
const { uPlot } = window;
const colour = (name) => getComputedStyle(document.body).getPropertyValue(`--${name}`).trim();
const dark = matchMedia("(prefers-color-scheme: dark)");

function options(width, { of, lines, format, steps }) {
  const axis = { stroke: colour("quiet"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false } };
  const drawn = lines.map(({ name, color, dash, points = false }) => ({
    label: name,
    stroke: colour(color),
    width: dash ? 1.5 : 2,
    dash,
    spanGaps: true,
    points: { show: points, size: 6 },
    value: (_, value) => (value === null ? "" : format(value)),
  }));
  return {
    width,
    height: HEIGHT,
    scales: { x: { time: false }, y: { range: (_, low, high) => [0, Math.max(high, low, 1e-9) * 1.1] } },
    axes: [{ ...axis, label: of, labelSize: 18, size: 32 }, { ...axis, size: 64, values: (_, all) => all.map(format), ...(steps && { incrs: steps }) }],
    series: [{ label: of }, ...drawn],
    cursor: { drag: { x: false, y: false } },
    legend: { live: true },
  };
}

// `xs` are on the axis `of`; `lines` are { name, color, dash, points, values }, null where there is no value, which `format`
// writes. Ticks are in one of the `steps`, if any; the table has the `rows`, by index.
export function Chart(props) {
  const { xs, lines, of, label, format, rows } = props;
  const place = useRef(null);
  const plot = useRef(null);
  const shown = useRef(props);
  shown.current = props;
  const data = [xs, ...lines.map(({ values }) => values)];

  useEffect(() => {
    const build = () => {
      plot.current?.destroy();
      const width = place.current.clientWidth;
      const { xs: now, lines: drawn } = shown.current;
      plot.current = width ? new uPlot(options(width, shown.current), [now, ...drawn.map(({ values }) => values)], place.current) : null;
    };
    const observer = new ResizeObserver(() => {
      if (!plot.current) build();
      else plot.current.setSize({ width: place.current.clientWidth, height: HEIGHT });
    });
    observer.observe(place.current);
    dark.addEventListener("change", build);
    return () => {
      observer.disconnect();
      dark.removeEventListener("change", build);
      plot.current?.destroy();
      plot.current = null; // the next one is drawn with as many lines as there are then
    };
  }, [lines.length]);
  useEffect(() => plot.current?.setData(data), [JSON.stringify(data)]);

  function move(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || !plot.current) return;
    event.preventDefault();
    const index = Math.min(xs.length - 1, Math.max(0, (plot.current.cursor.idx ?? (by > 0 ? -1 : xs.length)) + by));
    const value = lines.map(({ values }) => values[index]).find((one) => one !== null) ?? 0;
    plot.current.setCursor({ left: plot.current.valToPos(xs[index], "x"), top: plot.current.valToPos(value, "y") });
  }

  return html`<figure>
    <div class="chart" ref=${place} role="group" tabindex="0" aria-label=${t("{label}; arrow keys move along it", { label })} onKeyDown=${move}></div>
    <details>
      <summary class="quiet">${t("{label} as a table", { label })}</summary>
      <div class="scroll"><table>
        <thead><tr><th scope="col">${of}</th>${lines.map(({ name }) => html`<th scope="col">${name}</th>`)}</tr></thead>
        <tbody>${rows.map((index) => html`<tr key=${index}><th scope="row">${xs[index]}</th>${lines.map(({ values }) => html`<td>${values[index] === null ? "" : format(values[index])}</td>`)}</tr>`)}</tbody>
      </table></div>
    </details>
  </figure>`;
}
