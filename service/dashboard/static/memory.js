// What the daemon has learned from, or will: search, edit, forget, add, export and import. Text is only ever text.

import { download, get, patch, post, remove } from "./api.js";
import * as format from "./format.js";
import { own, usual } from "./header.js";
import { Confirmed, Done, effectsOf, idQuery, question, quoted, select, show, useDaemon } from "./parts.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "./vendor/preact-htm-3.1.1.module.js";
import { nodes, plural, said, t } from "./words.js";

const PAGE = 50;
const ERASURE_MS = 1000;
const SOURCES = [["", t("everything")], ["given", t("what I corrected or rated")], ["stated", t("what I said in passing")]];
const FORMATS = [["messages", t("conversations")], ["prompt-completion", t("prompts and replies")], ["preference", t("preferences")], ["kto", t("liked or not")]];
const NO_FILTER = { q: "", source: "", tag: "", profile: "" };

// In one word or two what a piece of feedback is.
function kind({ source, correction, rating }) {
  if (source === "stated") return t("said in passing");
  if (correction !== null) return t("corrected");
  return rating === null ? t("noted") : rating > 0 ? t("liked") : t("disliked");
}

function MyData() {
  const { info, problem, attempt } = useDaemon();
  const [profiles, setProfiles] = useState([]);
  const [filter, setFilter] = useState(NO_FILTER);
  const [page, setPage] = useState(null);
  const [chosen, setChosen] = useState([]);
  const [done, setDone] = useState(null);
  const asked = useRef(0);
  const isFiltered = Object.values(filter).some(Boolean);

  const query = (values) => new URLSearchParams(Object.entries(values).filter(([, value]) => value));

  async function read(after = "", limit = PAGE) {
    const number = ++asked.current; // an answer that a later question has overtaken is not shown
    const found = await attempt(() => get(`feedback?${query({ ...filter, q: filter.q.trim(), limit, after })}`));
    if (!found || number !== asked.current) return;
    const rows = after ? [...page.rows, ...found.feedback] : found.feedback;
    setPage({ rows, total: found.total, next: found.next });
    setChosen((ids) => ids.filter((id) => rows.some((row) => row.id === id)));
  }

  async function tell(text, undo) {
    setDone({ text, undo });
    await read("", Math.max(PAGE, page?.rows.length ?? 0));
  }

  async function forget(ids) {
    const answer = await attempt(() => remove(`feedback?${idQuery(ids)}`));
    if (!answer) return;
    await tell(plural(ids.length, "{number} lesson forgotten; it is being removed from every file…", "{number} lessons forgotten; they are being removed from every file…"));
    if (answer.erasure_id) follow(answer.erasure_id, ids.length);
  }

  async function follow(id, count) {
    const erasure = await get(`erasures/${id}`).catch(() => null);
    if (!erasure?.complete) return setTimeout(() => follow(id, count), ERASURE_MS);
    const gone = Object.values(erasure.versions).flat().map((number) => `v${number}`);
    const told = [
      plural(count, "{number} lesson forgotten; nothing of it is left in any file.", "{number} lessons forgotten; nothing of them is left in any file."),
      gone.length > 0 && plural(gone.length, "{versions} had learned of it and was deleted.", "{versions} had learned of it and were deleted.", { versions: gone.join(", ") }),
      erasure.interactions > 0 && plural(erasure.interactions, "One recorded reply went with it.", "{number} recorded replies went with it."),
    ];
    setDone({ text: told.filter(Boolean).join(" "), isLater: true });
  }

  async function change(row, values) {
    if (!(await attempt(() => patch(`feedback/${row.id}`, values)))) return false;
    const before = Object.fromEntries(Object.keys(values).map((name) => [name, row[name]]));
    await tell(t("Changed; it counts from the next reply on."), async () => {
      if (await attempt(() => patch(`feedback/${row.id}`, before))) await tell(t("Changed back."));
    });
    return true;
  }

  const stored = async (text) => {
    await tell(text);
    readProfiles();
  };
  const readProfiles = async () => setProfiles((await attempt(() => get("profiles")))?.profiles ?? []);
  const choose = (id, isChosen) => setChosen((ids) => (isChosen ? [...ids, id] : ids.filter((one) => one !== id)));
  const narrow = (values) => setFilter({ ...filter, ...values });

  useLayoutEffect(() => {
    readProfiles();
  }, []);
  useLayoutEffect(() => {
    read();
  }, [filter]);

  const some = chosen.slice(0, 200);
  return html`
    <section aria-labelledby="data-title">
      <div class="title"><h2 id="data-title">${t("What I told it")}</h2>${page && html`<span class="pill" role="status">${plural(page.total, "{number} lesson", "{number} lessons")}</span>`}</div>
      <div class="filters">
        <input type="search" aria-label=${t("Search")} placeholder=${t("Search")} value=${filter.q} onInput=${(event) => narrow({ q: event.target.value })} />
        <label>${t("Show")} ${select(filter.source, (source) => narrow({ source }), SOURCES)}</label>
        ${profiles.length > 1 && html`<label>${t("of profile")} ${select(filter.profile, (profile) => narrow({ profile }), [["", t("any")], ...profiles.map(({ name }) => [name, name])])}</label>`}
        ${filter.tag && html`<button type="button" class="small" onClick=${() => narrow({ tag: "" })}>${t("tag")} <bdi>${filter.tag}</bdi> ✕</button>`}
      </div>
      ${problem && html`<p class="error" role="alert">${problem}</p>`}
      <${Done} done=${done} />
      ${!page && html`<p class="quiet">${t("Reading…")}</p>`}
      ${page?.total === 0 && html`<p class="quiet">${isFiltered ? t("Nothing like that is stored.") : nodes("Nothing is stored yet. Correct a reply on {talk}, or add something below.", { talk: html`<a href="./">${t("Talk")}</a>` })}</p>`}
      ${page?.rows.length > 1 &&
      html`<p class="actions">
        <label class="choice"><input type="checkbox" checked=${chosen.length === page.rows.length} onChange=${(event) => setChosen(event.target.checked ? page.rows.map((row) => row.id) : [])} /> ${t("All {number} shown", { number: page.rows.length })}</label>
        ${some.length > 0 && html`<${Confirmed} key=${some.join()} label=${t("Forget {number}", { number: some.length })} name=${t("Forget the chosen")} question=${plural(some.length, "Forget {number} lesson?", "Forget {number} lessons?")} more=${() => effectsOf(some)} onDo=${() => forget(some)} />`}
      </p>`}
      <ul class="lessons">
        ${page?.rows.map((row) => html`<${Lesson} key=${row.id} row=${row} isChosen=${chosen.includes(row.id)} showProfile=${profiles.length > 1} onChoose=${choose} onTag=${(tag) => narrow({ tag })} onChange=${change} onForget=${() => forget([row.id])} />`)}
      </ul>
      ${page?.next && html`<button type="button" onClick=${() => read(page.next)}>${t("Show more")}</button>`}
    </section>
    <${Teach} profile=${filter.profile || usual} profiles=${profiles} attempt=${attempt} onStored=${stored} />
    <${Files} profile=${filter.profile} importing=${info?.importing} attempt=${attempt} onStored=${stored} />
  `;
}

function Lesson({ row, isChosen, showProfile, onChoose, onTag, onChange, onForget }) {
  const [isEdited, setEdited] = useState(false);
  const [versions, setVersions] = useState(null);
  const opener = useRef(null);
  const close = () => {
    setEdited(false);
    requestAnimationFrame(() => opener.current?.focus());
  };
  const save = async (values) => (await onChange(row, values)) && setEdited(false);
  const look = (event) => event.target.open && get(`feedback/${row.id}/versions`).then((found) => setVersions(found.versions), () => {});
  return html`<li>
    <input type="checkbox" aria-label=${t("Choose: {question}", { question: question(row) })} checked=${isChosen} onChange=${(event) => onChoose(row.id, event.target.checked)} />
    <div>
      <p dir="auto" class="quiet">${question(row)}</p>
      <p dir="auto">${row.correction ?? row.response}</p>
      <p class="actions">
        <span class=${`pill ${row.rating !== null && row.rating <= 0 ? "bad" : "good"}`}>${kind(row)}</span>
        <span class="quiet">${format.time(row.created)}${showProfile ? ` · ${row.profile}` : ""}</span>
        ${row.tags.map((tag) => html`<button type="button" class="small tag" aria-label=${t("Show only the tag {tag}", { tag })} onClick=${() => onTag(tag)}><bdi>${tag}</bdi></button>`)}
        <button type="button" class="small" ref=${opener} aria-label=${t("Edit: {question}", { question: question(row) })} aria-expanded=${String(isEdited)} onClick=${() => setEdited(!isEdited)}>${t("Edit")}</button>
        <${Confirmed} label=${t("Forget")} name=${t("Forget: {question}", { question: question(row) })} question=${t("Forget this?")} more=${() => effectsOf([row.id])} onDo=${onForget} />
      </p>
      ${isEdited && html`<${Editor} row=${row} onSave=${save} onClose=${close} />`}
      <details onToggle=${look}>
        <summary>${t("Details")}</summary>
        <p class="quiet">${nodes("{version} had replied: {reply}", { version: format.label(row.adapter_version ?? "base"), reply: quoted(row.response) })}</p>
        ${row.comment && html`<p class="quiet">${nodes("Comment: {comment}", { comment: quoted(row.comment) })}</p>`}
        ${versions && html`<p class="quiet">${versions.length ? t("Learned in {versions}.", { versions: versions.join(", ") }) : t("Not learned yet: used from the next reply on, learned tonight.")}</p>`}
      </details>
    </div>
  </li>`;
}

function Editor({ row, onSave, onClose }) {
  const [correction, setCorrection] = useState(row.correction ?? "");
  const [tags, setTags] = useState(row.tags.join(", "));
  const first = useRef(null);
  useEffect(() => first.current?.focus(), []);
  const save = (event) => {
    event.preventDefault();
    const listed = [...new Set(tags.split(",").map((tag) => tag.trim()).filter(Boolean))];
    onSave({ ...(correction.trim() !== (row.correction ?? "") && { correction: correction.trim() || null }), tags: listed });
  };
  return html`<form class="correction" onSubmit=${save} onKeyDown=${(event) => event.key === "Escape" && onClose()}>
    <label>${t("It should have said")}<textarea ref=${first} dir="auto" rows="2" value=${correction} onInput=${(event) => setCorrection(event.target.value)}></textarea></label>
    <label>${t("Tags, separated by commas")}<input dir="auto" value=${tags} onInput=${(event) => setTags(event.target.value)} /></label>
    <button type="submit" class="primary">${t("Save")}</button>
    <button type="button" onClick=${onClose}>${t("Cancel")}</button>
  </form>`;
}

// A question and its answer, without having asked the model.
function Teach({ profile, profiles, attempt, onStored }) {
  const [other, setOther] = useState(null); // a profile that was typed, which begins with its first lesson
  const [prompt, setPrompt] = useState("");
  const [correction, setCorrection] = useState("");
  const teach = async (event) => {
    event.preventDefault();
    if (!prompt.trim() || !correction.trim()) return;
    const row = { prompt: prompt.trim(), response: "", correction: correction.trim(), profile: other?.trim() || profile };
    if (!(await attempt(() => post("feedback", row)))) return;
    setPrompt("");
    setCorrection("");
    onStored(t("Stored; it counts from the next reply on."));
  };
  return html`<section aria-labelledby="teach-title">
    <h2 id="teach-title">${t("Teach it something")}</h2>
    <form class="correction" onSubmit=${teach}>
      <label>${t("When I ask")}<input dir="auto" required placeholder=${t("What is my goat called?")} value=${prompt} onInput=${(event) => setPrompt(event.target.value)} /></label>
      <label>${t("it should say")}<textarea dir="auto" required rows="2" placeholder=${t("Your goat is called Pip.")} value=${correction} onInput=${(event) => setCorrection(event.target.value)}></textarea></label>
      ${!own && html`<label>${t("as profile")}<input dir="auto" list="profiles" maxlength="64" value=${other ?? profile} onInput=${(event) => setOther(event.target.value)} /></label>
      <datalist id="profiles">${profiles.map(({ name }) => html`<option value=${name}></option>`)}</datalist>`}
      <button type="submit" class="primary">${t("Store")}</button>
    </form>
  </section>`;
}

// How much of an import is there already.
const there = ({ already_there: number }) =>
  number > 0 ? plural(number, "{number} is there already and is not stored again.", "{number} are there already and are not stored again.") : "";

// Export, and import after a look at what would be stored.
function Files({ profile, importing, attempt, onStored }) {
  const [form, setForm] = useState("messages");
  const [file, setFile] = useState(null);
  const [seen, setSeen] = useState(null);
  const input = useRef(null);
  const into = profile ? `?profile=${encodeURIComponent(profile)}` : "";
  const look = async (event) => {
    const chosen = event.target.files[0];
    setFile(chosen);
    setSeen(null);
    if (chosen) setSeen((await attempt(() => post(`feedback/import${into}${into ? "&" : "?"}dry_run=true`, chosen))) ?? null);
  };
  const clear = () => {
    input.current.value = "";
    setFile(null);
    setSeen(null);
  };
  const store = async () => {
    const answer = await attempt(() => post(`feedback/import${into}`, file));
    if (!answer) return;
    clear();
    onStored(`${plural(answer.imported, "{number} lesson imported.", "{number} lessons imported.")} ${there(answer)}`.trim());
  };
  const fresh = seen ? seen.valid - (seen.already_there ?? 0) : 0;
  const save = () => attempt(() => download(`feedback/export${into}${into ? "&" : "?"}format=${form}`, `lars-agent-${profile || "all"}.jsonl`));
  return html`<section aria-labelledby="files-title">
    <h2 id="files-title">${t("Take it with you")}</h2>
    <p class="filters"><label>${t("Export as")} ${select(form, setForm, FORMATS)}</label><button type="button" onClick=${save}>${t("Export")}</button></p>
    <p class="filters"><label>${t("Import JSON lines")} <input type="file" ref=${input} accept=".jsonl,.json,.txt" onClick=${(event) => (event.target.value = "")} onChange=${look} /></label></p>
    ${importing && html`<p>${t("{done} of {total} lines are stored; all of them appear together…", { ...importing })}</p><progress aria-label=${t("Import JSON lines")} value=${importing.done} max=${importing.total}></progress>`}
    ${seen &&
    html`<div role="status">
      <p>${plural(seen.valid, "{number} line can be imported.", "{number} lines can be imported.")} ${there(seen)} ${seen.refused.length > 0 && plural(seen.refused.length, "{number} cannot; nothing is stored until it is mended:", "{number} cannot; nothing is stored until they are mended:")}</p>
      ${seen.refused.length > 0 && html`<ul>${seen.refused.slice(0, 20).map(({ line, message }) => html`<li key=${line} dir="auto">${format.sentence(said(message))}</li>`)}</ul>`}
      ${seen.refused.length > 20 && html`<p class="quiet">${t("…and {number} more.", { number: seen.refused.length - 20 })}</p>`}
      <p class="filters">
        ${fresh > 0 && seen.refused.length === 0 && html`<button type="button" class="primary" onClick=${store}>${plural(fresh, "Import {number} line", "Import {number} lines")}</button>`}
        <button type="button" onClick=${clear}>${t("Leave it")}</button>
      </p>
    </div>`}
  </section>`;
}

show(html`<${MyData} />`, "memory-page");
