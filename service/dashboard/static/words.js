// The words of the page in its language; the English sentence is the key. What has no entry stays English.

const code = document.documentElement.lang;
const PLACEHOLDER = /\{(\w+)\}/;
const NUMBER = /^\d{1,3}(,?\d{3})*(\.\d+)?%?$/; // as the daemon writes it
const BETWEEN = [/(?<=[.!?]) (?=\p{Lu})/u, "; ", ": "]; // sentences, reasons, what they are about

async function read() {
  try {
    return await (await fetch(`static/words/${code}.json`)).json();
  } catch {
    return {}; // English is better than nothing
  }
}

const { pages = {}, daemon = {} } = code === "en" ? {} : await read();

// For dates and numbers: the page's language as it is written where the browser is.
export const locale = navigator.languages.find((name) => name.split("-")[0] === code) ?? code;

const written = (value) => (typeof value === "number" ? value.toLocaleString(locale) : String(value));
const filled = (text, values) => text.replace(new RegExp(PLACEHOLDER, "g"), (all, name) => (name in values ? written(values[name]) : all));

// The text with `{name}` replaced by a value.
export const t = (text, values = {}) => filled(pages[text] ?? text, values);

// One of two texts by a number, which is `{number}` in them.
export const plural = (number, one, other, values) => t(number === 1 ? one : other, { number, ...values });

// The text as nodes, where a value is one: a link or a text of the user's own.
export const nodes = (text, values) => (pages[text] ?? text).split(PLACEHOLDER).map((part, index) => (index % 2 ? values[part] : part));

// A key with placeholders as a pattern. `{rest}` may hold several sentences, any other one stays within one.
function pattern(key) {
  const parts = key.split(PLACEHOLDER);
  const escaped = parts.map((part, index) => {
    if (index % 2 === 0) return part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    return part === "rest" ? "([^]+)" : "((?:(?!; |[.!?] \\p{Lu})[^])+?)";
  });
  return { key, names: parts.filter((_, index) => index % 2), expression: new RegExp(`^${escaped.join("")}$`, "u") };
}

const letters = (key) => key.replace(new RegExp(PLACEHOLDER, "g"), "").length;
const patterns = Object.keys(daemon).filter((key) => PLACEHOLDER.test(key)).sort((one, other) => letters(other) - letters(one)).map(pattern);

// A number as the page's language writes it; anything else may be a sentence of the daemon's too.
function value(text) {
  if (!NUMBER.test(text) || /^\d+$/.test(text)) return said(text);
  const digits = text.split(".")[1]?.match(/\d+/)[0].length ?? 0;
  const number = Number(text.replace(/[,%]/g, ""));
  const style = text.endsWith("%") ? "percent" : "decimal";
  return (style === "percent" ? number / 100 : number).toLocaleString(locale, { style, minimumFractionDigits: digits, maximumFractionDigits: digits });
}

// What the daemon says, in the page's language.
export function said(text) {
  if (!text || !patterns.length) return text;
  if (Object.hasOwn(daemon, text)) return daemon[text];
  for (const { key, names, expression } of patterns) {
    const found = expression.exec(text);
    if (found) return filled(daemon[key], Object.fromEntries(names.map((name, index) => [name, value(found[index + 1])])));
  }
  for (const between of BETWEEN) {
    const parts = text.split(between);
    if (parts.length > 1) return parts.map(said).join(typeof between === "string" ? between : " ");
  }
  return text;
}
