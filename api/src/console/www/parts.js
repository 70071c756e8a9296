// Parts that all views use.

import { h } from "./vendor/preact.js";
import { useEffect, useRef, useState } from "./vendor/hooks.js";
import htm from "./vendor/htm.js";

export const html = htm.bind(h);

const ICONS = {
  COMPLETED: "M5 10.5l3.2 3.2L15 7",
  FAILED: "M6.5 6.5l7 7m0-7l-7 7",
  IN_PROGRESS: "M10 5.5V10l3 2",
  PENDING: "M6 10h.01M10 10h.01M14 10h.01",
};

const STATUS = { COMPLETED: "Completed", FAILED: "Failed", IN_PROGRESS: "In progress", PENDING: "Waiting" };

export const statusName = (status) => STATUS[status] ?? status;

/** A status by icon and word, never by colour alone. */
export function Status({ status, short = false }) {
  return html`<span class=${`status ${status.toLowerCase().replace("_", "-")}`}>
    <svg viewBox="0 0 20 20" aria-hidden="true"><circle cx="10" cy="10" r="8.5" /><path d=${ICONS[status]} /></svg>
    <span class=${short ? "visually-hidden" : ""}>${statusName(status)}</span>
  </span>`;
}

export function Icon({ path }) {
  return html`<svg class="icon" viewBox="0 0 20 20" aria-hidden="true"><path d=${path} /></svg>`;
}

/** What went wrong, and a way to try again. */
export function Fault({ problem, retry, children }) {
  if (!problem) return null;
  return html`<div class="fault" role="alert">
    <p><strong>${problem.message.charAt(0).toUpperCase() + problem.message.slice(1)}</strong></p>
    ${problem.errors?.length > 0 &&
    html`<ul>
      ${problem.errors.map((one) => html`<li><code>${one.pointer}</code> ${one.detail}</li>`)}
    </ul>`}
    ${children} ${problem.requestId && problem.status >= 500 && html`<p class="muted small">Request ${problem.requestId}</p>`}
    ${retry && html`<button type="button" class="button" onClick=${retry}>Try again</button>`}
  </div>`;
}

/** Nothing to show. `alone`: there is no other heading on the page. */
export function Empty({ heading, alone, children }) {
  return html`<div class="empty">
    <svg viewBox="0 0 120 40" aria-hidden="true">
      <path d="M4 20h14l8-12 9 26 10-32 9 30 8-18 7 8h16l6-9 6 12 5-5h14" />
    </svg>
    ${alone ? html`<h1>${heading}</h1>` : html`<h2>${heading}</h2>`} ${children}
  </div>`;
}

/** A dialog over the page; Escape and the first button close it. */
export function Confirm({ heading, children, action, danger, busy, onConfirm, onClose }) {
  const dialog = useRef();
  useEffect(() => dialog.current.showModal(), []);
  return html`<dialog ref=${dialog} aria-labelledby="confirm" onClose=${onClose}>
    <h2 id="confirm">${heading}</h2>
    ${children}
    <div class="actions end">
      <button type="button" class="button" onClick=${() => dialog.current.close()}>Cancel</button>
      <button type="button" class=${`button ${danger ? "danger" : "primary"}`} disabled=${busy} onClick=${onConfirm}>
        ${action}
      </button>
    </div>
  </dialog>`;
}

/** A menu of actions under a button. */
export function Menu({ label, items }) {
  const [open, setOpen] = useState(false);
  const menu = useRef();
  useEffect(() => {
    if (!open) return undefined;
    const away = (event) => {
      if (event.type === "keydown" ? event.key === "Escape" : !menu.current.contains(event.target)) {
        setOpen(false);
        if (event.type === "keydown") menu.current.querySelector("button").focus();
      }
    };
    document.addEventListener("click", away);
    document.addEventListener("keydown", away);
    return () => {
      document.removeEventListener("click", away);
      document.removeEventListener("keydown", away);
    };
  }, [open]);
  return html`<div class="menu" ref=${menu}>
    <button type="button" class="button" aria-expanded=${open} onClick=${() => setOpen(!open)}>
      ${label} <${Icon} path="M5.5 8l4.5 4.5L14.5 8" />
    </button>
    ${open &&
    html`<ul>
      ${items.map(
        ([name, run]) =>
          html`<li>
            <button type="button" onClick=${() => { setOpen(false); run(); }}>${name}</button>
          </li>`,
      )}
    </ul>`}
  </div>`;
}

/** Runs `task` now, then `pause(result)` milliseconds after each end while the page is visible. */
export function usePolling(task, pause, inputs) {
  useEffect(() => {
    let timer;
    let live = true;
    const run = async () => {
      clearTimeout(timer);
      const result = document.hidden ? undefined : await task(() => live);
      if (live) timer = setTimeout(run, pause(result));
    };
    const shown = () => document.hidden || run();
    document.addEventListener("visibilitychange", shown);
    run();
    return () => {
      live = false;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", shown);
    };
  }, inputs);
}

/** A message for screen readers, and for all at the lower edge for a moment. */
export function Toast({ text }) {
  return html`<div class=${`toast ${text ? "shown" : ""}`} role="status">${text}</div>`;
}
