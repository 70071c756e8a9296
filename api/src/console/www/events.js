// A job's changes as they happen: server-sent events by `fetch`, which sends a header where `EventSource` cannot.
// Behind API Gateway, which does not stream, the job is read again instead.

import { Problem, get, send, sleep } from "./api.js";
import { session } from "./session.js";

const RETRY_MS = 2000;
/** How long a call waits for the job's end where there are no streams, in seconds: the text grows at this rate. */
const WAIT = 4;

/** Events of a stream, as they arrive. */
async function* parse(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    let end;
    while ((end = text.indexOf("\n\n")) >= 0) {
      const event = { data: "" };
      for (const line of text.slice(0, end).split("\n")) {
        const colon = line.indexOf(":");
        if (colon > 0) event[line.slice(0, colon)] = line.slice(colon + 1).replace(/^ /, "");
      }
      text = text.slice(end + 2);
      if (event.event) yield { id: event.id, name: event.event, data: JSON.parse(event.data) };
    }
  }
}

/** Calls `changed(name, data)` for each event until the job has ended. */
export async function follow(job, changed, signal) {
  let last;
  let streams = session.config.streams;
  while (!signal.aborted) {
    try {
      if (!streams) {
        if (await reread(job, changed, signal)) return;
        continue;
      }
      const headers = last === undefined ? {} : { "last-event-id": last };
      const answer = await send(`transcript/${job}/events`, { headers, signal });
      if (answer.status === 204) return;
      for await (const { id, name, data } of parse(answer.body)) {
        last = id;
        changed(name, data);
        if (name === "job" && data.jobStatus !== "IN_PROGRESS") return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Problem) {
        if ([401, 403, 404].includes(error.status)) throw error;
        // No room for a stream, or no way to it.
        streams = streams && ![406, 429, 503].includes(error.status);
      }
    }
    await sleep(RETRY_MS, signal).catch(() => {});
  }
}

async function reread(job, changed, signal) {
  const data = await get(`transcript/${job}?words=true`, { headers: { prefer: `wait=${WAIT}` }, signal });
  changed("job", data);
  return data.jobStatus !== "IN_PROGRESS";
}
