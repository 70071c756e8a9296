// Signing in by a token, or by a user id where authentication is off, and a job.

import assert from "node:assert/strict";
import { check, close, drop, open, signIn } from "./support.mjs";

const { URL: url, CREDENTIAL: credential, AUTH: auth, USER: user } = process.env;

try {
  const page = await open(url);
  await page.waitForSelector(`label >> text=${auth === "jwt" ? "Token" : "User id"}`);
  await check(page, `sign-in-${auth}`);
  await signIn(page, credential);
  assert.equal(await page.innerText(".user"), user);
  // Without authentication everybody is an operator.
  assert.equal(await page.locator("nav >> text=Operations").count(), auth === "none" ? 1 : 0);
  await page.click("nav >> text=New");
  // The command for what this page cannot prepare names the service, and the user where nothing else does.
  await page.setInputFiles("#files", { name: "noise.wav", mimeType: "audio/wav", buffer: Buffer.alloc(6e6) });
  const owner = auth === "none" ? ` --user '${user}'` : "";
  assert.equal(await page.innerText(".why code"), `longhand --url ${url} transcribe 'noise.wav'${owner} --wait`);
  await page.click("[aria-label='Remove noise.wav']");
  await drop(page, ".drop", JSON.parse(process.env.FILES));
  await page.click("text=One transcript of each recording");
  await page.click("form .button.primary:enabled");
  await page.waitForFunction(() => document.querySelectorAll(".row .status.completed").length === 2);
  await check(page, `list-${auth}`);
  await page.click(".row >> nth=0");
  await page.click(".piece >> nth=0");
  await page.waitForFunction(() => document.querySelector("audio").currentTime > 0);
  await check(page, `job-${auth}`);
} catch (error) {
  console.error(error);
  process.exitCode = 1;
} finally {
  await close();
}
