// Format numbers, times and states for the dashboard.

import { locale, said, t } from "./words.js";

const STATUS = {
  queued: t("queued"),
  running: t("running"),
  paused: t("paused"),
  succeeded: t("published"),
  rejected: t("rejected"),
  failed: t("failed"),
  cancelled: t("cancelled"),
};
const PHASES = { loading: t("loading the model"), training: t("training"), judging: t("evaluating"), done: t("deciding") };
const TRIGGERS = { manual: t("started here"), schedule: t("scheduled"), cli: t("started on the command line") };

export const UNFINISHED = ["queued", "running", "paused"];
export const status = (job) => STATUS[job.status] ?? job.status;
export const phase = (line) => PHASES[line.phase] ?? line.phase;

// How far a job is, how long it will take, and what it waits for.
export function state(now, line) {
  const done = line ? t("{phase}, step {step} of {steps}", { phase: phase(line), step: line.step ?? 0, steps: line.steps }) : t("preparing");
  if (now?.waiting_for.length) return t("{state}; waiting: {reasons}", { state: done, reasons: now.waiting_for.map(said).join("; ") });
  return Number.isFinite(now?.seconds_left) ? t("{state}, {time} left", { state: done, time: duration(now.seconds_left) }) : done;
}

export const duration = (seconds) => (seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`);
export const trigger = (job) => TRIGGERS[job.trigger] ?? job.trigger;
export const mood = (job) => ({ succeeded: "good", rejected: "bad", failed: "bad" })[job.status] ?? "";
export const label = (version) => (version === "base" ? t("base model") : version);
export const sentence = (text) => `${text.charAt(0).toLocaleUpperCase(locale)}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;

export function loss(value) {
  return Number.isFinite(value) ? value.toLocaleString(locale, { minimumSignificantDigits: 3, maximumSignificantDigits: 3 }) : t("none");
}

export function bytes(number) {
  const [size, digits, unit] = number >= 2 ** 30 ? [2 ** 30, 2, "GiB"] : [2 ** 20, 0, "MiB"];
  return `${(number / size).toLocaleString(locale, { minimumFractionDigits: digits, maximumFractionDigits: digits })} ${unit}`;
}

export function pauses(job) {
  const held = Object.entries(job.pauses ?? {}).map(([name, { count: times, seconds }]) => t("{reason} {times}x, {time}", { reason: said(name), times, time: `${Math.round(seconds)} s` }));
  return held.length ? t("paused for {reasons}", { reasons: held.join("; ") }) : "";
}

export function time(iso) {
  const when = new Date(iso);
  return Number.isNaN(when.getTime()) ? iso : when.toLocaleString(locale, { dateStyle: "medium", timeStyle: "short" });
}

export function verdictTitle(job) {
  if (job.status === "succeeded") return job.version ? t("Better than before: published as {version}.", { version: job.version }) : t("Better than before: published as a new version.");
  if (job.verdict && !job.verdict.accepted) return t("Not better than before: it was not published.");
  if (job.status === "cancelled") return t("Cancelled: the active adapter stays active.");
  return job.status === "failed" ? t("The job failed.") : "";
}

export function reasons(job) {
  const given = job.verdict?.reasons ?? [];
  const shown = (job.status === "failed" || !given.length) && job.error ? [...given, job.error] : given;
  return shown.map(said);
}

// How many replies of some scores are right word for word.
export const rights = (scores) => [...(scores?.whole ?? "")].filter((mark) => mark === "1").length;
