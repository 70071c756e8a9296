// The journeys of the console, against a stack with a real model. `long_console.py` starts it and this.

import assert from "node:assert/strict";
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DARK, PHONE, api, audio, check, close, drop, open, playsFrom, signIn } from "./support.mjs";

const { URL: url, ANA: ana, BOB: bob, OPS: ops, AUDIO: root } = process.env;
const files = JSON.parse(process.env.FILES);
const recording = process.env.RECORDING;
const ended = ".facts .status.completed";

/** The id of the job that a page shows. */
const shown = (page) => page.url().split("/").pop();

async function signsIn() {
  const page = await open(url);
  await page.waitForSelector("#credential");
  await check(page, "sign-in");
  page.expected.push("status of 401");
  await page.fill("#credential", "lh_unknown");
  await page.keyboard.press("Enter");
  await page.waitForSelector("[role=alert] >> text=Unknown API key");
  await check(page, "sign-in-refused");
  await signIn(page, ana);
  await page.waitForSelector("text=No transcripts yet");
  await check(page, "list-empty");
  // The tab remembers it, a new one does not.
  await page.reload();
  await page.waitForSelector(".brand");
  await page.click("text=Sign out");
  await page.reload();
  await page.waitForSelector("#credential");
}

async function transcribes() {
  const page = await open(url);
  await signIn(page, ana);
  await page.click("nav >> text=New");
  await page.waitForSelector(".drop");
  await check(page, "new-empty");
  await drop(page, ".drop", files);
  await page.waitForSelector(`text=Transcribe ${files.length} recordings`);
  await page.waitForSelector("form .button.primary:enabled");
  assert.equal(await page.locator(".recording").count(), files.length);
  await check(page, "new");
  await page.fill("#title", "Six recordings");
  await page.click("form .button.primary");
  await page.waitForSelector(".paragraph");
  // It grows: a part has its text while others have none yet.
  await page.waitForFunction(() => document.querySelector(".piece") && document.querySelector(".gap.pending"), null, {
    polling: 20,
    timeout: 90000,
  });
  await check(page, "job-running");
  await page.waitForSelector(ended, { timeout: 120000 });
  const text = await page.innerText(".transcript");
  assert.match(text, /ask what you can do for your country/i);
  await check(page, "job");
  return page;
}

async function downloads(page) {
  for (const [item, pattern] of [
    [".srt", /^1\r?\n00:00:0\d,\d{3} --> /],
    [".vtt", /^WEBVTT/],
    [".txt", /fellow Americans/],
    [".json", /"segments"/],
  ]) {
    await page.click("text=Download");
    if (item === ".srt") await check(page, "job-menu");
    const [download] = await Promise.all([page.waitForEvent("download"), page.click(`.menu li >> text=${item}`)]);
    assert.ok(download.suggestedFilename().endsWith(item), download.suggestedFilename());
    assert.match(readFileSync(await download.path(), "utf8"), pattern);
  }
  await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
  await page.click("text=Copy");
  await page.waitForSelector(".toast.shown >> text=Copied");
  assert.match(await page.evaluate(() => navigator.clipboard.readText()), /fellow Americans/);
}

/** One recording of several sentences: a click plays from the sentence. Of more than 5 MB, so that it is prepared. */
async function plays() {
  const page = await open(url);
  await signIn(page, ana);
  await page.click("nav >> text=New");
  await page.waitForSelector("#files", { state: "attached" });
  await page.setInputFiles("#files", recording);
  await page.waitForSelector("form .button.primary:enabled");
  await page.click("form .button.primary");
  await page.waitForSelector(ended, { timeout: 180000 });
  const pieces = await page.$$eval(".piece", (all) => all.map((piece) => Number(piece.dataset.start)));
  assert.ok(pieces.length > 40, `the model has times of words: ${pieces}`);
  const place = pieces.findIndex((start) => start > 20);
  await page.click(`.piece >> nth=${place}`);
  await playsFrom(page, pieces[place]);
  await page.waitForSelector(".piece.now");
  await check(page, "job-playing");
  // By keyboard: one stop for all pieces, then the arrows.
  await page.focus(".piece[tabindex='0']");
  await page.keyboard.press("Home");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Enter");
  await playsFrom(page, pieces[1]);
  assert.equal((await audio(page)).error, undefined);
  return shown(page);
}

/** Long audio is cut where it is quiet, into parts that the service takes. */
async function cuts() {
  const page = await open(url);
  const cuts = await page.evaluate(async () => {
    const { cuts } = await import("./console/audio.js");
    const samples = new Float32Array(16000 * 400).map((_, place) => Math.sin(place / 5));
    for (const second of [141, 290]) samples.fill(0, second * 16000, (second + 1) * 16000);
    return cuts(samples).map(([begin, end]) => [begin / 16000, end / 16000]);
  });
  assert.equal(cuts.length, 3);
  for (const [place, second] of [[0, 141], [1, 290]]) {
    assert.ok(cuts[place][1] > second && cuts[place][1] < second + 1, String(cuts));
    assert.equal(cuts[place][1], cuts[place + 1][0]);
  }
  assert.equal(cuts[2][1], 400);
}

/** A recording that this page cannot prepare has a command that works as printed, if the command line can help. */
async function refuses() {
  const page = await open(url);
  await signIn(page, ana);
  await page.goto(`${url}/console#/new`);
  await page.waitForSelector("#files", { state: "attached" });
  const mimeType = "audio/wav";
  await page.setInputFiles("#files", [
    { name: "empty.wav", mimeType, buffer: Buffer.alloc(0) },
    { name: "it's noise.wav", mimeType, buffer: Buffer.alloc(6e6) },
  ]);
  await page.waitForSelector(".why >> text=This browser cannot decode it");
  const whys = await page.locator(".why").allInnerTexts();
  assert.equal(whys[0].trim(), "The file is empty. Check the recording.");
  assert.match(whys[1], /Use the command line, which divides it into parts:/);
  const commands = await page.locator(".why code").allInnerTexts();
  assert.deepEqual(commands, [`longhand --url ${url} transcribe 'it'\\''s noise.wav' --wait`]);
}

/** Parts are counted from 1 in all texts of the page; the API counts chunks from 0. */
async function numbers() {
  const page = await open(url);
  const text = await page.evaluate(async () => {
    const { withParts } = await import("./console/format.js");
    return withParts("[chunk 0 failed] Yes. [chunk 9 pending] NOTE the length of chunk 1 is not known.");
  });
  assert.equal(text, "[part 1 failed] Yes. [part 10 pending] NOTE the length of part 2 is not known.");
}

async function retries() {
  const paths = ["samples/lv_0880.wav", "later.wav"];
  const body = { audioChunkPaths: paths, metadata: { title: "Half of it is missing" } };
  const made = await api(url, ana, "transcribe", { method: "POST", body });
  const page = await open(`${url}`);
  await signIn(page, ana);
  await page.goto(`${url}/console#/job/${made.body.jobId}`);
  await page.waitForSelector(".facts .status.failed", { timeout: 60000 });
  await page.waitForSelector(".why >> text=There is no audio at this path.");
  await check(page, "job-failed");
  await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
  await page.click("text=Copy");
  await page.waitForSelector(".toast.shown >> text=Copied");
  assert.match(await page.evaluate(() => navigator.clipboard.readText()), /\[part 2 failed\]$/);
  copyFileSync(files[0], join(root, "later.wav"));
  await page.click("text=Retry 1 failed part");
  await page.waitForSelector(ended, { timeout: 90000 });
  await page.waitForSelector(".attempts >> text=transcribed", { state: "attached" });
  // From the audio root: the api sends it itself, in ranges.
  await page.click(".stamp >> nth=1");
  await playsFrom(page, 0);
  await check(page, "job-retried");
  return made.body.jobId;
}

async function isRefused(job) {
  const page = await open(url);
  await signIn(page, bob);
  await page.waitForSelector("text=No transcripts yet");
  assert.equal(await page.locator("nav >> text=Operations").count(), 0);
  page.expected.push("status of 404");
  await page.goto(`${url}/console#/job/${job}`);
  await page.waitForSelector("text=There is no such transcript");
  await check(page, "job-missing");
  const theirs = await api(url, ana, `transcript/${job}/tickets`, { method: "POST", body: { purpose: "audio" } });
  for (const [path, options] of [
    [`transcript/${job}/audio/0`, {}],
    [`transcript/${job}/tickets`, { method: "POST", body: { purpose: "audio" } }],
    [`transcript/${job}`, {}],
  ]) {
    assert.equal((await api(url, bob, path, options)).status, 404, path);
  }
  // A link is a permission by itself, for this job alone.
  const link = (job) => fetch(`${url}/transcript/${job}/audio/0?ticket=${theirs.body.ticket}`);
  assert.equal((await link(job)).status, 200);
  assert.equal((await link("01a21d3e-9483-776e-a034-6bb109ace6b9")).status, 401);
  assert.equal((await api(url, bob, "operations")).status, 403);
}

async function deletes(page) {
  const job = shown(page);
  const { ticket } = (await api(url, ana, `transcript/${job}/tickets`, { method: "POST", body: { purpose: "audio" } })).body;
  const link = `${url}/transcript/${job}/audio/0?ticket=${ticket}`;
  const address = (await fetch(link, { redirect: "manual" })).headers.get("location");
  assert.equal((await fetch(address)).status, 200);
  await page.click("text=Delete");
  await page.waitForSelector("dialog[open]");
  await check(page, "job-delete");
  await page.keyboard.press("Escape");
  await page.waitForSelector("dialog", { state: "detached" });
  await page.click("text=Delete");
  await page.click("dialog >> text=Delete >> nth=-1");
  await page.waitForSelector("text=New transcript");
  await page.waitForSelector(".row");
  assert.equal(await page.locator(".row >> text=Six recordings").count(), 0);
  assert.equal((await fetch(link)).status, 404);
  assert.equal((await fetch(address)).status, 404);
}

async function lists() {
  const page = await open(url);
  await signIn(page, ana);
  await page.waitForSelector(".row");
  await check(page, "list");
  await page.fill("input[type=search]", "half missing");
  await page.waitForFunction(() => document.querySelectorAll(".row").length === 1);
  await page.fill("input[type=search]", "no such words");
  await page.waitForSelector("text=Nothing found");
  await check(page, "list-nothing");
  await page.fill("input[type=search]", "");
  await page.click(".tabs >> text=Failed");
  await page.waitForSelector("text=There are no transcripts with this status.");
  await page.click(".tabs >> text=All");
  await page.waitForSelector(".row");
  // It follows what others do.
  await api(url, ana, "transcribe", { method: "POST", body: { audioChunkPaths: ["samples/lv_0880.wav"] } });
  await page.waitForSelector(".row >> text=lv_0880.wav");
  await page.waitForSelector(".row:has-text('lv_0880.wav') .status.completed", { timeout: 60000 });
}

/** Behind API Gateway there are no streams: the same without them. */
async function waits() {
  const page = await open(url);
  await page.route("**/config.json", async (route) => {
    const answer = await route.fetch();
    await route.fulfill({ json: { ...(await answer.json()), streams: false } });
  });
  await page.route("**/events", (route) => route.abort());
  await page.reload();
  await signIn(page, ana);
  const body = { audioChunkPaths: ["samples/lv_0870.wav", "samples/lv_0890.wav"] };
  const made = await api(url, ana, "transcribe", { method: "POST", body });
  await page.goto(`${url}/console#/job/${made.body.jobId}`);
  await page.waitForSelector(ended, { timeout: 90000 });
  assert.match(await page.innerText(".transcript"), /Dashwood/);
  await check(page, "job-waited");
}

async function operates() {
  const page = await open(url);
  await signIn(page, ops);
  await page.click("nav >> text=Operations");
  await page.waitForSelector(".tile >> text=Available");
  // Reports are fifteen seconds apart.
  await page.waitForSelector(".ranks >> text=AUDIO_NOT_FOUND");
  assert.equal(await page.locator("tbody tr").count(), 1);
  await page.click("text=List >> visible=true");
  await page.waitForSelector("text=None is visible");
  await check(page, "operations");
  await page.emulateMedia(DARK);
  await check(page, "operations-dark");
}

/** Each view in another size or scheme. */
async function looks(name, options, job) {
  const page = await open(url, options);
  await page.waitForSelector("#credential");
  await check(page, `${name}-sign-in`);
  await signIn(page, ops);
  for (const [view, place, seen] of [
    ["list", "#/", ".empty, .row"],
    ["new", "#/new", ".drop"],
    ["job", `#/job/${job}`, ".piece"],
    ["operations", "#/operations", ".tiles"],
  ]) {
    await page.goto(`${url}/console${place}`);
    await page.waitForSelector(seen);
    if (view === "job") {
      await page.click(".piece");
      await playsFrom(page, 0);
    }
    await check(page, `${name}-${view}`);
  }
}

const steps = [];
async function step(name, run) {
  const began = Date.now();
  const result = await run();
  steps.push(name);
  console.log(`${name}: ${((Date.now() - began) / 1000).toFixed(1)} s`);
  return result;
}

try {
  await step("signs in", signsIn);
  await step("cuts long audio", cuts);
  await step("counts parts from 1", numbers);
  await step("offers the command line", refuses);
  const page = await step("drops six files and watches", transcribes);
  await step("downloads and copies", () => downloads(page));
  const played = await step("plays from where it was clicked", plays);
  const retried = await step("retries a failed part", retries);
  await step("is another user", () => isRefused(retried));
  await step("deletes with the audio", () => deletes(page));
  await step("lists and searches", lists);
  await step("waits without streams", waits);
  await step("is an operator", operates);
  await step("is dark", () => looks("dark", DARK, played));
  await step("is a phone", () => looks("phone", PHONE, played));
} catch (error) {
  console.error(error);
  process.exitCode = 1;
} finally {
  await close();
}
