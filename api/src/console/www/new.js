// New jobs: choose recordings, prepare them, upload them, submit.

import { useRef, useState } from "./vendor/hooks.js";
import { MAX_PARTS, Unsuitable, prepare, upload } from "./audio.js";
import { forUser, post, requestId, send, service } from "./api.js";
import { bytes, languageName, length, plural } from "./format.js";
import { Fault, Icon, html } from "./parts.js";
import { session } from "./session.js";

/** In characters; metadata has at most 512 bytes. */
const MAX_TITLE = 120;

/** Uploads at once. */
const AT_ONCE = 3;

const LANGUAGES = [
  ["", "Detect the language"],
  ...["en", "de", "fr", "es", "it", "nl", "pt", "pl", "ru", "uk", "tr", "ar", "hi", "zh", "ja", "ko"].map((code) => [
    code,
    languageName(code),
  ]),
];

let ids = 0;

function Recording({ item, first, last, busy, move, remove }) {
  const { file, state } = item;
  const about = {
    preparing: "Preparing…",
    ready: item.parts && [length(item.seconds), item.parts.length > 1 && `divided into ${item.parts.length} parts`].filter(Boolean).join(", "),
    unsuitable: "",
  }[state];
  return html`<li class="recording">
    <div class="recording-row">
      <span class="recording-text">
        <span class="recording-name">${file.name}</span>
        <span class="muted small">${bytes(file.size)}${about && ` · ${about}`}</span>
      </span>
      <progress class=${busy ? "" : "over"} max="1" value=${item.progress} aria-label=${`Upload of ${file.name}`}></progress>
      <span class="recording-actions">
        <button type="button" class="tool" disabled=${busy || first} aria-label=${`Move ${file.name} up`} onClick=${() => move(-1)}>
          <${Icon} path="M5 12l5-5 5 5" />
        </button>
        <button type="button" class="tool" disabled=${busy || last} aria-label=${`Move ${file.name} down`} onClick=${() => move(1)}>
          <${Icon} path="M5 8l5 5 5-5" />
        </button>
        <button type="button" class="tool" disabled=${busy} aria-label=${`Remove ${file.name}`} onClick=${remove}>
          <${Icon} path="M5.5 5.5l9 9m0-9l-9 9" />
        </button>
      </span>
    </div>
    ${state === "unsuitable" &&
    html`<div class="why" role="alert">
      <p><strong>${item.why}</strong>${item.byCommand && " Use the command line, which divides it into parts:"}</p>
      ${item.byCommand && html`<pre tabindex="0" aria-label="Command"><code>${command(file.name)}</code></pre>`}
    </div>`}
  </li>`;
}

/** A word of a shell's command line. */
const quoted = (text) => `'${text.replace(/'/g, "'\\''")}'`;

function command(name) {
  const user = session.config.auth === "none" ? ` --user ${quoted(session.user)}` : "";
  return `longhand --url ${service} transcribe ${quoted(name)}${user} --wait`;
}

/** Runs `task` for each entry, some at once; the first failure ends it. */
async function several(entries, task) {
  const waiting = [...entries.entries()];
  const worker = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) await task(next[1], next[0]);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
}

/** Uploads the parts of some recordings and submits them as one job; its id. */
async function submit(items, options, progress) {
  const parts = items.flatMap((item) => item.parts.map((part) => ({ ...part, item })));
  const files = parts.map(({ name, blob }) => ({ name, contentType: blob.type || "audio/wav", bytes: blob.size }));
  const { uploads } = await post("uploads", forUser({ files }));
  const done = new Map(parts.map((part) => [part, 0]));
  await several(parts, (part, index) =>
    upload(uploads[index], part.blob, (share) => {
      done.set(part, share);
      const own = parts.filter(({ item }) => item === part.item);
      progress(part.item.id, own.reduce((sum, one) => sum + done.get(one), 0) / own.length);
    }),
  );
  const body = forUser({ audioChunkPaths: uploads.map((upload) => upload.audioChunkPath), ...options });
  const headers = { "idempotency-key": requestId() };
  // The same request again is the same job.
  const call = () => send("transcribe", { method: "POST", body, headers });
  const answer = await call().catch((problem) => (problem.status === 0 ? call() : Promise.reject(problem)));
  return (await answer.json()).jobId;
}

export function NewJob() {
  const [items, setItems] = useState([]);
  const [over, setOver] = useState(false);
  const [together, setTogether] = useState(true);
  const [language, setLanguage] = useState("");
  const [name, setName] = useState("");
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState(null);
  const input = useRef();

  const change = (id, fields) =>
    setItems((items) => items.map((item) => (item.id === id ? { ...item, ...fields } : item)));
  const add = async (files) => {
    const added = [...files].map((file) => ({ id: (ids += 1), file, state: "preparing", progress: 0 }));
    setItems((items) => [...items, ...added]);
    // One at a time: decoding takes memory.
    for (const { id, file } of added) {
      try {
        change(id, { state: "ready", ...(await prepare(file)) });
      } catch (error) {
        if (!(error instanceof Unsuitable)) console.error(error);
        change(id, { state: "unsuitable", why: error.message, byCommand: error.byCommand ?? true });
      }
    }
  };
  const drop = (event) => {
    event.preventDefault();
    setOver(false);
    if (!busy) add(event.dataTransfer.files);
  };
  const move = (index, by) => {
    const moved = [...items];
    moved.splice(index + by, 0, ...moved.splice(index, 1));
    setItems(moved);
  };
  const parts = items.reduce((sum, item) => sum + (item.parts?.length ?? 0), 0);
  const tooMany = together && parts > MAX_PARTS;
  const ready = items.length > 0 && items.every((item) => item.state === "ready") && !tooMany;

  const start = async (event) => {
    event.preventDefault();
    setBusy(true);
    setProblem(null);
    const progress = (id, share) => change(id, { progress: share });
    const jobs = together ? [items] : items.map((item) => [item]);
    let sent = [];
    try {
      const made = [];
      for (const job of jobs) {
        const given = name.trim();
        const title = given || (job.length === 1 ? job[0].file.name : `${job[0].file.name} and ${job.length - 1} more`);
        const options = { timestamps: "word", metadata: { title: title.slice(0, MAX_TITLE) }, ...(language && { language }) };
        made.push(await submit(job, options, progress));
        sent = [...sent, ...job];
      }
      location.hash = made.length === 1 ? `#/job/${made[0]}` : "#/";
    } catch (error) {
      // What was submitted is not submitted again.
      setItems((items) => items.filter((item) => !sent.some((one) => one.id === item.id)).map((item) => ({ ...item, progress: 0 })));
      setProblem(error);
      setBusy(false);
    }
  };

  if (!session.config.uploads) {
    return html`<h1>New transcript</h1>
      <div class="note">
        <p>This server does not accept uploads, because it has no bucket. Its operator may set <code>LONGHAND_AUDIO_BUCKETS</code>.</p>
      </div>`;
  }
  return html`<h1>New transcript</h1>
    <form onSubmit=${start}>
      <div
        class=${`drop ${over ? "over" : ""} ${items.length ? "small-drop" : ""}`}
        onDragOver=${(event) => { event.preventDefault(); setOver(true); }}
        onDragLeave=${() => setOver(false)}
        onDrop=${drop}
      >
        <${Icon} path="M10 13V3.5M6 7l4-4 4 4M3.5 12v3.5h13V12" />
        <p><strong>Drop recordings here</strong> or choose them. Long recordings are divided into parts in this page.</p>
        <input ref=${input} class="visually-hidden" id="files" type="file" multiple accept="audio/*,video/*" disabled=${busy}
          onChange=${(event) => { add(event.target.files); event.target.value = ""; }} />
        <label class="button" for="files">Choose files</label>
      </div>
      ${items.length > 0 &&
      html`<ol class="list recordings" aria-label="Recordings">
          ${items.map(
            (item, index) => html`<${Recording}
              key=${item.id}
              item=${item}
              first=${index === 0}
              last=${index === items.length - 1}
              busy=${busy}
              move=${(by) => move(index, by)}
              remove=${() => setItems(items.filter((one) => one.id !== item.id))}
            />`,
          )}
        </ol>
        ${tooMany &&
        html`<div class="fault" role="alert">
          <p><strong>These recordings have ${parts} parts. One transcript can have ${MAX_PARTS}.</strong> Make one transcript of each recording, or remove recordings.</p>
        </div>`}
        <div class="options">
          ${items.length > 1 &&
          html`<fieldset>
            <legend>Transcripts</legend>
            <label class="check"><input type="radio" name="together" checked=${together} onChange=${() => setTogether(true)} />One transcript, in this order</label>
            <label class="check"><input type="radio" name="together" checked=${!together} onChange=${() => setTogether(false)} />One transcript of each recording</label>
          </fieldset>`}
          <div class="field">
            <label for="title">Title</label>
            <input id="title" maxlength=${MAX_TITLE} value=${name} placeholder="The name of the file" onInput=${(event) => setName(event.target.value)} />
          </div>
          <div class="field">
            <label for="language">Language</label>
            <select id="language" onChange=${(event) => setLanguage(event.target.value)}>
              ${LANGUAGES.map(([code, text]) => html`<option value=${code} selected=${code === language}>${text}</option>`)}
            </select>
          </div>
        </div>
        <${Fault} problem=${problem} />
        <div class="actions">
          <button class="button primary" disabled=${!ready || busy}>
            ${busy ? "Uploading…" : `Transcribe ${plural(items.length, "recording")}`}
          </button>
          <a class="button" href="#/">Cancel</a>
        </div>`}
    </form>`;
}
