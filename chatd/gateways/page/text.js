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

// Web addresses, mail addresses, and rooms: not numbers, which are rather those of other things.
const LINK =
  /(?<web>https?:\/\/[^\s<>"]+|(?<![\p{L}\p{N}@/._-])www\.[^\s<>"/]+\.[^\s<>"]+)|(?<mail>(?<![\p{L}\p{N}.+_-])[\p{L}\p{N}][\p{L}\p{N}.+_-]*@[\p{L}\p{N}-]+(?:\.[\p{L}\p{N}-]+)+)|(?<![\p{L}\p{N}&/#])#(?<room>(?!\d+(?![\p{L}\p{N}\p{M}_-]))[\p{L}\p{N}](?:[\p{L}\p{N}\p{M}._-]*[\p{L}\p{N}\p{M}])?)/giu;
// Punctuation after a link does not belong to it.
const TRAILING = /[.,:;!?'*_~\])}>]+$/;

/**
 * The links in a text, which stays as it is. A room's link has the class "room".
 * @param {string} text
 * @returns {DocumentFragment}
 */
export function linkify(text) {
  const fragment = document.createDocumentFragment();
  let end = 0;
  for (const match of text.matchAll(LINK)) {
    const { web, mail, room } = match.groups ?? {};
    const shown = web ? trimmed(web) : match[0];
    const link = web ? outside(shown) : mail ? outside(`mailto:${shown}`) : inside(room);
    if (!link) continue;
    link.append(shown);
    fragment.append(text.slice(end, match.index), link);
    end = match.index + shown.length;
  }
  fragment.append(text.slice(end));
  return fragment;
}

/** An address without the punctuation that follows it. @param {string} address */
function trimmed(address) {
  const tail = TRAILING.exec(address)?.[0] ?? "";
  // `https://…/Chat_(network)` keeps its bracket.
  const kept = tail.startsWith(")") && address.slice(0, -tail.length).includes("(") ? 1 : 0;
  return tail.length > kept ? address.slice(0, address.length - tail.length + kept) : address;
}

/** @param {string} address */
function outside(address) {
  const href = /^www\./i.test(address) ? `https://${address}` : address;
  if (!URL.canParse(href)) return null;
  return element("a", { href, target: "_blank", rel: "noopener noreferrer" });
}

/** @param {string} room */
function inside(room) {
  return element("a", { href: `#${encodeURIComponent(room)}`, class: "room", "data-room": room });
}

/**
 * @template {HTMLElement} T
 * @param {T} node
 * @param {number} hue in degrees
 */
export function coloured(node, hue) {
  node.style.setProperty("--hue", String(hue));
  return node;
}

const SEGMENTS = new Intl.Segmenter();

/** @param {string} nick @param {number} hue in degrees */
export function avatar(nick, hue) {
  const first = SEGMENTS.segment(nick)[Symbol.iterator]().next().value?.segment ?? "";
  return coloured(
    element("span", { class: "avatar", "aria-hidden": "true" }, first.toUpperCase()),
    hue,
  );
}

const CLOCK = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
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

/** The times of a day, among which are the longest in this locale. */
export function sampleTimes() {
  const hours = Array.from({ length: 24 }, (_, hour) => hour);
  return hours.map((hour) => CLOCK.format(new Date(2000, 0, 1, hour, 48)));
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
const UNSPACED = /[\p{sc=Han}\p{sc=Hira}\p{sc=Kana}\p{sc=Thai}\p{sc=Laoo}\p{sc=Khmr}\p{sc=Mymr}]/u;

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
