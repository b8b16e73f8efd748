// The dashboard: polls the daemon every few seconds and shows its state. Text is only ever set as textContent.

import { get, keepToken, post } from "./api.js";
import { draw, series } from "./chart.js";
import * as format from "./format.js";
import { $, profilesOf, setText, showState } from "./header.js";

const POLL_MS = 1000 * Number(document.body.dataset.pollS);
const LEAST = 2; // pieces of feedback that a job needs
const seen = new Map(); // the values each part was drawn from: it is redrawn only after a change
let profile = "default";
let running = null; // id of the unfinished job
let asking = false; // true while the request of "Adapt now" is pending
let timer;
let turn = Promise.resolve(); // polls run one after another, so that no old answer replaces a newer one
let ended = { id: null, progress: [] }; // cached: the progress of a finished job does not change
const nothing = { progress: [], width: 0 };
let drawn = nothing; // what the curve shows

function element(name, text, attributes = {}) {
  const node = document.createElement(name);
  node.textContent = text;
  Object.assign(node, attributes);
  return node;
}

function changed(part, ...values) {
  const now = JSON.stringify(values);
  if (seen.get(part) === now) return false;
  seen.set(part, now);
  return true;
}

function button(text, action, errorId) {
  const node = element("button", text, { type: "button" });
  node.addEventListener("click", () => act(node, action, errorId));
  return node;
}

// Run `action` with `node` busy, then show an error or the new state. The focus stays, or goes to the part's title.
async function act(node, action, errorId) {
  if (node.getAttribute("aria-busy") === "true") return;
  const title = node.closest("section").querySelector("h2");
  setText(errorId, null);
  node.setAttribute("aria-busy", "true");
  try {
    await action();
  } catch (error) {
    setText(errorId, format.sentence(error.message));
  }
  node.setAttribute("aria-busy", "false");
  await refresh();
  if (document.activeElement === document.body) (node.isConnected && !node.disabled ? node : title).focus();
}

// Ask before something that cannot be undone; resolves to whether it is wanted.
function confirmed(question, label) {
  const dialog = element("dialog", "");
  const answers = [[label, "yes", "danger"], ["Keep", "", ""]].map(([text, value, className]) => {
    const node = element("button", text, { type: "button", className });
    node.addEventListener("click", () => dialog.close(value));
    return node;
  });
  dialog.append(element("p", question), ...answers);
  document.body.append(dialog);
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    dialog.showModal();
  });
}

function showFacts(info) {
  const { feedback, memory, schedule } = info;
  const facts = [
    ["Model", info.model ? info.model.name : "not loaded yet"],
    ["Serving", format.label(info.serving[profile] ?? "base")],
    ["Feedback", `${feedback.total} (${format.count(feedback.corrections, "correction")}, ${feedback.liked} liked)`],
    ["Replies", String(info.interactions)],
    ["Memory", format.bytes(memory.rss_bytes + memory.endpoint_bytes) + (memory.endpoint_bytes ? "" : ", model unloaded")],
    ["Next scheduled run", schedule.next_run ? format.time(schedule.next_run) : "none"],
  ];
  if (changed("facts", facts)) {
    $("facts").replaceChildren(...facts.map(([name, value]) => pair(name, value)));
  }
}

function showIdleChecks(night) {
  setText("idle-message", format.sentence(night.words));
  if (!changed("checks", night.checks)) return;
  $("checks").replaceChildren(...night.checks.map(checkRow));
}

function checkRow(check) {
  const row = element("li", "", { className: check.state });
  row.append(element("strong", check.name), element("span", check.words, { className: "quiet" }));
  if (check.state !== "fine") row.append(element("span", check.state, { className: `pill ${check.state === "against" ? "bad" : ""}` }));
  return row;
}

function showRuns({ runs }) {
  if (!changed("runs", runs)) return;
  $("runs-none").hidden = runs.length > 0;
  $("runs").replaceChildren(...runs.map(runRow));
}

function runRow(run) {
  const row = element("li", "");
  row.append(element("strong", format.time(run.scheduled)), element("span", run.reason, { className: "quiet" }));
  row.append(element("span", run.outcome, { className: `pill ${{ ran: "good", missed: "bad" }[run.outcome] ?? ""}` }));
  return row;
}

function pair(name, value) {
  const node = element("div", "");
  node.append(element("dt", name), element("dd", value));
  return node;
}

function showProfiles(info) {
  const names = profilesOf(info);
  if (changed("profiles", names)) {
    $("profile").replaceChildren(...names.map((name) => element("option", name, { value: name })));
    $("profile").value = profile;
  }
  $("profile-label").hidden = names.length < 2;
}

function showAdaptButton(info) {
  const node = $("adapt");
  const busy = asking || Boolean(running);
  const { corrections, liked, stated = 0 } = info.feedback;
  const lacking = info.model && corrections + liked + stated < LEAST;
  node.disabled = busy || !info.model || lacking;
  setText("adapt-why", lacking ? `Two corrections or liked replies are needed to learn from, one to train on and one to compare by. There ${corrections + liked + stated === 1 ? "is one" : "are none"} yet.` : null);
  node.textContent = busy ? "Adapting…" : "Adapt now";
  node.setAttribute("aria-busy", String(busy));
}

function showJob(job, progress) {
  if (!changed("job", job, progress.length, progress.at(-1))) return;
  const unfinished = format.UNFINISHED.includes(job.status);
  setText("job-title", unfinished ? "Adaptation" : "Last adaptation");
  setText("job-status", format.status(job));
  $("job-status").className = `pill ${format.mood(job)}`;
  const learned = job.spec?.train ? `${format.count(job.spec.train, "example")} to learn, ${job.spec.heldout} held out` : "";
  const parts = [format.time(job.created), format.trigger(job), `profile ${job.profile}`, learned, format.pauses(job)];
  setText("job-when", parts.filter(Boolean).join(" · "));
  showActions(job);
  showProgress(job, progress.at(-1));
  showCurve(progress);
  setText("verdict-title", format.verdictTitle(job));
  $("verdict-reasons").replaceChildren(...format.reasons(job).map((reason) => element("li", reason)));
  $("verdict").hidden = unfinished;
  showMemory(job, progress);
}

function showActions(job) {
  const verbs = { queued: ["cancel"], running: ["pause", "cancel"], paused: ["resume", "cancel"] }[job.status] ?? [];
  const named = (verb) => verb.charAt(0).toUpperCase() + verb.slice(1);
  const order = (verb) => post(`jobs/${job.id}/${verb}`);
  const ask = () => confirmed("Cancel this job? What it has learned so far is lost; the version in use stays.", "Cancel the job");
  const does = { cancel: async () => (await ask()) && order("cancel") };
  const buttons = verbs.map((verb) => button(named(verb), does[verb] ?? (() => order(verb)), "adapt-error"));
  if (changed("actions", job.id, verbs)) $("job-actions").replaceChildren(...buttons);
}

function showProgress(job, line) {
  $("job-progress").hidden = !format.UNFINISHED.includes(job.status);
  setText("job-step", format.state(job.state, line));
  if (!line) return $("job-bar").removeAttribute("value");
  $("job-bar").max = line.steps || 1;
  $("job-bar").value = line.step ?? 0;
}

function showCurve(progress) {
  const lines = series(progress);
  $("curve").hidden = lines.train.length + lines.heldout.length === 0;
  if ($("curve").hidden) {
    drawn = nothing; // or a new width would bring the curve of another job back
    return $("chart").replaceChildren();
  }
  const text = format.curve(lines);
  setText("curve-caption", text);
  drawn = { progress, width: $("chart").clientWidth };
  $("chart").replaceChildren(draw(lines, progress.at(-1).steps, Math.max(drawn.width, 240), text));
}

function showMemory(job, progress) {
  const peak = job.peak_bytes ?? Math.max(0, ...progress.map((line) => line.rss_bytes ?? 0));
  $("memory").hidden = !peak || !job.budget_bytes;
  if ($("memory").hidden) return;
  const share = Math.round((100 * peak) / job.budget_bytes);
  Object.assign($("memory-bar"), { max: job.budget_bytes, value: peak });
  const predicted = job.state?.predicted_peak_bytes ?? job.result?.predicted_peak_bytes;
  const forecast = predicted ? ` Predicted: ${format.bytes(predicted)}.` : "";
  setText("memory-caption", `Peak ${format.bytes(peak)} of a budget of ${format.bytes(job.budget_bytes)} (${share}%).${forecast}`);
}

function showAdapters(list) {
  if (!changed("adapters", list)) return;
  const active = list.adapters.find((adapter) => adapter.active);
  $("rollback").disabled = !active;
  setText("rollback", active ? `Roll back to ${format.label(active.parent)}` : "Roll back");
  const base = { version: "base", active: list.active === "base" };
  $("adapters").replaceChildren(...[...list.adapters].reverse().concat(base).map(adapterRow));
}

function adapterRow(adapter) {
  const row = element("li", "");
  const { version, created, example_ids: examples = [], losses = {} } = adapter;
  const about = [format.time(created), `from ${format.label(adapter.parent)}`, format.count(examples.length, "example")];
  if (Number.isFinite(losses.heldout)) about.push(`held-out loss ${format.loss(losses.heldout)}`);
  row.append(element("strong", version));
  row.append(element("span", version === "base" ? "the model without an adapter" : about.join(" · "), { className: "quiet" }));
  row.append(adapter.active ? element("span", "active", { className: "pill good" }) : activateButton(version));
  return row;
}

function activateButton(version) {
  const path = `adapters/${version}/activate?profile=${profile}`;
  const node = button("Activate", () => post(path), "adapters-error");
  node.setAttribute("aria-label", `Activate ${version}`);
  return node;
}

async function latestJob() {
  return running ? get(`jobs/${running}`) : (await get(`jobs?limit=1&profile=${profile}`)).jobs[0];
}

async function progressOf(job) {
  if (ended.id === job.id) return ended.progress;
  const { progress } = await get(`jobs/${job.id}/progress`);
  if (job.finished) ended = { id: job.id, progress };
  return progress;
}

async function poll() {
  const info = await get("info");
  running = info.job;
  showState(info);
  showProfiles(info);
  showFacts(info);
  showIdleChecks(info.night);
  showAdaptButton(info);
  const job = await latestJob();
  if (job) showJob(job, await progressOf(job));
  else if (changed("job", profile)) clearJob();
  showAdapters(await get(`adapters?profile=${profile}`));
  showRuns(await get(`schedule/runs?limit=7&profile=${profile}`));
}

function clearJob() {
  setText("job-when", "Nothing has been learned yet. Correct a reply, then press “Adapt now”.");
  $("job-actions").replaceChildren();
  seen.delete("actions");
  showCurve([]);
  for (const id of ["job-status", "job-progress", "verdict", "memory"]) $(id).hidden = true;
}

function refresh() {
  turn = turn.then(pollOrShowError);
  return turn;
}

async function pollOrShowError() {
  clearTimeout(timer);
  try {
    await poll();
    $("token-form").hidden = true;
  } catch (error) {
    $("token-form").hidden = error.status !== 401;
    setText("notice", error.status === 401 ? null : format.sentence(error.message));
    setText("state", "no answer");
    $("state").className = "state bad";
    $("adapt").disabled = true;
  }
  if (!document.hidden) timer = setTimeout(refresh, POLL_MS);
}

$("adapt").addEventListener("click", () => {
  asking = true;
  $("adapt").textContent = "Adapting…";
  act($("adapt"), () => post("jobs", { profile }).finally(() => (asking = false)), "adapt-error");
});
$("rollback").addEventListener("click", () =>
  act($("rollback"), () => post(`adapters/rollback?profile=${profile}`), "adapters-error"),
);
$("profile").addEventListener("change", () => {
  profile = $("profile").value;
  refresh();
});
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken($("token").value);
  refresh();
});
document.addEventListener("visibilitychange", refresh);
new ResizeObserver(() => {
  const width = $("chart").clientWidth;
  if (width && width !== drawn.width && drawn.progress.length) showCurve(drawn.progress);
}).observe($("chart"));
refresh();
