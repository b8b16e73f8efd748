// What the nights taught: how much comes out right, what each version learned, and two versions' replies side by side.

import { get, post } from "./api.js";
import * as format from "./format.js";
import { usual } from "./header.js";
import { Job, useJob } from "./job.js";
import { Calendar, Gains, WEEKS } from "./nights.js";
import { ProfileChoice, question, select, show, useDaemon, waiting } from "./parts.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "./vendor/preact-htm-3.1.1.module.js";
import { nodes, plural, said, t } from "./words.js";

const CHECKED = 20; // lessons of one check, the newest
const LISTED = 100;
const wished = new URLSearchParams(location.search); // by a link from another page
const words = (text) => text.toLocaleLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];

// Whether a reply says what the correction says: its names and numbers, else its words, that the question has not.
function saysIt(reply, row) {
  const text = row.correction ?? row.response;
  const known = new Set([...words(question(row)), "your", "my", "you", "i"]);
  const wanted = words(text).filter((word) => !known.has(word));
  const names = new Set((text.match(/(?<=[^.!?] )\p{Lu}[\p{L}\p{N}]+|\p{N}[\p{L}\p{N}]*/gu) ?? []).flatMap(words));
  const named = wanted.filter((word) => names.has(word));
  const telling = named.length ? named : wanted.filter((word) => word.length > 3);
  const replied = new Set(words(reply));
  return (telling.length ? telling : wanted).every((word) => replied.has(word));
}

async function ask(messages, profile, version) {
  const model = version === "base" ? "base" : `${profile}@${version}`;
  const parameters = { adapter_id: model, recall: false, max_new_tokens: 120, temperature: 0 };
  const answer = await post("generate", { inputs: messages, parameters }, { "LARS-Learn": "off" });
  return answer.generated_text;
}

function Learned() {
  const { info, problem, attempt, refresh } = useDaemon();
  const [profile, setProfile] = useState(wished.get("profile") ?? usual);
  const [list, setList] = useState(null);
  const [jobs, setJobs] = useState([]);
  const [runs, setRuns] = useState([]);
  const [picked, setPicked] = useState(wished.get("version") ?? ""); // whose lessons are shown; empty: the one in use
  const [lessons, setLessons] = useState(null);
  const current = useJob(profile, info, refresh);
  const serving = info?.serving[profile] ?? "base";

  async function read() {
    const query = `profile=${encodeURIComponent(profile)}`;
    const found = await attempt(() => Promise.all([get(`adapters?${query}`), get(`jobs?${query}&limit=30`), get(`schedule/runs?${query}&limit=${7 * WEEKS}`)]));
    if (!found) return;
    const [adapters, { jobs: latest }, { runs: decided }] = found;
    setList(adapters);
    setJobs(latest);
    setRuns(decided);
  }

  const byDefault = list?.active === "base" ? (list.adapters.at(-1)?.version ?? "") : (list?.active ?? "");
  const version = list?.adapters.some((one) => one.version === picked) ? picked : byDefault;

  useLayoutEffect(() => {
    if (info) read();
  }, [profile, serving, info?.job]);
  useLayoutEffect(() => {
    let isCurrent = true;
    setLessons(null);
    if (version) attempt(() => get(`adapters/${version}/feedback?profile=${encodeURIComponent(profile)}`)).then((found) => found && isCurrent && setLessons(found.feedback.reverse()));
    return () => (isCurrent = false);
  }, [profile, version]);

  if (!list || !info || !current.isKnown) return waiting(problem);
  const versions = [...list.adapters].reverse();
  const idsOf = (name) => list.adapters.find((one) => one.version === name)?.example_ids ?? [];
  const parent = list.adapters.find((one) => one.version === version)?.parent;
  const earlier = new Set(idsOf(parent));
  const fresh = lessons?.filter((row) => !earlier.has(row.id)) ?? [];
  const isGrown = lessons && fresh.length < lessons.length;
  const counted = isGrown
    ? plural(lessons.length, "{number} lesson, {fresh} of them new since {version}.", "{number} lessons, {fresh} of them new since {version}.", { fresh: fresh.length, version: format.label(parent) })
    : plural(lessons?.length, "{number} lesson.", "{number} lessons.");
  return html`
    ${problem && html`<p class="error" role="alert">${problem}</p>`}
    <section aria-labelledby="result-title">
      <div class="title">
        <h2 id="result-title">${t("What it learned")}</h2>
        <${ProfileChoice} profile=${profile} onChoose=${(name) => { setList(null); setPicked(""); setProfile(name); }} />
      </div>
      <${Result} jobs=${jobs} list=${list} />
      <${Gains} jobs=${jobs} />
    </section>
    <${Job} key=${profile} ...${current} profile=${profile} info=${info} attempt=${attempt} refresh=${refresh} />
    <${Calendar} runs=${runs} jobs=${jobs} />
    ${versions.length > 0 &&
    html`<${Compare} key=${profile} profile=${profile} versions=${versions} active=${list.active} lessons=${lessons} attempt=${attempt} />
      <section aria-labelledby="lessons-title">
        <div class="title">
          <h2 id="lessons-title">${t("Lessons of")}</h2>
          ${select(version, setPicked, versions.map((one) => [one.version, one.active ? t("{version}, in use", { version: one.version }) : one.version]), t("Lessons of version"))}
        </div>
        ${lessons && html`<p class="quiet">${counted} ${nodes("{data} has all, to edit and forget.", { data: html`<a href="memory">${t("My data")}</a>` })}</p>`}
        <ul class="lessons plain">
          ${lessons?.slice(0, LISTED).map((row) => html`<li key=${row.id}><p class="quiet"><bdi dir="auto">${question(row)}</bdi> ${isGrown && fresh.includes(row) && html`<span class="pill good">${t("new")}</span>`}</p><p dir="auto">${row.correction ?? row.response}</p></li>`)}
        </ul>
        ${lessons?.length > LISTED && html`<p class="quiet">${t("…and {number} earlier ones.", { number: lessons.length - LISTED })}</p>`}
      </section>`}
  `;
}

// The newest verdict in a sentence, with what was left out.
function Result({ jobs, list }) {
  const judged = jobs.find((job) => job.verdict);
  const inUse = list.active === "base" ? t("The base model replies: nothing learned is in use.") : t("{version} replies.", { version: list.active });
  if (!judged && list.adapters.length) return html`<p>${inUse}</p>`; // the record of the job is gone
  if (!judged) return html`<p>${nodes("Nothing has been learned yet. Correct replies on {talk}; they are learned at night, or at once below.", { talk: html`<a href="./">${t("Talk")}</a>` })}</p>`;
  const { candidate, incumbent } = judged.verdict;
  const total = candidate.whole?.length ?? 0;
  const [dropped, masked] = [judged.spec?.dropped, judged.spec?.masked].map((reasons) => Object.entries(reasons ?? {}));
  return html`
    <p><strong>${judged.status === "succeeded" ? t("{version} was published", { version: judged.version }) : t("The last candidate was not published")}</strong>, ${format.time(judged.finished)}. ${inUse}</p>
    ${total > 0 && html`<p>${t("Of {total} corrections that were looked at, {right} come out right word for word, {before} before.", { total, right: format.rights(candidate), before: format.rights(incumbent) })}</p>`}
    ${judged.status !== "succeeded" && judged.verdict.reasons.map((reason) => html`<p class="quiet">${said(reason)}</p>`)}
    ${masked.length > 0 && html`<p class="quiet">${t("Learned without the secrets: {reasons}.", { reasons: masked.map(([reason, number]) => `${number} ${said(reason)}`).join(", ") })}</p>`}
    ${dropped.length > 0 && html`<p class="quiet">${t("Left out: {reasons}.", { reasons: dropped.map(([reason, number]) => `${number} ${said(reason)}`).join(", ") })}</p>`}
  `;
}

// Two versions' replies to one question, blind if wished, and a check of the newest lessons.
function Compare({ profile, versions, active, lessons, attempt }) {
  const names = [...versions.map((one) => one.version), "base"];
  const known = (name) => (names.includes(name) ? name : null);
  const [left, setLeft] = useState(known(wished.get("left")) ?? "base");
  const [right, setRight] = useState(known(wished.get("right")) ?? (active === "base" ? versions[0].version : active));
  const [isBlind, setBlind] = useState(false);
  const [text, setText] = useState("");
  const [shown, setShown] = useState(null);
  const [checked, setChecked] = useState(null);
  const [isReworded, setReworded] = useState(true); // asked in other words than it was told in
  const stop = useRef(false);
  useEffect(() => () => (stop.current = true), []);
  const options = names.map((name) => [name, format.label(name)]);

  async function compare(event) {
    event.preventDefault();
    if (!text.trim()) return;
    const sides = isBlind && Math.random() < 0.5 ? [right, left] : [left, right];
    const asked = { text: text.trim(), sides, replies: [null, null], isHidden: isBlind, better: "" };
    setShown(asked);
    const inputs = [{ role: "user", content: asked.text }];
    for (const [index, side] of sides.entries()) {
      const reply = await attempt(() => ask(inputs, profile, side));
      if (reply === undefined || stop.current) return;
      asked.replies[index] = reply;
      setShown({ ...asked });
    }
  }

  async function check() {
    const rows = lessons.slice(0, CHECKED);
    const found = { total: rows.length, rows: [], isDone: false };
    setChecked(found);
    for (const row of rows) {
      const replies = [];
      const others = isReworded ? await get(`feedback/${row.id}/wordings`).then((found) => found.wordings, () => []) : [];
      const asked = others[0] ?? question(row);
      for (const side of [left, right]) {
        const reply = await attempt(() => ask([...row.messages.slice(0, -1).filter((turn) => turn.role !== "tool" && !turn.tool_calls), { role: "user", content: asked }], profile, side));
        if (reply === undefined || stop.current) return;
        replies.push(reply);
      }
      found.rows.push({ row, asked, replies, marks: replies.map((reply) => saysIt(reply, row)) });
      setChecked({ ...found });
    }
    setChecked({ ...found, isDone: true });
  }

  const side = (index) => html`<div class="side">
    <h3>${shown.isHidden ? [t("Left"), t("Right")][index] : format.label(shown.sides[index])}${shown.better === shown.sides[index] && html` <span class="pill good">${t("better")}</span>`}</h3>
    <p dir="auto">${shown.replies[index] ?? html`<span class="quiet">…</span>`}</p>
    ${shown.isHidden && shown.replies[1] !== null && html`<button type="button" onClick=${() => setShown({ ...shown, isHidden: false, better: shown.sides[index] })}>${t("This one is better")}</button>`}
  </div>`;
  const score = (index) => `${format.label([left, right][index])} ${checked.rows.filter(({ marks }) => marks[index]).length}`;
  const scores = () => ({ number: checked.rows.length, total: checked.total, left: score(0), right: score(1) });
  const isChecking = checked && !checked.isDone;
  return html`<section aria-labelledby="compare-title">
    <h2 id="compare-title">${t("Compare")}</h2>
    <form class="filters" onSubmit=${compare}>
      ${select(left, (name) => { setLeft(name); setChecked(null); }, options, t("Left"))} ${t("with")}
      ${select(right, (name) => { setRight(name); setChecked(null); }, options, t("Right"))}
      <label class="choice"><input type="checkbox" checked=${isBlind} onChange=${(event) => setBlind(event.target.checked)} /> ${t("Blind")}</label>
      <input dir="auto" class="wide" aria-label=${t("Question for both")} placeholder=${t("Ask both…")} value=${text} onInput=${(event) => setText(event.target.value)} />
      <button type="submit" class="primary">${t("Ask both")}</button>
    </form>
    <p class="quiet">${t("By what is learned alone, without recall; nothing of it is kept.")}</p>
    ${shown && html`<div class="sides" role="status">${side(0)}${side(1)}</div>`}
    ${lessons?.length > 0 &&
    html`<p class="filters">
      <button type="button" aria-disabled=${String(Boolean(isChecking))} onClick=${() => isChecking || check()}>${plural(Math.min(CHECKED, lessons.length), "Check {number} lesson", "Check {number} lessons")}</button>
      <label class="choice"><input type="checkbox" checked=${isReworded} onChange=${(event) => setReworded(event.target.checked)} /> ${t("asked in other words")}</label>
      ${checked && html`<span role="status">${isChecking ? t("{number} of {total} asked; right: {left}, {right}.", scores()) : t("Right: {left}, {right}.", scores())}</span>`}
    </p>`}
    ${checked?.rows.length > 0 &&
    html`<div class="scroll"><table>
      <thead><tr><th scope="col">${t("Question")}</th><th scope="col">${format.label(left)}</th><th scope="col">${format.label(right)}</th></tr></thead>
      <tbody>
        ${checked.rows.map(({ row, asked, replies, marks }) => html`<tr key=${row.id}>
          <th scope="row" dir="auto">${asked}</th>
          ${replies.map((reply, index) => html`<td><span class=${`pill ${marks[index] ? "good" : "bad"}`}>${marks[index] ? t("right") : t("wrong")}</span> <bdi dir="auto">${reply}</bdi></td>`)}
        </tr>`)}
      </tbody>
    </table></div>`}
  </section>`;
}

show(html`<${Learned} />`, "learned-page");
