// @ts-check
/** The elements of the log: messages, unsent messages, notices. */

import { actionIn } from "./commands.js";
import { avatar, coloured, element, linkify, time } from "./text.js";

const MARKS = {
  queued: "Sending",
  sending: "Sending",
  held: "Waiting to send",
  sent: "Sent",
  failed: "Not sent",
};

/**
 * @typedef {import("./room.js").Message} Message
 * @typedef {import("./outbox.js").Unsent} Unsent
 * @typedef {import("./palette.js").Palette} Palette
 * @typedef {{head: boolean, mine: boolean, quote: Message | null, palette: Palette}} Look
 */

/** @param {string} tag @param {string} name @param {...(Node | string)} children */
function row(tag, name, ...children) {
  return element(tag, { class: name }, ...children);
}

/** @param {keyof typeof MARKS} state */
function mark(state) {
  return element(
    "span",
    { class: "mark", title: MARKS[state] },
    row("span", "unseen", MARKS[state]),
  );
}

/** @param {import("./room.js").Line} line */
export function lineElement(line) {
  return row(
    "li",
    `line ${line.tone}`,
    element("span", { dir: "auto" }, line.parts.join(" · ")),
    time(line.at),
  );
}

/**
 * A quoted message, in one line.
 * @param {number} seq
 * @param {Message | null} quote
 * @param {Palette} palette
 */
function quotation(seq, quote, palette) {
  const words =
    quote && !quote.deleted
      ? (actionIn(quote.text) ?? quote.text)
      : quote
        ? "Deleted message"
        : "Original message";
  return element(
    "button",
    { type: "button", class: "quote", "data-do": "jump", "data-to": String(seq) },
    row("span", "unseen", "In reply to "),
    ...(quote ? [nameOf(quote, palette)] : []),
    element("span", { class: "words", dir: "auto" }, words.replace(/\s+/g, " ").slice(0, 200)),
  );
}

/** @param {Message} message @param {Palette} palette */
function nameOf(message, palette) {
  return coloured(row("bdi", "nick", message.nick), palette.hue(message.user));
}

/** @param {Message} message @param {Palette} palette */
function body(message, palette) {
  if (message.deleted) return row("div", "text gone", "Message deleted");
  const action = actionIn(message.text);
  if (action !== null) {
    const doing = [nameOf(message, palette), " ", linkify(action)];
    return element("div", { class: "text action", dir: "auto" }, ...doing);
  }
  return element("div", { class: "text", dir: "auto" }, linkify(message.text));
}

/** @param {number} at */
function editedMark(at) {
  return element("span", { class: "edited", title: time(at).title }, "edited");
}

/** @param {Message} message @param {Look} look */
function shape(message, { head, mine, quote, palette }) {
  const nick = nameOf(message, palette);
  const edited = message.edited && !message.deleted ? [editedMark(message.edited)] : [];
  const node = head
    ? row(
        "li",
        "message head",
        avatar(message.nick, palette.hue(message.user)),
        row("div", "who", nick, time(message.at), ...edited),
      )
    : row("li", "message", row("span", "unseen", nick, ":"), row("div", "aside", time(message.at)));
  if (message.replyTo) node.append(quotation(message.replyTo, quote, palette));
  node.append(body(message, palette));
  if (!head) node.append(...edited);
  node.dataset.user = message.user;
  if (mine) node.dataset.state = "sent";
  return node;
}

/** @param {Message} message @param {Look} look */
export function messageElement(message, look) {
  const node = shape(message, look);
  if (message.seq) {
    node.dataset.seq = String(message.seq);
    // Reached by the arrow keys, not by Tab.
    node.tabIndex = -1;
  }
  if (look.mine && !message.deleted) node.append(mark("sent"));
  return node;
}

/** @param {Unsent} item @param {Message} message @param {Look} look */
export function unsentElement(item, message, look) {
  const { key, state, reason = "" } = item;
  const node = shape(message, look);
  node.dataset.state = state === "queued" ? "sending" : state;
  node.dataset.key = key;
  node.append(mark(state));
  if (state === "failed" || state === "held") {
    const why = state === "held" ? `Not sent yet. ${reason}` : `Not sent. ${reason}`;
    const again = state === "held" ? "Try now" : "Retry";
    node.append(
      row(
        "div",
        "failure",
        row("span", "", why),
        element("button", { type: "button", class: "small", "data-do": "retry" }, again),
        element("button", { type: "button", class: "small", "data-do": "discard" }, "Discard"),
      ),
    );
  }
  return node;
}
