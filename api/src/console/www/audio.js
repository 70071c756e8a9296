// Prepares recordings: a long one is cut at quiet places into parts that the service takes.

/** The service takes 5 MiB and five minutes. 155 s of 16 kHz mono WAV has 4.96 MB. */
const MAX_BYTES = 5 * 1024 * 1024;
const MAX_SECONDS = 300;
const RATE = 16000;
const PART_SECONDS = 155;
/** A part ends at the quietest place of its last seconds. */
const SEARCH_SECONDS = 30;
const FRAME_SECONDS = 0.2;
export const MAX_PARTS = 24;

/** Why a recording cannot be prepared here, and whether the command line can transcribe it. */
export class Unsuitable extends Error {
  constructor(why, byCommand = true) {
    super(why);
    this.byCommand = byCommand;
  }
}

const stem = (name) => name.replace(/\.[^.]+$/, "");

/** How long a file is, in seconds, as far as the browser can tell. */
function duration(file) {
  return new Promise((resolve) => {
    const audio = new Audio();
    const url = URL.createObjectURL(file);
    const done = (seconds) => {
      URL.revokeObjectURL(url);
      audio.removeAttribute("src");
      resolve(Number.isFinite(seconds) ? seconds : undefined);
    };
    audio.preload = "metadata";
    audio.onloadedmetadata = () => done(audio.duration);
    audio.onerror = () => done(undefined);
    audio.src = url;
  });
}

/** The samples at 16 kHz, all channels mixed. */
async function decode(file) {
  const buffer = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await file.arrayBuffer());
  const mixed = new Float32Array(buffer.length);
  for (let channel = 0; channel < buffer.numberOfChannels; channel += 1) {
    const samples = buffer.getChannelData(channel);
    for (let i = 0; i < samples.length; i += 1) mixed[i] += samples[i] / buffer.numberOfChannels;
  }
  return mixed;
}

/** The middle of the quietest frame between two positions. */
function quietest(samples, from, to) {
  const frame = Math.round(FRAME_SECONDS * RATE);
  let best = { at: to, power: Infinity };
  for (let start = from; start + frame <= to; start += frame / 2) {
    let power = 0;
    for (let i = start; i < start + frame; i += 1) power += samples[i] * samples[i];
    // Of equally quiet places the latest: parts are as long as they may be.
    if (power <= best.power) best = { at: start + frame / 2, power };
  }
  return best.at;
}

/** Where samples are cut: the beginnings and ends of the parts. */
export function cuts(samples) {
  const [longest, search] = [PART_SECONDS * RATE, SEARCH_SECONDS * RATE];
  const parts = [];
  let begin = 0;
  while (samples.length - begin > longest) {
    const end = quietest(samples, begin + longest - search, begin + longest);
    parts.push([begin, end]);
    begin = end;
  }
  parts.push([begin, samples.length]);
  return parts;
}

/** 16-bit mono WAV. */
function wav(samples) {
  const view = new DataView(new ArrayBuffer(44 + samples.length * 2));
  const text = (at, word) => [...word].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + samples.length * 2, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, RATE, true);
  view.setUint32(28, RATE * 2, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, samples.length * 2, true);
  for (let i = 0; i < samples.length; i += 1) {
    const sample = Math.max(-1, Math.min(1, samples[i]));
    view.setInt16(44 + i * 2, sample < 0 ? sample * 0x8000 : sample * 0x7fff, true);
  }
  return new Blob([view], { type: "audio/wav" });
}

/** The length of a recording and its parts to upload: the file itself where the service takes it. */
export async function prepare(file) {
  if (file.size === 0) throw new Unsuitable("The file is empty. Check the recording.", false);
  const seconds = await duration(file);
  const fits = file.size <= MAX_BYTES && (seconds === undefined || seconds <= MAX_SECONDS);
  if (fits) return { seconds, parts: [{ name: file.name, blob: file }] };
  if (seconds > MAX_PARTS * PART_SECONDS) throw new Unsuitable("It is too long to be divided into parts in this page.");
  let samples;
  try {
    samples = await decode(file);
  } catch {
    throw new Unsuitable("This browser cannot decode it, so it cannot be divided into parts in this page.");
  }
  const parts = cuts(samples).map(([begin, end], index) => ({
    name: `${stem(file.name)}-${String(index + 1).padStart(2, "0")}.wav`,
    blob: wav(samples.subarray(begin, end)),
  }));
  if (parts.length > MAX_PARTS) throw new Unsuitable("It is too long to be divided into parts in this page.");
  return { seconds: samples.length / RATE, parts };
}

/** Sends a file to its signed address. `progress` is called with a number from 0 to 1. */
export function upload({ url, method, headers }, blob, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, url);
    for (const [name, value] of Object.entries(headers)) {
      // The browser sets it itself.
      if (name.toLowerCase() !== "content-length") request.setRequestHeader(name, value);
    }
    request.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    request.onload = () => {
      if (request.status < 300) resolve();
      else reject(new Error(`The upload was refused with status ${request.status}.`));
    };
    request.onerror = () => reject(new Error("The upload failed. The connection broke, or the bucket does not accept uploads from this page (the operator sets UPLOAD_ORIGINS)."));
    request.send(blob);
  });
}
