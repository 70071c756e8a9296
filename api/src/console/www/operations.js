// The state of the whole service, for operators.

import { useState } from "./vendor/hooks.js";
import { get, post } from "./api.js";
import { Bars, Share } from "./charts.js";
import { ago, count, moment, plural, took } from "./format.js";
import { Confirm, Fault, Toast, html, usePolling } from "./parts.js";

const INTERVAL_MS = 5000;

const seconds = (value) => (value === null ? "–" : took(value));

function Tile({ label, value, note, tone = "" }) {
  return html`<div class=${`tile ${tone}`}>
    <span class="tile-label">${label}</span>
    <strong>${value}</strong>
    <span class="muted small">${note}</span>
  </div>`;
}

/** The circuit breakers of all workers in a word. */
function model(workers) {
  const open = workers.filter((worker) => worker.circuitOpen).length;
  if (workers.length === 0) return ["Unknown", "No worker reports", "bad"];
  if (open === 0) return ["Available", "All circuits are closed", "good"];
  return [open === workers.length ? "Down" : "Partly down", `${open} of ${plural(workers.length, "circuit")} open`, "bad"];
}

function Tiles({ state }) {
  const { queue, deadLetters, workers } = state;
  const sum = (name) => workers.reduce((all, worker) => all + worker[name], 0);
  const [word, note, tone] = model(workers);
  return html`<div class="tiles">
    <${Tile} label="Waiting" value=${queue ? count(queue.visible) : "–"} note=${queue ? `${count(queue.inFlight)} in flight, ${count(queue.delayed)} delayed` : "The queue does not answer"} tone=${queue ? "" : "bad"} />
    <${Tile} label="Time in the queue" value=${seconds(state.waitSeconds)} note="of chunks received lately" />
    <${Tile} label="Model" value=${word} note=${note} tone=${tone} />
    <${Tile} label="In hand" value=${count(sum("inHand"))} note=${`${plural(sum("slots"), "slot")} of at most ${sum("limit")}, ${plural(workers.length, "worker")}`} />
    <${Tile} label="Dead letters" value=${deadLetters ? count(deadLetters.visible + deadLetters.hidden) : "–"} note=${deadLetters ? `${count(deadLetters.hidden)} held by workers` : "Not configured (LONGHAND_DLQ_URL), or the queue does not answer"} tone=${deadLetters?.visible > 0 ? "bad" : ""} />
  </div>`;
}

function Failures({ failures }) {
  const rows = Object.entries(failures).sort((a, b) => b[1] - a[1]);
  const most = Math.max(1, ...rows.map(([, number]) => number));
  return html`<section class="card" aria-labelledby="failures">
    <h2 id="failures">Failures by code</h2>
    ${rows.length === 0 && html`<p class="muted">No chunk has failed in the last 30 minutes.</p>`}
    <ul class="ranks">
      ${rows.map(
        ([code, number]) => html`<li>
          <code>${code}</code>
          <${Share} value=${number} most=${most} />
          <span>${count(number)}</span>
        </li>`,
      )}
    </ul>
  </section>`;
}

function Workers({ workers }) {
  return html`<section class="card" aria-labelledby="workers">
    <h2 id="workers">Workers</h2>
    ${workers.length === 0 && html`<p class="muted">No worker has reported within the last minute.</p>`}
    ${workers.length > 0 &&
    html`<div class="scroll" tabindex="0" role="group" aria-label="Table of workers">
      <table>
        <thead>
          <tr><th scope="col">Name</th><th scope="col">In hand</th><th scope="col">Slots</th><th scope="col">Circuit</th><th scope="col">Started</th><th scope="col">Reported</th></tr>
        </thead>
        <tbody>
          ${workers.map(
            (worker) => html`<tr key=${worker.name}>
              <th scope="row">${worker.name}</th>
              <td class="gauge"><${Share} value=${worker.inHand} most=${worker.slots} />${worker.inHand}</td>
              <td>${worker.slots} of at most ${worker.limit}</td>
              <td>${worker.circuitOpen ? html`<span class="bad-text">Open${worker.problem && `: ${worker.problem}`}</span>` : "Closed"}</td>
              <td><time title=${moment(worker.startedTime)}>${ago(worker.startedTime)}</time></td>
              <td><time title=${moment(worker.reportedTime)}>${ago(worker.reportedTime)}</time></td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>`}
  </section>`;
}

function DeadLetters({ state, refresh }) {
  const [listed, setListed] = useState(null);
  const [asking, setAsking] = useState(false);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState(null);
  const [toast, setToast] = useState("");
  const list = async () => {
    setProblem(null);
    await get("operations?deadLetters=true").then((state) => setListed(state.deadLetters.messages), setProblem);
  };
  const redrive = async () => {
    setBusy(true);
    try {
      const { redriven, kept } = await post("operations/redrive");
      setToast(`${redriven} sent again, ${kept} kept`);
      setListed(null);
      refresh();
    } catch (error) {
      setProblem(error);
    }
    setBusy(false);
    setAsking(false);
  };
  const { deadLetters } = state;
  if (!deadLetters) return null;
  return html`<section class="card" aria-labelledby="letters">
    <div class="head small-head">
      <h2 id="letters">Dead letters</h2>
      <div class="actions">
        <button type="button" class="button" onClick=${list}>List</button>
        <button type="button" class="button" disabled=${deadLetters.visible === 0} onClick=${() => setAsking(true)}>Redrive</button>
      </div>
    </div>
    <p class="muted">
      Workers process dead letters by themselves: a chunk is tried again, or fails with <code>DEAD_LETTERED</code>. What stays cannot be read by these workers: it is not a message of Longhand, or it is of a later version.
    </p>
    <${Fault} problem=${problem} />
    ${listed?.length === 0 && html`<p>None is visible${deadLetters.hidden > 0 ? `; ${count(deadLetters.hidden)} are held by workers` : ""}.</p>`}
    ${listed?.length > 0 &&
    html`<div class="scroll" tabindex="0" role="group" aria-label="Table of dead letters">
      <table>
        <thead><tr><th scope="col">Job</th><th scope="col">Part</th><th scope="col">Sent</th><th scope="col">Receives</th><th scope="col">Reason</th></tr></thead>
        <tbody>
          ${listed.map(
            (letter) => html`<tr key=${letter.messageId}>
              <td>${letter.jobId ? html`<a href=${`#/job/${letter.jobId}`}>${letter.jobId}</a>` : "–"}</td>
              <td>${letter.chunkIndex === null ? "–" : letter.chunkIndex + 1}</td>
              <td>${letter.sentTime ? ago(letter.sentTime) : "–"}</td>
              <td>${letter.receives}</td>
              <td>${letter.reason ?? "–"}</td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>`}
    ${asking &&
    html`<${Confirm} heading="Redrive the dead letters?" action="Redrive" busy=${busy} onConfirm=${redrive} onClose=${() => setAsking(false)}>
      <p>Up to 50 messages of chunks are sent to the queue again. Others stay.</p>
    </${Confirm}>`}
    <${Toast} text=${toast} />
  </section>`;
}

export function Operations() {
  const [state, setState] = useState(null);
  const [problem, setProblem] = useState(null);
  const [turn, setTurn] = useState(0);
  const load = (live) =>
    get("operations").then(
      (state) => {
        if (!live()) return;
        setState(state);
        setProblem(null);
      },
      (error) => live() && setProblem(error),
    );
  usePolling(load, () => INTERVAL_MS, [turn]);
  const refresh = () => setTurn(turn + 1);
  return html`<div class="head">
      <h1>Operations</h1>
      <p class="muted small">The charts show the last 30 minutes. Updated every 5 seconds.</p>
    </div>
    <${Fault} problem=${problem} retry=${refresh} />
    ${!state && !problem && html`<div class="list skeleton" aria-busy="true" aria-label="Loading"></div>`}
    ${state &&
    html`<${Tiles} state=${state} />
      <div class="charts">
        <${Bars} heading="Chunks, by minute" points=${state.minutes} stack=${["completed", "failed"]} format=${count} total=${true} />
        <${Bars} heading="Model calls, by minute" points=${state.minutes} stack=${["modelCalls"]} format=${count} total=${true} />
        <${Bars} heading="Duration of a model call" points=${state.minutes} stack=${["modelSeconds"]} format=${took} />
        <${Bars} heading="Time in the queue" points=${state.minutes} stack=${["waitSeconds"]} format=${took} />
      </div>
      <div class="two">
        <${Failures} failures=${state.failures} />
        <${DeadLetters} state=${state} refresh=${refresh} />
      </div>
      <${Workers} workers=${state.workers} />`}`;
}
