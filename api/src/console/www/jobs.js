// The list of jobs.

import { useEffect, useState } from "./vendor/hooks.js";
import { search } from "./api.js";
import { ago, audioLength, length, moment, plural, title, withParts } from "./format.js";
import { Empty, Fault, Icon, Status, html, usePolling } from "./parts.js";
import { session } from "./session.js";

const PAGE = 15;
/** What the search field looks at: the newest jobs, in so many pages. */
const SEARCHED_PAGES = 5;
const SEARCHED_PAGE = 50;

const FILTERS = [
  ["", "All"],
  ["IN_PROGRESS", "In progress"],
  ["COMPLETED", "Completed"],
  ["FAILED", "Failed"],
];

const matches = (job, words) => {
  const text = [title(job), job.jobId, withParts(job.transcription ?? ""), ...job.chunks.map((chunk) => chunk.audioChunkPath)];
  const all = text.join("\n").toLowerCase();
  return words.every((word) => all.includes(word));
};

/** The jobs that contain all words of the query, among the newest ones. */
async function find(wanted, query, live) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const results = [];
  let cursor;
  for (let page = 0; page < SEARCHED_PAGES && live(); page += 1) {
    const found = await search({ ...wanted, limit: SEARCHED_PAGE, cursor });
    results.push(...found.results.filter((job) => matches(job, words)));
    cursor = found.nextCursor;
    if (!cursor) break;
  }
  return { results, nextCursor: null };
}

function useDelayed(value, ms) {
  const [delayed, setDelayed] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setDelayed(value), ms);
    return () => clearTimeout(timer);
  }, [value]);
  return delayed;
}

function Row({ job }) {
  const done = job.chunks.filter((chunk) => ["COMPLETED", "FAILED"].includes(chunk.chunkStatus)).length;
  const running = job.jobStatus === "IN_PROGRESS";
  const seconds = audioLength(job);
  return html`<li>
    <a class="row" href=${`#/job/${job.jobId}`}>
      <${Status} status=${job.jobStatus} short=${true} />
      <span class="row-text">
        <span class="row-title">${title(job)}</span>
        <span class="row-snippet">
          ${running ? `${done} of ${plural(job.chunks.length, "part")} done` : withParts(job.transcription ?? "No text")}
        </span>
      </span>
      <span class="row-length"><span class="visually-hidden">Length </span>${length(seconds)}</span>
      <time class="row-time" datetime=${job.submittedTime} title=${moment(job.submittedTime)}
        >${ago(job.submittedTime)}</time
      >
    </a>
  </li>`;
}

export function Jobs() {
  const [status, setStatus] = useState("");
  const [typed, setTyped] = useState("");
  const query = useDelayed(typed.trim(), 300);
  const [cursors, setCursors] = useState([]);
  const [page, setPage] = useState(null);
  const [problem, setProblem] = useState(null);
  const [again, setAgain] = useState(0);
  const [other, setOther] = useState("");
  const user = useDelayed(other.trim(), 500);
  const cursor = cursors.at(-1);
  const wanted = { jobStatus: status, ...(user && { userId: user }) };

  const load = async (live) => {
    try {
      const found = query
        ? await find(wanted, query, live)
        : await search({ ...wanted, limit: PAGE, cursor });
      if (!live()) return undefined;
      setPage(found);
      setProblem(null);
      return found;
    } catch (error) {
      if (live()) setProblem(error);
      return undefined;
    }
  };
  const pause = (found) => {
    if (query) return 30000;
    return found?.results.some((job) => job.jobStatus === "IN_PROGRESS") ? 2000 : 8000;
  };
  usePolling(load, pause, [status, query, user, cursor, again]);

  const choose = (value) => {
    setStatus(value);
    setCursors([]);
    setPage(null);
  };
  const results = page?.results ?? [];
  return html`<div class="head">
      <h1>Transcripts</h1>
      <a class="button primary" href="#/new"><${Icon} path="M10 4v12M4 10h12" />New transcript</a>
    </div>
    <div class="tools">
      <div class="tabs" role="group" aria-label="Status">
        ${FILTERS.map(
          ([value, name]) =>
            html`<button type="button" aria-pressed=${value === status} onClick=${() => choose(value)}>${name}</button>`,
        )}
      </div>
      ${session.operator &&
      html`<div class="search user-search">
        <${Icon} path="M10 10a3 3 0 1 0 0-6 3 3 0 0 0 0 6zm-6 6.5c1-3 3.3-4 6-4s5 1 6 4" />
        <input
          aria-label="User whose transcripts are listed"
          placeholder=${session.user}
          value=${other}
          onInput=${(event) => {
            setOther(event.target.value);
            setCursors([]);
          }}
        />
      </div>`}
      <div class="search">
        <${Icon} path="M9 4a5 5 0 1 0 0 10A5 5 0 0 0 9 4zm4 9l4 4" />
        <input
          type="search"
          aria-label="Search titles, job ids, file names and texts of the newest transcripts"
          placeholder="Search"
          value=${typed}
          onInput=${(event) => setTyped(event.target.value)}
        />
      </div>
    </div>
    <${Fault} problem=${problem} retry=${() => setAgain(again + 1)} />
    ${!page && !problem && html`<div class="list skeleton" aria-busy="true" aria-label="Loading"></div>`}
    ${page && results.length > 0 && html`<ul class="list">${results.map((job) => html`<${Row} key=${job.jobId} job=${job} />`)}</ul>`}
    ${page && results.length === 0 && query && html`<${Empty} heading="Nothing found">
      <p>None of the newest transcripts (at most ${SEARCHED_PAGES * SEARCHED_PAGE}) contains “${query}”.</p>
    </${Empty}>`}
    ${page && results.length === 0 && !query && (status || cursor
      ? html`<${Empty} heading="None here">
          <p>There are no ${cursor ? "more transcripts" : "transcripts with this status"}.</p>
        </${Empty}>`
      : html`<${Empty} heading="No transcripts yet">
          <p>Drop a recording, and read along while it is transcribed.</p>
          <a class="button primary" href="#/new">New transcript</a>
        </${Empty}>`)}
    <nav class="pages" aria-label="Pages">
      ${cursors.length > 0 && html`<button type="button" class="button" onClick=${() => setCursors(cursors.slice(0, -1))}>Newer</button>`}
      ${page?.nextCursor &&
      html`<button type="button" class="button" onClick=${() => { setCursors([...cursors, page.nextCursor]); scrollTo(0, 0); }}>Older</button>`}
    </nav>`;
}
