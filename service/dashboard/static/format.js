// Format numbers, times and states for the dashboard.

const STATUS = {
  queued: "queued",
  running: "running",
  paused: "paused",
  succeeded: "published",
  rejected: "rejected",
  failed: "failed",
  cancelled: "cancelled",
};
const PHASES = { loading: "loading the model", training: "training", judging: "evaluating", done: "deciding" };
const TRIGGERS = { manual: "started here", schedule: "scheduled", cli: "started on the command line" };

export const UNFINISHED = ["queued", "running", "paused"];
export const status = (job) => STATUS[job.status] ?? job.status;
export const phase = (line) => PHASES[line.phase] ?? line.phase;

// How far a job is, how long it will take, and what it waits for.
export function state(now, line) {
  const done = line ? `${phase(line)}, step ${line.step ?? 0} of ${line.steps}` : "preparing";
  const left = Number.isFinite(now?.seconds_left) ? `, ${duration(now.seconds_left)} left` : "";
  return now?.waiting_for.length ? `${done}; waiting: ${now.waiting_for.join("; ")}` : done + left;
}

export const duration = (seconds) => (seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`);
export const trigger = (job) => TRIGGERS[job.trigger] ?? job.trigger;
export const mood = (job) => ({ succeeded: "good", rejected: "bad", failed: "bad" })[job.status] ?? "";
export const label = (version) => (version === "base" ? "base model" : version);
export const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
export const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
export const loss = (value) => (Number.isFinite(value) ? value.toPrecision(3) : "none");

export function bytes(number) {
  const gib = number / 2 ** 30;
  return gib >= 1 ? `${gib.toFixed(2)} GiB` : `${(number / 2 ** 20).toFixed(0)} MiB`;
}

export function pauses(job) {
  const held = Object.entries(job.pauses ?? {}).map(([name, { count: times, seconds }]) => `${name} ${times}x, ${Math.round(seconds)} s`);
  return held.length ? `paused for ${held.join("; ")}` : "";
}

export function time(iso) {
  const when = new Date(iso);
  return Number.isNaN(when.getTime()) ? iso : when.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

export function verdictTitle(job) {
  if (job.status === "succeeded") return `Better than before: published as ${job.version ?? "a new version"}.`;
  if (job.verdict && !job.verdict.accepted) return "Not better than before: it was not published.";
  if (job.status === "cancelled") return "Cancelled: the active adapter stays active.";
  return job.status === "failed" ? "The job failed." : "";
}

export function reasons(job) {
  const given = job.verdict?.reasons ?? [];
  if (job.status === "failed" && job.error) return [...given, job.error];
  return given.length || !job.error ? given : [job.error];
}

// How many replies of some scores are right word for word.
export const rights = (scores) => [...(scores?.whole ?? "")].filter((mark) => mark === "1").length;
