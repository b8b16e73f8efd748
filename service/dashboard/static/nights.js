// The nights: what became of each scheduled run and why, and how much came out right job by job.

import * as format from "./format.js";
import { html } from "./vendor/preact-htm-3.1.1.module.js";
import { locale, said, t } from "./words.js";

export const WEEKS = 5;
const LISTED = 14;
const DAY_MS = 24 * 3600 * 1000;
// What can become of a night: a mark, its colour, its words.
const MARKS = {
  succeeded: ["●", "good", t("published")],
  rejected: ["◐", "bad", t("not better, not published")],
  failed: ["✕", "bad", t("failed")],
  cancelled: ["◌", "", t("cancelled")],
  running: ["▶", "", t("running")],
  ran: ["●", "", t("ran")],
  waiting: ["…", "", t("waiting for the device to be idle")],
  missed: ["○", "bad", t("missed")],
  skipped: ["–", "", t("nothing to learn")],
};
const dayOf = (date) => date.toLocaleDateString("sv"); // YYYY-MM-DD, of this place

// What became of a run: its job's end where it has one.
const markOf = (run, jobs) => MARKS[(run.outcome === "ran" && jobs.find((job) => job.id === run.job_id)?.status) || run.outcome] ?? MARKS.ran;

export function Calendar({ runs, jobs }) {
  const byDay = new Map([...runs].reverse().map((run) => [dayOf(new Date(run.scheduled)), run]));
  const today = new Date();
  const behind = (today.getDay() + 6) % 7; // days since Monday
  const days = Array.from({ length: 7 * (WEEKS - 1) + behind + 1 }, (_, index) => new Date(today.getTime() - (7 * (WEEKS - 1) + behind - index) * DAY_MS));
  const last = runs[0];
  return html`<section aria-labelledby="nights-title">
    <h2 id="nights-title">${t("Nights")}</h2>
    ${last ? html`<p>${format.time(last.scheduled)}: ${markOf(last, jobs)[2]}. <span class="quiet">${format.sentence(said(last.reason))}</span></p>` : html`<p class="quiet">${t("No scheduled run yet.")}</p>`}
    ${last && html`
      <ol class="calendar" aria-label=${t("The last five weeks")}>
        ${days.map((day) => {
          const run = byDay.get(dayOf(day));
          const [mark, mood, words] = run ? markOf(run, jobs) : ["", "", t("no run")];
          return html`<li key=${dayOf(day)} class=${mood} title=${run ? words : undefined}>
            <span class="quiet" aria-hidden="true">${day.getDate()}</span><span class="mark" aria-hidden="true">${mark}</span>
            <span class="unseen">${day.toLocaleDateString(locale, { dateStyle: "medium" })}: ${words}</span>
          </li>`;
        })}
      </ol>
      <details>
        <summary>${t("Each night and its reason")}</summary>
        <ul class="runs">
          ${runs.slice(0, LISTED).map((run) => {
            const [mark, mood, words] = markOf(run, jobs);
            return html`<li key=${run.scheduled}><strong>${format.time(run.scheduled)}</strong><span class="quiet">${format.sentence(said(run.reason))}</span><span class=${`pill ${mood}`}>${mark} ${words}</span></li>`;
          })}
        </ul>
      </details>`}
  </section>`;
}

// The corrections that came out right after each judged job, oldest first, as bars with numbers.
export function Gains({ jobs }) {
  const judged = jobs.filter((job) => job.verdict?.candidate?.whole).reverse();
  if (judged.length < 2) return null;
  return html`<h3>${t("Corrections right word for word, job by job")}</h3>
    <ul class="nights">
      ${judged.map((job) => {
        const { whole } = job.verdict.candidate;
        const right = format.rights(job.verdict.candidate);
        const share = t("{right} of {total}", { right, total: whole.length });
        return html`<li key=${job.id}>
          <span class="quiet">${format.time(job.finished)}</span>
          <meter min="0" max=${whole.length} value=${right} aria-label=${share}></meter>
          <span>${share}</span>
          <span class=${`pill ${format.mood(job)}`}>${job.version ?? format.status(job)}</span>
        </li>`;
      })}
    </ul>`;
}
