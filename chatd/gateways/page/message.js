// @ts-check
/** The elements of the log: messages, unsent messages, notices. */

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
 * @typedef {{head: boolean, mine: boolean, quote: Message | null}} Look
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

/** A quoted message, in one line. @param {number} seq @param {Message | null} quote */
function quotation(seq, quote) {
  const words =
    quote && !quote.deleted ? quote.text : quote ? "Deleted message" : "Original message";
  return element(
    "button",
    { type: "button", class: "quote", "data-do": "jump", "data-to": String(seq) },
    row("span", "unseen", "In reply to "),
    ...(quote ? [coloured(row("bdi", "nick", quote.nick), quote.user)] : []),
    element("span", { class: "words", dir: "auto" }, words.replace(/\s+/g, " ").slice(0, 200)),
  );
}

/** @param {Message} message */
function body(message) {
  if (message.deleted) return row("div", "text gone", "Message deleted");
  return element("div", { class: "text", dir: "auto" }, linkify(message.text));
}

/** @param {number} at */
function editedMark(at) {
  return element("span", { class: "edited", title: time(at).title }, "edited");
}

/** @param {Message} message @param {Look} look */
function shape(message, { head, mine, quote }) {
  const nick = coloured(row("bdi", "nick", message.nick), message.user);
  const edited = message.edited && !message.deleted ? [editedMark(message.edited)] : [];
  const node = head
    ? row(
        "li",
        "message head",
        avatar(message.nick, message.user),
        row("div", "who", nick, time(message.at), ...edited),
      )
    : row("li", "message", row("span", "unseen", nick, ":"), row("div", "aside", time(message.at)));
  if (message.replyTo) node.append(quotation(message.replyTo, quote));
  node.append(body(message));
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
