// The text of a job, and its player.

import { useEffect, useMemo, useRef, useState } from "./vendor/hooks.js";
import { address, post } from "./api.js";
import { fileName, length } from "./format.js";
import { html } from "./parts.js";

/** A ticket is renewed when it is valid for less than this. */
const RENEW_MS = 60000;
/** Audio that fails is loaded again with a new ticket, but not more often than this. */
const RELOAD_MS = 10000;

/** When each chunk begins, in seconds, as the API adds up their lengths: a second for one without a text. */
function begins(job) {
  let at = job.startOffset ?? 0;
  return job.chunks.map((chunk) => {
    const begin = at;
    const cues = (job.segments ?? []).filter((cue) => cue.chunk === chunk.index);
    at += chunk.durationSeconds || Math.max(0, ...cues.map((cue) => cue.end - begin));
    return begin;
  });
}

/** What can be clicked: the words of a segment if their times are known, else the segment. */
function pieces(job, cue, begin) {
  const local = (time) => Math.max(0, time - begin);
  if (!cue.words?.length) return [{ text: cue.text, before: " ", start: local(cue.start) }];
  // The segment's text has the spaces between words, which not all languages write.
  let read = 0;
  return cue.words.map(({ word, start }, place) => {
    const found = cue.text.indexOf(word, read);
    const before = place === 0 || found < 0 ? " " : cue.text.slice(read, found);
    if (found >= 0) read = found + word.length;
    return { text: word, before, start: local(start) };
  });
}

/** The segments by chunk, with times within the chunk. */
export function paragraphs(job) {
  const starts = begins(job);
  // What is shown is certain: all before it is transcribed.
  const first = job.chunks.findIndex((chunk) => chunk.chunkStatus !== "COMPLETED");
  const certain = first < 0 ? job.chunks.length : first;
  return job.chunks.map((chunk) => {
    const begin = starts[chunk.index];
    const cues = (job.segments ?? []).filter((cue) => cue.chunk === chunk.index);
    const gap = cues.find((cue) => cue.gap);
    return { chunk, begin: chunk.index <= certain ? begin : undefined, gap, pieces: gap ? [] : cues.flatMap((cue) => pieces(job, cue, begin)) };
  });
}

/** Tab reaches one piece; the arrow keys go from piece to piece, Enter and the space bar play it. */
function keys(event) {
  const pieces = [...event.currentTarget.querySelectorAll(".piece")];
  const place = pieces.indexOf(event.target);
  if (place < 0) return;
  const to = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: pieces.length - 1 }[event.key];
  if (pieces[to]) {
    event.target.tabIndex = -1;
    pieces[to].tabIndex = 0;
    pieces[to].focus();
  } else if (event.key === "Enter" || event.key === " ") {
    event.target.click();
  } else {
    return;
  }
  event.preventDefault();
}

function Paragraph({ paragraph, first, play }) {
  const { chunk, begin, gap } = paragraph;
  const { chunkStatus } = chunk;
  return html`<section class="paragraph" aria-label=${`Part ${chunk.index + 1}`}>
    <button
      type="button"
      class="stamp"
      onClick=${() => play(chunk.index, 0)}
    >
      <span class="visually-hidden">Play part ${chunk.index + 1}, </span>${begin === undefined ? `#${chunk.index + 1}` : length(begin)}
    </button>
    ${chunkStatus === "FAILED" && html`<p class="gap failed">This part could not be transcribed.</p>`}
    ${(chunkStatus === "PENDING" || chunkStatus === "IN_PROGRESS") &&
    html`<p class="gap pending">${chunkStatus === "PENDING" ? "Waiting…" : "Being transcribed…"}</p>`}
    ${chunkStatus === "COMPLETED" && !gap && paragraph.pieces.length === 0 && html`<p class="gap">No speech.</p>`}
    <p>
      ${paragraph.pieces.map(
        (piece, place) =>
          html`${place > 0 && piece.before}<span
              role="button"
              tabindex=${first === piece ? 0 : -1}
              class="piece"
              data-start=${piece.start}
              onClick=${() => play(chunk.index, piece.start)}
              >${piece.text}</span
            >`,
      )}
    </p>
  </section>`;
}

/** The transcript with its player. */
export function Transcript({ job }) {
  const audio = useRef();
  const ticket = useRef(null);
  const wanted = useRef(null);
  const reloaded = useRef(0);
  const [part, setPart] = useState(null);
  const article = useRef();
  const now = useRef(null);
  const [fault, setFault] = useState(null);
  const shown = useMemo(() => paragraphs(job), [job]);
  const player = useRef();
  // Thousands of words are not drawn again while they are played: the one that is played is marked by itself.
  const text = useMemo(() => {
    const first = shown.find((paragraph) => paragraph.pieces.length > 0)?.pieces[0];
    const play = (index, time) => player.current(index, time);
    return shown.map(
      (paragraph) => html`<${Paragraph} key=${paragraph.chunk.index} paragraph=${paragraph} first=${first} play=${play} />`,
    );
  }, [shown]);
  const mark = () => {
    const place = shown[part]?.pieces.findLastIndex((piece) => piece.start <= audio.current.currentTime) ?? -1;
    const piece = article.current.children[part]?.querySelectorAll(".piece")[place];
    if (piece === now.current) return;
    now.current?.classList.remove("now");
    piece?.classList.add("now");
    now.current = piece;
  };
  const isValid = () => ticket.current && Date.parse(ticket.current.expiresTime) - Date.now() > RENEW_MS;
  const renew = async () => {
    ticket.current = await post(`transcript/${job.jobId}/tickets`, { purpose: "audio" });
  };
  const load = async (index, time) => {
    wanted.current = { index, time };
    try {
      if (!isValid()) await renew();
    } catch (problem) {
      setFault(problem.message);
      return;
    }
    if (wanted.current?.index !== index) return;
    const ticketed = `audio/${index}?ticket=${encodeURIComponent(ticket.current.ticket)}`;
    audio.current.src = address(`transcript/${job.jobId}/${ticketed}`);
    // At once: some browsers play only in the very click.
    audio.current.play().catch(() => {});
  };
  const play = async (index, time) => {
    setFault(null);
    setPart(index);
    const { current } = audio;
    if (part === index && current.readyState > 0 && !current.error) {
      current.currentTime = time;
      current.play().catch(() => {});
      return;
    }
    await load(index, time);
  };
  player.current = play;
  const ready = () => {
    if (!wanted.current || !audio.current) return;
    const { time } = wanted.current;
    wanted.current = null;
    audio.current.currentTime = Math.min(time, audio.current.duration || time);
    audio.current.play().catch(() => {});
  };
  const failed = async () => {
    if (!audio.current?.getAttribute("src")) return;
    if (Date.now() - reloaded.current > RELOAD_MS) {
      // The address may have expired.
      reloaded.current = Date.now();
      ticket.current = null;
      const { index, time } = wanted.current ?? { index: part, time: audio.current.currentTime };
      await load(index, time);
      return;
    }
    wanted.current = null;
    const why = await fetch(audio.current.src).then((answer) => answer.json()).catch(() => ({}));
    setFault(why.detail ?? "The audio cannot be played. It may have been deleted, or be in a format that this browser cannot play.");
  };
  const ended = () => {
    if (part + 1 < job.chunks.length) play(part + 1, 0);
  };
  useEffect(() => {
    // So that the first click need not wait for it.
    renew().catch(() => {});
    const { current } = audio;
    return () => current.pause();
  }, []);

  return html`<article
      ref=${article}
      class="transcript"
      aria-label="Transcript"
      aria-busy=${job.jobStatus === "IN_PROGRESS"}
      onKeyDown=${keys}
    >
      ${text}
    </article>
    <aside class=${`player ${part === null ? "" : "shown"}`} aria-label="Player">
      <div class="bar">
        <span class="player-name">
          ${part !== null && html`<span class="muted">Part ${part + 1} of ${job.chunks.length}</span> ${fileName(job.chunks[part].audioChunkPath)}`}
        </span>
        ${fault && html`<span class="player-fault" role="alert">${fault}</span>`}
        <audio
          ref=${audio}
          controls
          preload="metadata"
          onLoadedMetadata=${ready}
          onTimeUpdate=${() => audio.current && mark()}
          onError=${failed}
          onEnded=${ended}
        ></audio>
      </div>
    </aside>`;
}
