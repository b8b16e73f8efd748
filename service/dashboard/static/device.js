// The device: whether it may learn now and why not, what memory each part takes, and what is wrong.

import { facts } from "./facts.js";
import * as format from "./format.js";
import { own } from "./header.js";
import { show, useDaemon, waiting } from "./parts.js";
import { html } from "./vendor/preact-htm-3.1.1.module.js";
import { locale, nodes, plural, said, t } from "./words.js";

const NAMES = { cpu: t("Other programs"), window: t("Schedule"), pressure: t("Memory pressure") };
// What each check looks at, and what would change its answer.
const HELP = {
  memory: t("Close a program that takes much, or choose a smaller model in the settings."),
  disk: t("Make room: old recordings, old versions of other programs."),
  heat: t("It goes on by itself once the device has cooled."),
  battery: t("Plug it in, or allow learning on battery in the settings."),
};

const LOG = html`<code>journalctl --user -u lars-agent</code>`;
const DOCTOR = html`<code>lars-agent doctor</code>`;

function Device() {
  const { info, problem } = useDaemon();
  if (!info) return waiting(problem);
  const { memory, night, schedule, model } = info;
  const parts = [
    [t("Daemon"), memory.rss_bytes],
    [t("Replies"), memory.endpoint_bytes],
    [t("Learning"), memory.worker_bytes],
  ].map(([name, bytes]) => [name, bytes ? format.bytes(bytes) : t("not running")]);
  const against = night.checks.filter((check) => check.state === "against");
  const unknown = night.checks.filter((check) => check.state === "unknown");
  const about = [
    [t("Model"), model ? `${model.name} (${model.dtype})` : (said(info.loading) ?? t("not loaded"))],
    [t("Next scheduled run"), schedule.enabled ? (schedule.next_run ? format.time(schedule.next_run) : t("none")) : t("the schedule is off")],
    [t("Running since"), format.time(new Date(Date.now() - 1000 * info.uptime_s).toISOString())],
    [t("Free disk"), info.free_disk_bytes === null ? t("unknown") : format.bytes(info.free_disk_bytes)],
    [t("Replies given"), info.interactions.toLocaleString(locale)],
    [t("Version"), info.version],
  ];
  const budget = { budget: format.bytes(memory.budget_bytes) };
  const limit =
    memory.limit === "cgroup"
      ? t("Learning keeps within {budget}, which the system enforces; weights that both processes read are in memory once but counted in each.", budget)
      : t("Learning keeps within {budget}, which it watches itself; weights that both processes read are in memory once but counted in each.", budget);
  const wrong = [info.loading_error, ...info.problems].filter(Boolean);
  return html`
    ${wrong.length > 0 && html`<section aria-labelledby="wrong-title">
      <h2 id="wrong-title">${t("What is wrong")}</h2>
      ${wrong.map((text) => html`<p class="error">${format.sentence(said(text))}</p>`)}
      <p class="quiet">${nodes("The daemon goes on trying. Its log says more: {log}; {doctor} looks at settings, disk, memory and model.", { log: LOG, doctor: DOCTOR })}</p>
    </section>`}
    <section aria-labelledby="now-title">
      <h2 id="now-title">${t("May it learn now?")}</h2>
      <p id="idle-message">${format.sentence(said(night.words))}</p>
      <ul id="checks" class="checks">
        ${night.checks.filter((check) => check.state !== "unknown").map((check) => html`<${Check} key=${check.name} check=${check} />`)}
      </ul>
      ${against.length === 0 && html`<p class="quiet">${t("Nothing stands against it.")}</p>`}
      ${unknown.length > 0 && html`<details>
        <summary class="quiet">${plural(unknown.length, "{number} thing that this device does not tell", "{number} things that this device does not tell")}</summary>
        <ul class="checks">${unknown.map((check) => html`<${Check} key=${check.name} check=${check} />`)}</ul>
      </details>`}
    </section>
    <section aria-labelledby="memory-title">
      <h2 id="memory-title">${t("Memory")}</h2>
      ${facts("memory", parts)}
      <p class="quiet">${limit}</p>
    </section>
    <section aria-labelledby="device-title">
      <h2 id="device-title">${t("This device")}</h2>
      ${facts("facts", about)}
      <p class="quiet"><a href="docs">${t("The API")}</a>${!own && html` · <a href="preferences">${t("Settings")}</a>`}</p>
    </section>
  `;
}

const Check = ({ check }) => html`<li class=${check.state}>
  <strong>${NAMES[check.name] ?? format.sentence(said(check.name)).slice(0, -1)}</strong>
  <span class="quiet">${format.sentence(said(check.words))} ${check.state === "against" && HELP[check.name]}</span>
  ${check.state === "against" && html`<span class="pill bad">${t("against")}</span>`}
</li>`;

show(html`<${Device} />`, "device-page");
