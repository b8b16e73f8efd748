// The device: whether it may learn now and why not, what memory each part takes, and what is wrong.

import { facts } from "./facts.js";
import * as format from "./format.js";
import { show, useDaemon, waiting } from "./parts.js";
import { html } from "./vendor/preact-htm-3.1.1.module.js";

const NAMES = { cpu: "Other programs", window: "Schedule", pressure: "Memory pressure" };
// What each check looks at, and what would change its answer.
const HELP = {
  memory: "Close a program that takes much, or choose a smaller model in the settings.",
  disk: "Make room: old recordings, old versions of other programs.",
  heat: "It goes on by itself once the device has cooled.",
  battery: "Plug it in, or allow learning on battery in the settings.",
};

function Device() {
  const { info, problem } = useDaemon();
  if (!info) return waiting(problem);
  const { memory, night, schedule, model } = info;
  const parts = [
    ["Daemon", memory.rss_bytes],
    ["Replies", memory.endpoint_bytes],
    ["Learning", memory.worker_bytes],
  ].map(([name, bytes]) => [name, bytes ? format.bytes(bytes) : "not running"]);
  const against = night.checks.filter((check) => check.state === "against");
  const unknown = night.checks.filter((check) => check.state === "unknown");
  const about = [
    ["Model", model ? `${model.name} (${model.dtype})` : (info.loading ?? "not loaded")],
    ["Next scheduled run", schedule.enabled ? (schedule.next_run ? format.time(schedule.next_run) : "none") : "the schedule is off"],
    ["Running since", format.time(new Date(Date.now() - 1000 * info.uptime_s).toISOString())],
    ["Free disk", info.free_disk_bytes === null ? "unknown" : format.bytes(info.free_disk_bytes)],
    ["Replies given", String(info.interactions)],
    ["Version", info.version],
  ];
  const wrong = [info.loading_error, ...info.problems].filter(Boolean);
  return html`
    ${wrong.length > 0 && html`<section aria-labelledby="wrong-title">
      <h2 id="wrong-title">What is wrong</h2>
      ${wrong.map((text) => html`<p class="error">${format.sentence(text)}</p>`)}
      <p class="quiet">The daemon goes on trying. Its log says more: <code>journalctl --user -u lars-agent</code>; <code>lars-agent doctor</code> looks at settings, disk, memory and model.</p>
    </section>`}
    <section aria-labelledby="now-title">
      <h2 id="now-title">May it learn now?</h2>
      <p id="idle-message">${format.sentence(night.words)}</p>
      <ul id="checks" class="checks">
        ${night.checks.filter((check) => check.state !== "unknown").map((check) => html`<${Check} key=${check.name} check=${check} />`)}
      </ul>
      ${against.length === 0 && html`<p class="quiet">Nothing stands against it.</p>`}
      ${unknown.length > 0 && html`<details>
        <summary class="quiet">${format.count(unknown.length, "thing")} that this device does not tell</summary>
        <ul class="checks">${unknown.map((check) => html`<${Check} key=${check.name} check=${check} />`)}</ul>
      </details>`}
    </section>
    <section aria-labelledby="memory-title">
      <h2 id="memory-title">Memory</h2>
      ${facts("memory", parts)}
      <p class="quiet">Learning keeps within ${format.bytes(memory.budget_bytes)}, ${memory.limit === "cgroup" ? "which the system enforces" : "which it watches itself"}; weights that both processes read are in memory once but counted in each.</p>
    </section>
    <section aria-labelledby="device-title">
      <h2 id="device-title">This device</h2>
      ${facts("facts", about)}
      <p class="quiet"><a href="docs">The API</a> · <a href="preferences">Settings</a></p>
    </section>
  `;
}

const Check = ({ check }) => html`<li class=${check.state}>
  <strong>${NAMES[check.name] ?? format.sentence(check.name).slice(0, -1)}</strong>
  <span class="quiet">${format.sentence(check.words)} ${check.state === "against" && HELP[check.name]}</span>
  ${check.state === "against" && html`<span class="pill bad">against</span>`}
</li>`;

show(html`<${Device} />`, "device-page");
