// A profile's newest job: starting one, how far it is and what it waits for, its curves, and how it ended.

import { get, post } from "./api.js";
import { Chart } from "./chart.js";
import * as format from "./format.js";
import { Confirmed } from "./parts.js";
import { html, useLayoutEffect, useRef, useState } from "./vendor/preact-htm-3.1.1.module.js";
import { locale, plural, t } from "./words.js";

const POLL_MS = 3000;
const LEAST = 2; // pieces of feedback that a job needs
const MOST_ROWS = 20; // of a curve's table
const SIZES = Array.from({ length: 16 }, (_, power) => 2 ** (24 + power)); // bytes
const PHASES = [["waiting", t("Wait")], ["preparing", t("Prepare")], ["training", t("Learn")], ["judging", t("Judge")], ["publishing", t("Publish")]];
const isUnfinished = (job) => Boolean(job) && format.UNFINISHED.includes(job.status);

// The newest job and its progress, read again with each state of the daemon, and more often while it is unfinished. They
// are replaced as a whole, so that nothing of one job is shown as another's.
export function useJob(profile, info, refresh) {
  const [shown, setShown] = useState(null);
  const known = useRef(null);
  const turn = useRef(0);

  async function read() {
    const number = ++turn.current; // an answer that a later question has overtaken is not shown
    const { jobs } = await get(`jobs?limit=1&profile=${encodeURIComponent(profile)}`);
    const job = jobs[0] ?? null;
    const before = known.current?.job?.id === job?.id ? (known.current?.progress ?? []) : [];
    const more = job ? (await get(`jobs/${job.id}/progress?skip=${before.length}`)).progress : [];
    if (number !== turn.current) return;
    const was = known.current;
    known.current = { profile, job, progress: [...before, ...more] };
    setShown(known.current);
    if (was?.profile === profile && was.job?.status !== job?.status) refresh(); // so that the header does not contradict it
  }

  const job = shown?.profile === profile ? shown.job : null;
  useLayoutEffect(() => {
    if (!info) return;
    const quietly = () => read().catch(() => {}); // the header says it
    quietly();
    const timer = isUnfinished(job) && setInterval(() => document.hidden || quietly(), POLL_MS);
    return () => timer && clearInterval(timer);
  }, [profile, info, isUnfinished(job)]);
  return { job, progress: job ? shown.progress : [], isKnown: shown?.profile === profile, read };
}

export function Job({ profile, info, job, progress, read, attempt, refresh }) {
  const [isAsking, setAsking] = useState(false);
  const title = useRef(null);
  const runs = isUnfinished(job);
  const why = reasonAgainst(info, job, profile);

  async function order(path, body) {
    await attempt(() => post(path, body));
    await read().catch(() => {}); // the header says it
    refresh();
  }

  async function learn() {
    if (why || isAsking) return;
    setAsking(true);
    await order("jobs", { profile });
    setAsking(false);
    title.current.focus();
  }

  async function cancel() {
    await order(`jobs/${job.id}/cancel`);
    title.current.focus();
  }

  return html`<section aria-labelledby="job-title">
    <div class="title">
      <h2 id="job-title" ref=${title} tabindex="-1">${runs ? t("Learning") : t("Learn now")}</h2>
      ${job && html`<span id="job-status" class=${`pill ${format.mood(job)}`} role="status">${format.status(job)}</span>`}
      <span class="actions">
        ${runs && job.status !== "queued" && html`<button type="button" key="hold" onClick=${() => order(`jobs/${job.id}/${job.status === "paused" ? "resume" : "pause"}`)}>${job.status === "paused" ? t("Resume") : t("Pause")}</button>`}
        ${runs && html`<${Confirmed} key=${job.id} label=${t("Cancel the job")} question=${t("What it has learned so far is lost; the version in use stays.")} onDo=${cancel} />`}
        ${!runs && html`<button id="adapt" type="button" class="primary" aria-describedby="adapt-why" aria-disabled=${String(Boolean(why) || isAsking)} onClick=${learn}>${t("Learn now")}</button>`}
      </span>
    </div>
    ${!runs && html`<p id="adapt-why" class="quiet">${why || nextRun(info)}</p>`}
    ${runs && html`<${Progress} job=${job} last=${progress.at(-1)} />`}
    ${job && !runs && html`<h3 id="verdict-title">${format.verdictTitle(job)}</h3>
      <ul id="verdict-reasons">${format.reasons(job).map((reason) => html`<li>${reason}</li>`)}</ul>`}
    ${job && html`<${Curves} key=${job.id} job=${job} progress=${progress} isOpen=${runs} />`}
  </section>`;
}

// Why no job can be started; nothing where one can.
function reasonAgainst(info, job, profile) {
  const lessons = info.lessons[profile] ?? 0;
  if (!info.model) return t("The model is not loaded yet.");
  if (info.job && info.job !== job?.id) return t("Another profile is learning just now; one learns at a time.");
  if (lessons >= LEAST) return "";
  return lessons === 1
    ? t("Two corrections or liked replies are needed to learn from, one to train on and one to compare by. There is one yet.")
    : t("Two corrections or liked replies are needed to learn from, one to train on and one to compare by. There are none yet.");
}

function nextRun({ schedule }) {
  if (!schedule.enabled) return t("The schedule is off: nothing is learned unless you ask for it.");
  return schedule.next_run ? t("Without asking: {time}, or when the device is idle after that.", { time: format.time(schedule.next_run) }) : "";
}

function Progress({ job, last }) {
  const phase = job.status === "queued" ? "waiting" : (job.state?.phase ?? "preparing");
  const now = PHASES.findIndex(([name]) => name === phase);
  const isCounted = phase === "training" && last?.steps;
  return html`
    <ol class="steps">
      ${PHASES.map(([name, words], index) => html`<li key=${name} class=${index < now ? "done" : ""} aria-current=${index === now ? "step" : undefined}>${words}</li>`)}
    </ol>
    ${isCounted ? html`<progress key="counted" aria-label=${t("Training steps")} max=${last.steps} value=${last.step}></progress>` : html`<progress key="uncounted" aria-label=${PHASES[now]?.[1] ?? phase}></progress>`}
    <p id="job-step" class="quiet" role="status">${format.state(job.state, last)}</p>
  `;
}

// Its losses, and its memory against what was predicted and allowed.
function Curves({ job, progress, isOpen }) {
  const lines = progress.filter((line) => line.phase === "training");
  const xs = lines.map((line) => line.step);
  const of = (key) => lines.map((line) => (Number.isFinite(line[key]) ? line[key] : null));
  const always = (value) => xs.map(() => value);
  const rows = xs.map((_, index) => index).filter((index) => lines[index].heldout_loss !== undefined || index === xs.length - 1).slice(-MOST_ROWS);
  const base = job.result?.base?.reply_loss;
  const losses = [
    { name: t("lessons"), color: "train", values: of("loss") },
    { name: t("examples it has not seen"), color: "heldout", points: true, values: of("heldout_loss") },
    ...(Number.isFinite(base) ? [{ name: t("base model"), color: "quiet", dash: [6, 4], values: always(base) }] : []),
  ];
  const predicted = job.state?.predicted_peak_bytes ?? job.result?.predicted_peak_bytes;
  const memory = [
    { name: t("in use"), color: "heldout", values: of("rss_bytes") },
    ...(predicted ? [{ name: t("predicted peak"), color: "quiet", dash: [6, 4], values: always(predicted) }] : []),
    ...(job.budget_bytes ? [{ name: t("budget"), color: "bad", dash: [2, 4], values: always(job.budget_bytes) }] : []),
  ];
  const learned = job.spec?.train ? plural(job.spec.train, "{number} example to learn, {heldout} to judge by", "{number} examples to learn, {heldout} to judge by", { heldout: job.spec.heldout }) : "";
  return html`<details open=${isOpen}>
    <summary>${isOpen ? t("Its numbers") : t("The numbers of the last job")}</summary>
    <p id="job-when" class="quiet">${[format.time(job.created), format.trigger(job), learned, format.pauses(job)].filter(Boolean).join(" · ")}</p>
    ${xs.length > 0 && html`
      <h3>${t("Loss, nats per token; lower is better")}</h3>
      <${Chart} label=${t("Loss")} of=${t("step")} xs=${xs} lines=${losses} rows=${rows} format=${format.loss} />
      <h3>${t("Memory")}</h3>
      <${Chart} label=${t("Memory")} of=${t("step")} xs=${xs} lines=${memory} rows=${rows} format=${format.bytes} steps=${SIZES} />`}
    <p id="memory-caption" class="quiet">${memoryWords(job, lines, predicted)}</p>
  </details>`;
}

function memoryWords(job, lines, predicted) {
  const peak = job.peak_bytes ?? Math.max(0, ...lines.map((line) => line.rss_bytes ?? 0));
  if (!peak || !job.budget_bytes) return "";
  const share = (peak / job.budget_bytes).toLocaleString(locale, { style: "percent" });
  const measured = t("Peak {peak} of a budget of {budget} ({share}).", { peak: format.bytes(peak), budget: format.bytes(job.budget_bytes), share });
  return predicted ? `${measured} ${t("Predicted: {peak}.", { peak: format.bytes(predicted) })}` : measured;
}
