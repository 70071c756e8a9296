// One job: its text, its parts, and what can be done with it.

import { useEffect, useState } from "./vendor/hooks.js";
import { get, post, send } from "./api.js";
import { follow } from "./events.js";
import { ago, audioLength, languageName, length, moment, plural, title, took, withParts } from "./format.js";
import { Confirm, Empty, Fault, Icon, Menu, Status, Toast, html } from "./parts.js";
import { Parts } from "./timeline.js";
import { Transcript } from "./transcript.js";

/** Changes within this time are read together. */
const TOGETHER_MS = 250;

const FORMATS = [
  ["Text (.txt)", "text/plain", "txt"],
  ["Subtitles (.srt)", "application/x-subrip", "srt"],
  ["Subtitles (.vtt)", "text/vtt", "vtt"],
  ["Everything (.json)", "application/json", "json"],
];

function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** Also where pages without TLS have no clipboard. */
async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "visually-hidden";
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done ? undefined : Promise.reject(new Error("not copied"));
}

/** The job, which is read again when it changes. */
function useJob(id) {
  const [job, setJob] = useState(null);
  const [problem, setProblem] = useState(null);
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const stop = new AbortController();
    const { signal } = stop;
    const read = async () => {
      const read = await get(`transcript/${id}?words=true`, { signal });
      setJob(read);
      return read;
    };
    let timer;
    const changed = (name, data) => {
      if (name === "chunk") {
        setJob((job) => job && patched(job, data));
      } else if (data.segments) {
        setJob(data);
        return;
      }
      clearTimeout(timer);
      timer = setTimeout(() => read().catch(() => {}), TOGETHER_MS);
    };
    const run = async () => {
      const first = await read();
      setProblem(null);
      if (first.jobStatus !== "IN_PROGRESS") return;
      await follow(id, changed, signal);
      clearTimeout(timer);
      await read();
    };
    run().catch((error) => signal.aborted || setProblem(error));
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }, [id, turn]);
  return { job, problem, again: () => setTurn((turn) => turn + 1), setJob };
}

/** The job with what an event says of a chunk, until it is read again. */
function patched(job, { index, chunkStatus, attempts, error, running }) {
  const chunks = job.chunks.map((chunk) => {
    if (chunk.index !== index) return chunk;
    const history = running ? [...(chunk.history ?? []).filter((one) => one.outcome !== "RUNNING"), running] : chunk.history;
    return { ...chunk, chunkStatus, attempts, error, history };
  });
  return { ...job, chunks };
}

function useClock(running) {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    setNow(Date.now());
    if (!running) return undefined;
    const timer = setInterval(() => setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, [running]);
  return now;
}

function Delete({ job, onClose }) {
  const [audio, setAudio] = useState(true);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState(null);
  const erase = async () => {
    setBusy(true);
    try {
      await send(`transcript/${job.jobId}${audio ? "?audio=true" : ""}`, { method: "DELETE" });
      location.hash = "#/";
    } catch (error) {
      setProblem(error);
      setBusy(false);
    }
  };
  return html`<${Confirm} heading="Delete this transcript?" action="Delete" danger=${true} busy=${busy} onConfirm=${erase} onClose=${onClose}>
    <p>“${title(job)}” is deleted for good, with its text and history.</p>
    <label class="check">
      <input type="checkbox" checked=${audio} onChange=${(event) => setAudio(event.target.checked)} />
      Delete the uploaded audio too
    </label>
    <${Fault} problem=${problem} />
  </${Confirm}>`;
}

function Facts({ job, now }) {
  const running = job.jobStatus === "IN_PROGRESS";
  const done = job.chunks.filter((chunk) => ["COMPLETED", "FAILED"].includes(chunk.chunkStatus)).length;
  const until = running ? now : Date.parse(job.completedTime);
  const others = Object.entries(job.metadata ?? {}).filter(([name]) => name !== "title");
  return html`<p class="facts">
      <${Status} status=${job.jobStatus} />
      ${audioLength(job) !== undefined && html`<span>${length(audioLength(job))} of audio</span>`}
      <span>${running ? `${done} of ${plural(job.chunks.length, "part")}` : plural(job.chunks.length, "part")}</span>
      <time datetime=${job.submittedTime} title=${moment(job.submittedTime)}>${ago(job.submittedTime, now)}</time>
      <span>${running ? "for" : "took"} ${took(Math.max(0, until - Date.parse(job.submittedTime)) / 1000)}</span>
      ${job.language && html`<span>${languageName(job.language)}</span>`}
      ${others.map(([name, value]) => html`<span>${name}: ${value}</span>`)}
    </p>
    <progress
      class=${running ? "" : "over"}
      max=${job.chunks.length}
      value=${done}
      aria-label="Parts that are done"
    ></progress>`;
}

export function Job({ id }) {
  const { job, problem, again } = useJob(id);
  const [asking, setAsking] = useState(false);
  const [fault, setFault] = useState(null);
  const [toast, setToast] = useState("");
  const now = useClock(job?.jobStatus === "IN_PROGRESS");
  useEffect(() => {
    const timer = setTimeout(() => setToast(""), 2500);
    return () => clearTimeout(timer);
  }, [toast]);
  useEffect(() => {
    if (job) document.title = `${title(job)} · Longhand`;
  }, [job && title(job)]);

  if (problem?.status === 404) {
    return html`<${Empty} heading="There is no such transcript" alone=${true}>
      <p>It was deleted, has expired, or belongs to somebody else.</p>
      <a class="button" href="#/">All transcripts</a>
    </${Empty}>`;
  }
  if (!job) return html`<${Fault} problem=${problem} retry=${again} />${!problem && html`<div class="list skeleton" aria-busy="true" aria-label="Loading"></div>`}`;

  const retry = async () => {
    setFault(null);
    await post(`transcript/${id}/retry`).then(again, setFault);
  };
  const download = async ([, type, extension]) => {
    setFault(null);
    try {
      const answer = await send(`transcript/${id}${extension === "json" ? "?words=true" : ""}`, { headers: { accept: type } });
      const content = extension === "json" ? await answer.blob() : new Blob([withParts(await answer.text())], { type });
      save(`${title(job).replace(/[^\p{L}\p{N}._ -]/gu, "_").slice(0, 80)}.${extension}`, content);
    } catch (error) {
      setFault(error);
    }
  };
  const copied = () =>
    copy(withParts(job.transcription ?? "")).then(() => setToast("Copied"), () => setToast("The browser did not allow it."));
  const failed = job.chunks.filter((chunk) => chunk.chunkStatus === "FAILED").length;
  return html`<div class="head">
      <h1>${title(job)}</h1>
      <div class="actions">
        ${job.jobStatus === "FAILED" &&
        html`<button type="button" class="button primary" onClick=${retry}>
          <${Icon} path="M15.5 10a5.5 5.5 0 1 1-1.7-4M14 2.5V6h-3.5" />Retry ${plural(failed, "failed part")}
        </button>`}
        <button type="button" class="button" disabled=${!job.transcription} onClick=${copied}>Copy</button>
        <${Menu} label="Download" items=${FORMATS.map((format) => [format[0], () => download(format)])} />
        <button type="button" class="button quiet-danger" onClick=${() => setAsking(true)}>Delete</button>
      </div>
    </div>
    <${Facts} job=${job} now=${now} />
    <${Fault} problem=${fault ?? problem} />
    <${Transcript} job=${job} />
    <${Parts} job=${job} now=${now} />
    ${asking && html`<${Delete} job=${job} onClose=${() => setAsking(false)} />`}
    <${Toast} text=${toast} />`;
}
