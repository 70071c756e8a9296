// Times, sizes and names for people.

const rtf = new Intl.RelativeTimeFormat(undefined, { numeric: "auto", style: "short" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const number = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });

const pad = (value) => String(value).padStart(2, "0");

/** `4:05`, `1:02:03`. */
export function length(seconds) {
  if (seconds === undefined || seconds === null || !Number.isFinite(seconds)) return "–";
  const all = Math.round(seconds);
  const [hours, minutes] = [Math.floor(all / 3600), Math.floor(all / 60) % 60];
  return hours ? `${hours}:${pad(minutes)}:${pad(all % 60)}` : `${minutes}:${pad(all % 60)}`;
}

/** `1.7 s`, `3 min`. */
export function took(seconds) {
  if (seconds < 60) return `${number.format(seconds)} s`;
  return seconds < 3600 ? `${number.format(seconds / 60)} min` : `${number.format(seconds / 3600)} h`;
}

/** `3 min. ago`. */
export function ago(time, now = Date.now()) {
  const seconds = (Date.parse(time) - now) / 1000;
  for (const [unit, size] of [["day", 86400], ["hour", 3600], ["minute", 60]]) {
    if (Math.abs(seconds) >= size) return rtf.format(Math.round(seconds / size), unit);
  }
  return "just now";
}

export const moment = (time) => full.format(new Date(time));
export const hour = (time) => clock.format(new Date(time));
export const count = (value) => number.format(value);

export function bytes(size) {
  return size < 1e6 ? `${number.format(size / 1e3)} KB` : `${number.format(size / 1e6)} MB`;
}

const languages = new Intl.DisplayNames(undefined, { type: "language" });

/** `German`; a tag that the browser does not know as it is. */
export function languageName(tag) {
  try {
    return languages.of(tag);
  } catch {
    return tag;
  }
}

export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;

/** A text of the API with parts that are counted from 1, as in this page. The API counts chunks from 0. */
export function withParts(text) {
  const part = (index) => `part ${Number(index) + 1}`;
  return text
    .replace(/\[chunk (\d+) (failed|pending)\]/g, (_, index, state) => `[${part(index)} ${state}]`)
    .replace(/the length of chunk (\d+) is not known/, (_, index) => `the length of ${part(index)} is not known`);
}

/** The last part of a path, without a query. */
export function fileName(path) {
  const plain = path.split(/[?#]/)[0];
  const name = plain.split("/").filter(Boolean).pop() ?? path;
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

export function title(job) {
  const given = job.metadata?.title;
  if (given) return given;
  const [first, ...rest] = (job.chunks ?? []).map((chunk) => fileName(chunk.audioChunkPath));
  if (!first) return job.jobId;
  return rest.length ? `${first} and ${rest.length} more` : first;
}

/** The whole length of a job's audio, as far as it is known. */
export function audioLength(job) {
  const known = (job.chunks ?? []).map((chunk) => chunk.durationSeconds).filter((one) => one !== undefined);
  return known.length ? known.reduce((sum, one) => sum + one, 0) : undefined;
}
