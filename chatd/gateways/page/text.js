// @ts-check
/** Helpers for elements, links, times and colours. Text becomes text nodes only. */

/**
 * @param {string} tag
 * @param {Record<string, string | boolean>} attributes true: without a value; false: absent
 * @param {...(Node | string)} children
 */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

/**
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} type
 * @returns {T}
 */
export function find(id, type) {
  const node = document.getElementById(id);
  if (!(node instanceof type)) throw new TypeError(`#${id} is missing`);
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

/** @param {string} path of a 24 by 24 drawing */
export function icon(path) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const drawing = document.createElementNS(SVG, "path");
  drawing.setAttribute("d", path);
  svg.append(drawing);
  return svg;
}

const LINK = /https?:\/\/[^\s<>"]+/gi;
// Punctuation after a link does not belong to it.
const TRAILING = /[.,:;!?'*_~\])}>]+$/;

/**
 * @param {string} text
 * @returns {DocumentFragment}
 */
export function linkify(text) {
  const fragment = document.createDocumentFragment();
  let end = 0;
  for (const match of text.matchAll(LINK)) {
    let href = match[0];
    const tail = TRAILING.exec(href)?.[0] ?? "";
    // `https://…/Chat_(network)` keeps its bracket.
    const kept = tail.startsWith(")") && href.slice(0, -tail.length).includes("(") ? 1 : 0;
    if (tail.length > kept) href = href.slice(0, href.length - tail.length + kept);
    if (!URL.canParse(href)) continue;
    fragment.append(
      text.slice(end, match.index),
      element("a", { href, target: "_blank", rel: "noopener noreferrer" }, href),
    );
    end = match.index + href.length;
  }
  fragment.append(text.slice(end));
  return fragment;
}

// FNV-1a of the user id, not the nick: a colour stays with its user and cannot be copied.
/** @param {string} user */
export function hue(user) {
  let hash = 0x811c9dc5;
  for (let index = 0; index < user.length; index += 1) {
    hash = Math.imul(hash ^ user.charCodeAt(index), 0x01000193);
  }
  // More than 24 hues are hard to tell apart.
  return ((hash >>> 0) % 24) * 15;
}

/**
 * @template {HTMLElement} T
 * @param {T} node
 * @param {string} user
 */
export function coloured(node, user) {
  node.style.setProperty("--hue", String(hue(user)));
  return node;
}

const SEGMENTS = new Intl.Segmenter();

/** @param {string} nick @param {string} user */
export function avatar(nick, user) {
  const first = SEGMENTS.segment(nick)[Symbol.iterator]().next().value?.segment ?? "";
  return coloured(
    element("span", { class: "avatar", "aria-hidden": "true" }, first.toUpperCase()),
    user,
  );
}

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const WHOLE = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });
const WEEKDAY = new Intl.DateTimeFormat(undefined, {
  weekday: "long",
  day: "numeric",
  month: "long",
});
const DATE = new Intl.DateTimeFormat(undefined, { dateStyle: "long" });

/** @param {number} at */
export function time(at) {
  const date = new Date(at);
  return element(
    "time",
    { datetime: date.toISOString(), title: WHOLE.format(date) },
    CLOCK.format(date),
  );
}

const SHORT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** A time with its date. @param {number} at */
export function date(at) {
  const when = new Date(at);
  return element(
    "time",
    { datetime: when.toISOString(), title: WHOLE.format(when) },
    SHORT.format(when),
  );
}

/**
 * Marks the words that a query finds: those that begin with one of its words, ignoring case and
 * accents, and in scripts without spaces the runs that have one of them.
 * @param {string} text
 * @param {string} query
 */
export function marked(text, query) {
  const wanted = (query.match(WORD) ?? []).map(plain);
  const fragment = document.createDocumentFragment();
  let end = 0;
  for (const { 0: word, index } of text.matchAll(WORD)) {
    const own = plain(word);
    const found = wanted.some(
      (one) => own.startsWith(one) || (UNSPACED.test(one) && own.includes(one)),
    );
    if (!found) continue;
    fragment.append(text.slice(end, index), element("mark", {}, word));
    end = index + word.length;
  }
  fragment.append(text.slice(end));
  return fragment;
}

const WORD = /[\p{L}\p{N}\p{M}]+/gu;
const UNSPACED =
  /[\p{sc=Han}\p{sc=Hira}\p{sc=Kana}\p{sc=Thai}\p{sc=Laoo}\p{sc=Khmr}\p{sc=Mymr}]/u;

/** @param {string} word */
function plain(word) {
  return word.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase().replaceAll("ß", "ss");
}

/** The local day, as a key. @param {number} at */
export function day(at) {
  return new Date(at).toDateString();
}

/** @param {number} at */
export function dayName(at) {
  const date = new Date(at);
  const today = new Date();
  const yesterday = new Date(today.getFullYear(), today.getMonth(), today.getDate() - 1);
  if (date.toDateString() === today.toDateString()) return "Today";
  if (date.toDateString() === yesterday.toDateString()) return "Yesterday";
  return (date.getFullYear() === today.getFullYear() ? WEEKDAY : DATE).format(date);
}

/** @param {number} count @param {string} one */
export function plural(count, one) {
  return `${count.toLocaleString()} ${one}${count === 1 ? "" : "s"}`;
}
