// Talk to the model, correct its replies, and see what of it is kept. Text is only ever rendered as text.

import { get, patch, post, remove, stream } from "./api.js";
import * as format from "./format.js";
import { $, profilesOf, usual } from "./header.js";
import { Confirmed, effectsOf, question, quoted, select, show, useDaemon } from "./parts.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "./vendor/preact-htm-3.1.1.module.js";
import { nodes, t } from "./words.js";

const NEWEST = 50; // conversations that are listed
const RETRY_TEMPERATURE = 0.8;
const wished = new URLSearchParams(location.search).get("conversation"); // by a link
const newId = () => `web-${Date.now().toString(36)}-${Math.random().toString(36).slice(2, 10)}`;

// The turns of a conversation, oldest first; of a message that was sent again only the last reply.
async function readConversation(id) {
  const query = `conversation=${encodeURIComponent(id)}&limit=1000`;
  const [{ interactions }, { feedback }] = await Promise.all([get(`interactions?${query}`), get(`feedback?${query}`)]);
  const asked = new Map(interactions.map((one) => [JSON.stringify(one.messages), one]).reverse());
  const last = new Set(asked.values());
  return interactions
    .filter((one) => last.has(one))
    .reverse()
    .map((one) => ({
      key: one.id,
      id: one.id,
      user: question(one),
      reply: one.response,
      version: one.adapter_version,
      feedback: feedback.find((row) => row.interaction_id === one.id && row.source === "given"),
      stated: feedback.filter((row) => row.interaction_id === one.id && row.source === "stated"),
    }));
}

function Talk() {
  const { info, problem, attempt, refresh } = useDaemon();
  const [profile, setProfile] = useState(usual);
  const [model, setModel] = useState("");
  const [conversations, setConversations] = useState(null); // null until they are read
  const [words, setWords] = useState("");
  const [current, setCurrent] = useState(newId);
  const [turns, setTurns] = useState([]);
  const [learn, setLearn] = useState(true);
  const abort = useRef(null);
  const thread = useRef(null);
  const busy = turns.some((turn) => turn.busy);

  const change = (key, values) => setTurns((all) => all.map((turn) => (turn.key === key ? { ...turn, ...values } : turn)));

  async function list() {
    const query = new URLSearchParams({ profile, limit: NEWEST, ...(words.trim() && { q: words.trim() }) });
    const found = await attempt(() => get(`conversations?${query}`));
    if (found) setConversations(found.conversations);
  }

  async function open(id) {
    abort.current?.abort();
    const found = await attempt(() => readConversation(id));
    if (!found) return;
    setCurrent(id);
    setTurns(found);
    setLearn(true);
  }

  function begin() {
    abort.current?.abort();
    setCurrent(newId());
    setTurns([]);
    setLearn(true);
    $("message").focus();
  }

  async function send(text, again) {
    const before = again ? turns.slice(0, turns.indexOf(again)) : turns;
    const turn = { key: newId(), user: text, reply: "", busy: true, stated: [] };
    const said = before.filter((one) => one.reply && !one.error);
    const messages = said.flatMap((one) => [
      { role: "user", content: one.user },
      { role: "assistant", content: one.reply },
    ]);
    const parameters = { adapter_id: model || profile, ...(again && !again.error && { temperature: RETRY_TEMPERATURE }) };
    const headers = { "LARS-Conversation": current, "LARS-Learn": learn ? "on" : "off" };
    const control = new AbortController();
    abort.current = control;
    setTurns([...before, turn]);
    try {
      const inputs = [...messages, { role: "user", content: text }];
      await stream("generate_stream", { inputs, parameters }, { headers, signal: control.signal }, (event) => {
        if (event.details) {
          const { adapter_version: version, recalled } = event.details;
          change(turn.key, { reply: event.generated_text, id: event.interaction_id, version, recalled, busy: false });
          if (event.interaction_id) showKept(turn.key, event.interaction_id);
        } else {
          setTurns((all) => all.map((one) => (one.key === turn.key ? { ...one, reply: one.reply + event.token.text } : one)));
        }
      });
      if (control.signal.aborted) change(turn.key, { busy: false, stopped: true });
    } catch (error) {
      if (error.status === 401) $("token-form").hidden = false;
      change(turn.key, { busy: false, error: format.sentence(error.message) });
    }
    await Promise.all([list(), refresh()]);
  }

  async function showKept(key, id) {
    const query = `conversation=${encodeURIComponent(current)}&source=stated&limit=1000`;
    const found = await attempt(() => get(`feedback?${query}`));
    if (found) change(key, { stated: found.feedback.filter((row) => row.interaction_id === id) });
  }

  // Store a rating or a correction: one row for each reply, which is gone once it says nothing any more.
  async function give(turn, values) {
    const isStored = await attempt(async () => {
      const known = turn.feedback;
      const next = { rating: known?.rating ?? null, correction: known?.correction ?? null, ...values };
      const says = next.rating !== null || next.correction !== null || known?.comment || known?.tags.length;
      if (known && !says) {
        await remove(`feedback/${known.id}`);
        await open(current); // the reply goes with it
        return true;
      }
      const row = known ? await patch(`feedback/${known.id}`, values) : await post("feedback", { interaction_id: turn.id, ...values });
      change(turn.key, { feedback: row });
      return true;
    });
    refresh();
    return isStored;
  }

  async function forget(row) {
    await attempt(async () => {
      await remove(`feedback/${row.id}`);
      await open(current);
    });
    await Promise.all([list(), refresh()]);
  }

  async function forgetConversation(id) {
    await attempt(() => remove(`conversations/${encodeURIComponent(id)}?profile=${encodeURIComponent(profile)}`));
    if (id === current) begin();
    await list();
  }

  useLayoutEffect(() => {
    list();
  }, [profile, words]);
  useLayoutEffect(() => {
    if (wished) open(wished);
  }, []);
  useEffect(() => {
    thread.current?.lastElementChild?.scrollIntoView({ block: "nearest" });
  }, [turns.length, turns.at(-1)?.reply.length]);

  const served = info?.serving[profile] ?? "base";
  const profiles = info ? profilesOf(info) : [];
  return html`
    <div class="talk">
      <aside aria-label=${t("Conversations")}>
        <button type="button" class="primary" onClick=${begin}>${t("New conversation")}</button>
        <input type="search" aria-label=${t("Search conversations")} placeholder=${t("Search")} value=${words} onInput=${(event) => setWords(event.target.value)} />
        ${conversations?.length === 0 && html`<p class="quiet">${words ? t("None mentions that.") : t("No conversation yet.")}</p>`}
        <ul class="conversations">
          ${conversations?.map((one) => html`<${Conversation} key=${one.id} one=${one} isOpen=${one.id === current} onOpen=${open} onForget=${forgetConversation} />`)}
        </ul>
      </aside>
      <section aria-label=${t("Conversation")}>
        <${FirstRun} info=${info} served=${served} />
        ${problem && html`<p class="error" role="alert">${problem}</p>`}
        <ol class="thread" ref=${thread}>
          ${turns.map((turn) => html`<${Turn} key=${turn.key} turn=${turn} isBusy=${busy} onGive=${give} onForget=${forget} onRetry=${(one) => send(one.user, one)} />`)}
        </ol>
        <${Composer} isBusy=${busy} isReady=${Boolean(info?.model)} isLoading=${info?.model === null} onSend=${send} onStop=${() => abort.current?.abort()} />
        <p class="options">
          ${profiles.length > 1 && html`<label>${t("Profile")} ${select(profile, (name) => { setProfile(name); begin(); }, profiles.map((name) => [name, name]))}</label>`}
          ${served !== "base" && html`<label>${t("Reply by")} ${select(model, setModel, [["", served], ["base", t("the base model")]])}</label>`}
          <label><input type="checkbox" checked=${!learn} disabled=${turns.length > 0} onChange=${(event) => setLearn(!event.target.checked)} /> ${t("Keep and learn nothing from this conversation")}</label>
        </p>
      </section>
    </div>
  `;
}

// The four steps of a new installation, until all are done.
function FirstRun({ info, served }) {
  if (!info) return null;
  const steps = [
    [Boolean(info.model), t("The model is loaded.")],
    [info.interactions > 0, t("Ask it something.")],
    [info.feedback.corrections + info.feedback.stated > 1, t("Correct two replies: press “It should have said…” below them.")],
    [served !== "base", nodes("Have it learn: tonight by itself, or now, on {learned}.", { learned: html`<a href="learned">${t("What it learned")}</a>` })],
  ];
  if (steps.every(([done]) => done)) return null;
  return html`<ol class="first-run" aria-label=${t("First steps")}>
    ${steps.map(([done, text]) => html`<li class=${done ? "done" : ""}>${text}${done && html`<span class="pill good">${t("done")}</span>`}</li>`)}
  </ol>`;
}

function Conversation({ one, isOpen, onOpen, onForget }) {
  return html`<li>
    <button type="button" class="title" aria-current=${isOpen ? "true" : null} onClick=${() => onOpen(one.id)}>
      <bdi dir="auto">${one.title}</bdi>
      <span class="quiet">${format.time(one.updated)}</span>
    </button>
    <${Confirmed} label=${t("Delete")} name=${t("Delete the conversation: {title}", { title: one.title })} question=${t("Delete this conversation and all feedback on it?")} onDo=${() => onForget(one.id)} />
  </li>`;
}

function Turn({ turn, isBusy, onGive, onForget, onRetry }) {
  const [draft, setDraft] = useState(null);
  const { feedback } = turn;
  const editor = useRef(null);
  const fix = useRef(null);
  useEffect(() => {
    if (draft !== null) editor.current?.focus();
  }, [draft === null]);
  const close = () => {
    setDraft(null);
    requestAnimationFrame(() => fix.current?.focus());
  };
  const save = async (event) => {
    event.preventDefault();
    if (!draft.trim()) return;
    if (await onGive(turn, { correction: draft.trim() })) close(); // else what was typed stays
  };
  const rate = (value) => onGive(turn, { rating: feedback?.rating === value ? null : value });
  const thumb = (value, shown, name) => html`<button type="button" class="small" aria-pressed=${String(feedback?.rating === value)} aria-label=${name} onClick=${() => rate(value)}>${shown}</button>`;
  return html`<li>
    <p class="said" dir="auto">${turn.user}</p>
    <div class="reply" aria-busy=${String(Boolean(turn.busy))}>
      <p dir="auto">${turn.reply || (turn.busy ? html`<span class="quiet">…</span>` : "")}</p>
      ${turn.error && html`<p class="error" role="alert">${turn.error}</p>`}
      ${turn.stopped && html`<p class="quiet">${t("Stopped; it was not kept.")}</p>`}
      <${Recalled} recalled=${turn.recalled} />
      ${feedback?.correction && html`<${Learned} row=${feedback} onForget=${onForget} />`}
      ${turn.stated.map((row) => html`<${Noted} key=${row.id} row=${row} onForget=${onForget} />`)}
      ${!turn.busy &&
      html`<p class="actions">
        ${turn.version && html`<span class="pill">${format.label(turn.version)}</span>`}
        ${turn.id && html`${thumb(1, t("Good"), t("Good reply"))} ${thumb(-1, t("Bad"), t("Bad reply"))}`}
        ${turn.id && html`<button type="button" class="small" ref=${fix} aria-expanded=${String(draft !== null)} onClick=${() => setDraft(feedback?.correction ?? turn.reply)}>
          ${feedback?.correction ? t("Edit the correction") : t("It should have said…")}
        </button>`}
        ${turn.reply && html`<button type="button" class="small" onClick=${() => navigator.clipboard?.writeText(turn.reply)}>${t("Copy")}</button>`}
        <button type="button" class="small" disabled=${isBusy} onClick=${() => onRetry(turn)}>${t("Try again")}</button>
      </p>`}
      ${draft !== null &&
      html`<form class="correction" onSubmit=${save}>
        <label>${t("It should have said")}<textarea ref=${editor} dir="auto" rows="3" value=${draft} onInput=${(event) => setDraft(event.target.value)} onKeyDown=${(event) => event.key === "Escape" && close()}></textarea></label>
        <button type="submit" class="primary">${t("Save")}</button>
        <button type="button" onClick=${close}>${t("Cancel")}</button>
      </form>`}
    </div>
  </li>`;
}

// What the prompt had of past corrections.
function Recalled({ recalled = [] }) {
  const [rows, setRows] = useState([]);
  const ids = recalled.map((one) => one.feedback_id).join();
  useEffect(() => {
    if (!ids) return;
    Promise.all(ids.split(",").map((id) => get(`feedback/${id}`).catch(() => null))).then((found) => setRows(found.filter(Boolean)));
  }, [ids]);
  return rows.length > 0 && html`<p class="quiet">${nodes("Recalled: {corrections}", { corrections: rows.map((row, index) => html`${index > 0 && " · "}${quoted(row.correction)}`) })}</p>`;
}

function Learned({ row, onForget }) {
  const [versions, setVersions] = useState([]);
  useEffect(() => {
    get(`feedback/${row.id}/versions`).then((found) => setVersions(found.versions), () => {});
  }, [row.id, row.correction]);
  const text = versions.length ? t("learned in {version}", { version: versions.at(-1) }) : t("used from the next reply on, will be learned tonight");
  return html`<p class="kept">
    ${nodes("Corrected: {correction}", { correction: quoted(row.correction) })} <span class="quiet">${text}</span>${" "}
    <${Confirmed} label=${t("Forget")} name=${t("Forget: {question}", { question: row.correction })} question=${t("Forget this?")} more=${() => effectsOf([row.id])} onDo=${() => onForget(row)} />
  </p>`;
}

function Noted({ row, onForget }) {
  return html`<p class="kept">
    ${nodes("Noted: {correction}", { correction: quoted(row.correction) })}${" "}
    <${Confirmed} label=${t("Forget")} name=${t("Forget: {question}", { question: row.correction })} question=${t("Forget this?")} more=${() => effectsOf([row.id])} onDo=${() => onForget(row)} />
  </p>`;
}

function Composer({ isBusy, isReady, isLoading, onSend, onStop }) {
  const [draft, setDraft] = useState("");
  const submit = (event) => {
    event.preventDefault();
    if (isBusy || !isReady || !draft.trim()) return;
    setDraft("");
    onSend(draft.trim());
  };
  const onKeyDown = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && submit(event);
  return html`<form class="composer" onSubmit=${submit}>
    <textarea id="message" aria-label=${t("Message")} dir="auto" rows="2" placeholder=${isLoading ? t("The model is being loaded") : t("Say something; Enter sends")} value=${draft} onInput=${(event) => setDraft(event.target.value)} onKeyDown=${onKeyDown}></textarea>
    ${isBusy ? html`<button type="button" onClick=${onStop}>${t("Stop")}</button>` : html`<button type="submit" class="primary">${t("Send")}</button>`}
  </form>`;
}

show(html`<${Talk} />`, "talk-page");
