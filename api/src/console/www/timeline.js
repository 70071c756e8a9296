// The parts of a job: each with a timeline of its attempts, why it failed, and what to do.

import { fileName, hour, length, moment, plural, took } from "./format.js";
import { Status, html } from "./parts.js";

/** By error code: what went wrong, and what its user can do. */
const CODES = {
  AUDIO_NOT_FOUND: ["There is no audio at this path.", "Upload the recording and submit it again."],
  AUDIO_FORBIDDEN: ["The service is not allowed to read the audio.", "Give it access, or upload the recording here."],
  AUDIO_TOO_LARGE: ["The audio is larger than 5 MB.", "Cut it into smaller parts."],
  AUDIO_TOO_LONG: ["The audio is longer than five and a half minutes.", "Cut it into parts of up to five minutes."],
  AUDIO_EMPTY: ["The file is empty.", "Check the recording, and submit it again."],
  AUDIO_UNSUPPORTED: ["The file is not audio.", "Submit the recording itself."],
  ASR_REJECTED: ["The model rejected the audio.", "Do as the message below says. Often the file is damaged."],
  ASR_UNAVAILABLE: ["The model failed on this part, or the model or the host of the audio was unavailable for too long.", "Retry. If it fails again, ask the operator."],
  ASR_TIMEOUT: ["The model took too long.", "Cut the audio into shorter parts, or ask the operator to raise the limit."],
  ASR_PROTOCOL: ["The model answered without a transcription.", "Ask the operator to check the address of the model."],
  TRANSCRIPT_TOO_LARGE: ["The text is too long: probably the model repeats itself.", "Submit shorter parts."],
  DEAD_LETTERED: ["Attempts took too long, or their workers crashed.", "Ask the operator to look into the workers' logs."],
  INTERNAL: ["A fault in Longhand.", "Retry. If it fails again, report it to the operator."],
};

const OUTCOMES = {
  RUNNING: "running",
  COMPLETED: "transcribed",
  FAILED: "failed",
  THROTTLED: "the model was busy; the part was returned to the queue",
  MODEL_DOWN: "the model was down; the part was returned to the queue",
  AUDIO_DOWN: "the audio was not available; the part was returned to the queue",
  DRAINED: "the worker was stopped, and another takes over",
  LEASE_LOST: "the worker lost its lease",
  OVERDUE: "it took too long",
  LOST: "the worker was lost",
};

const WIDTH = 1000;

function outcome(attempt) {
  const text = OUTCOMES[attempt.outcome] ?? attempt.outcome;
  const calls = attempt.asrCalls > 1 ? ` after ${plural(attempt.asrCalls, "call")} of the model` : "";
  return attempt.outcome === "RUNNING" && attempt.code ? `retrying (call ${attempt.asrCalls + 1} of ${attempt.mostCalls})` : text + calls;
}

/** Where an attempt ends, in milliseconds since 1970: one that runs at `now`. */
const end = (attempt, now) => (attempt.seconds === undefined ? now : Date.parse(attempt.startedTime) + attempt.seconds * 1000);

/** The span of all attempts of a job. */
function span(job, now) {
  const attempts = job.chunks.flatMap((chunk) => chunk.history ?? []);
  const from = Date.parse(job.submittedTime);
  const running = job.jobStatus === "IN_PROGRESS" ? now : 0;
  const last = Math.max(from + 1000, running, ...attempts.map((attempt) => end(attempt, from)));
  return { from: Math.min(from, ...attempts.map((attempt) => Date.parse(attempt.startedTime))), to: last };
}

function Line({ chunk, from, to }) {
  const place = (time) => ((time - from) / (to - from)) * WIDTH;
  const history = chunk.history ?? [];
  return html`<svg class="line" viewBox=${`0 0 ${WIDTH} 16`} preserveAspectRatio="none" aria-hidden="true">
    <rect class="track" x="0" y="7" width=${WIDTH} height="2" />
    ${history.map((attempt) => {
      const [begin, until] = [place(Date.parse(attempt.startedTime)), place(end(attempt, to))];
      return html`<rect class=${`attempt ${attempt.outcome.toLowerCase()}`} x=${begin} y="2" height="12" width=${Math.max(6, until - begin)}>
        <title>${outcome(attempt)}</title>
      </rect>`;
    })}
  </svg>`;
}

function Attempts({ chunk }) {
  if (!chunk.history?.length) return null;
  return html`<ol class="attempts">
    ${chunk.history.map(
      (attempt) => html`<li>
        <time datetime=${attempt.startedTime} title=${moment(attempt.startedTime)}>${hour(attempt.startedTime)}</time>
        <span>${attempt.seconds === undefined ? "" : took(attempt.seconds)}</span>
        <span>${outcome(attempt)} ${attempt.code && html`<code>${attempt.code}</code>`}</span>
        <span class="muted">${attempt.worker}</span>
      </li>`,
    )}
  </ol>`;
}

function Part({ chunk, range }) {
  const [why, remedy] = CODES[chunk.error?.code] ?? [];
  return html`<li class="part">
    <details open=${chunk.chunkStatus === "FAILED"}>
      <summary>
        <${Status} status=${chunk.chunkStatus} short=${true} />
        <span class="part-name"><span class="muted">${chunk.index + 1}</span> ${fileName(chunk.audioChunkPath)}</span>
        <${Line} chunk=${chunk} from=${range.from} to=${range.to} />
        <span class="part-length">${length(chunk.durationSeconds)}</span>
      </summary>
      ${chunk.error &&
      html`<div class="why">
        <p><strong>${why ?? "It failed."}</strong> ${remedy}</p>
        <p class="muted small"><code>${chunk.error.code}</code> ${chunk.error.message}</p>
      </div>`}
      ${chunk.warnings?.map((warning) => html`<p class="warning">${warning.message} <code>${warning.code}</code></p>`)}
      <${Attempts} chunk=${chunk} />
      ${!chunk.history?.length && chunk.chunkStatus === "PENDING" && html`<p class="muted small">No attempt yet: it waits for a worker.</p>`}
    </details>
  </li>`;
}

export function Parts({ job, now }) {
  const range = span(job, now);
  return html`<section class="parts" aria-labelledby="parts">
    <div class="head small-head">
      <h2 id="parts">Parts</h2>
      <p class="muted small">
        ${hour(range.from)} to ${hour(range.to)}, ${took((range.to - range.from) / 1000)}
      </p>
    </div>
    <ol>
      ${job.chunks.map((chunk) => html`<${Part} key=${chunk.index} chunk=${chunk} range=${range} />`)}
    </ol>
  </section>`;
}
