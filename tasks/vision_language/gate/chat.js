// The page of the gate: a talk with the model about pictures. Whatever comes from people or the model is put in as text.
"use strict";

const LARGE_BYTES = 1.5 * 2 ** 20; // larger pictures are made smaller here: each goes again with every later question
const LONGEST = 2048; // pixels; the server makes less of it
const NEAR_END = 80; // pixels

const at = (id) => document.getElementById(id);
const page = { messages: [], shown: [], asking: null };

function element(name, classes, text) {
  const made = document.createElement(name);
  made.className = classes || "";
  if (text !== undefined) made.textContent = text;
  return made;
}

// ------------------------------------------------------------------ the server

class Fault extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function call(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new Fault("The server does not answer: it has ended, or the network is down.", 0);
  }
  if (answer.ok) return answer;
  throw new Fault(await sentenceOf(answer), answer.status);
}

async function sentenceOf(answer) {
  const text = await answer.text();
  let said = text.slice(0, 500);
  try {
    said = JSON.parse(text).error.message;
  } catch {
    // not in OpenAI's form: as it is
  }
  if (answer.status === 429) return `The server is busy. Try again in ${answer.headers.get("Retry-After") || "some"} seconds. (${said})`;
  return said || `The server answers ${answer.status}.`;
}

// Asks again with another token where the server wants one.
async function admitted(work) {
  for (;;) {
    try {
      return await work();
    } catch (problem) {
      if (problem.status !== 401) throw problem;
      await askToken();
    }
  }
}

function askToken() {
  const refused = sessionStorage.getItem("token") !== null;
  at("door-text").textContent = (refused ? "This token is not that of the server. " : "This server asks for its token. ")
    + "It is kept until this tab is closed.";
  at("token").value = "";
  at("door").showModal();
  return new Promise((done) => {
    at("door").addEventListener("close", () => {
      // Headers take no other characters.
      sessionStorage.setItem("token", at("token").value.trim().replace(/[^\x21-\x7e]/g, "?"));
      done();
    }, { once: true });
  });
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (problem) {
      if (problem.name === "AbortError") throw problem;
      throw new Fault("The answer breaks off: the server has ended, or the network is down.", 0);
    }
    if (part.done) break;
    const pieces = (rest + part.value).split("\n\n");
    rest = pieces.pop();
    for (const piece of pieces) {
      const data = piece.replace(/^data: ?/, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
  throw new Fault("The answer breaks off: the server has ended, or the network is down.", 0);
}

// ------------------------------------------------------------------ pictures

async function addFiles(files) {
  note("");
  for (const file of files) {
    if (file.type && !file.type.startsWith("image/")) {
      note(`Found ${file.name}, need pictures.`);
      continue;
    }
    try {
      page.shown.push(await pictureOf(file));
    } catch {
      note(`${file.name} cannot be read.`);
    }
  }
  drawShown();
  at("prompt").focus();
}

// Returns { name, url, seen }: the picture as a data: URL, and whether this browser can show it.
async function pictureOf(file) {
  let bitmap = null;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return { name: file.name, url: await dataUrl(file), seen: false }; // TIFF, PPM; what is none, the server says
  }
  const scale = LONGEST / Math.max(bitmap.width, bitmap.height);
  const blob = file.size > LARGE_BYTES ? await smaller(bitmap, Math.min(1, scale)) : file;
  bitmap.close();
  return { name: file.name, url: await dataUrl(blob), seen: true };
}

function smaller(bitmap, scale) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillRect(0, 0, canvas.width, canvas.height); // transparency on black, as the server does it
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return new Promise((done, failed) => canvas.toBlob((blob) => (blob ? done(blob) : failed(new Error())), "image/jpeg", 0.95));
}

function dataUrl(blob) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(blob);
  });
}

function view(picture) {
  if (!picture.seen) return element("span", "nameless", picture.name);
  const image = element("img");
  image.src = picture.url;
  image.alt = picture.name;
  return image;
}

function drawShown() {
  at("shown").replaceChildren(...page.shown.map((picture) => {
    const item = element("li");
    const remove = element("button", "", "×");
    remove.type = "button";
    remove.setAttribute("aria-label", `Leave out ${picture.name}`);
    remove.addEventListener("click", () => {
      page.shown.splice(page.shown.indexOf(picture), 1);
      drawShown();
    });
    item.append(view(picture), remove);
    return item;
  }));
}

// ------------------------------------------------------------------ the talk

function append(...nodes) {
  at("empty").hidden = true;
  at("talk").append(...nodes);
  at("talk").scrollTop = at("talk").scrollHeight;
}

function following(change) {
  const talk = at("talk");
  const follows = talk.scrollHeight - talk.scrollTop - talk.clientHeight < NEAR_END;
  change();
  if (follows) talk.scrollTop = talk.scrollHeight;
}

function submit() {
  const prompt = at("prompt").value.trim();
  if (page.asking) return;
  if (!prompt) {
    note(page.shown.length ? "Write a question to the pictures." : "Write a question.");
    at("prompt").focus();
    return;
  }
  note("");
  const question = element("article", "question");
  if (page.shown.length) {
    const pictures = element("div", "pictures");
    pictures.append(...page.shown.map(view));
    question.append(pictures);
  }
  question.append(element("p", "text", prompt));
  append(question);
  const parts = page.shown.map((picture) => ({ type: "image_url", image_url: { url: picture.url } }));
  page.shown = [];
  drawShown();
  at("prompt").value = "";
  grow();
  ask({ role: "user", content: [...parts, { type: "text", text: prompt }] }, question);
}

async function ask(message, question) {
  const answer = element("article", "answer waits");
  const text = element("p", "text");
  answer.append(text);
  append(answer);
  const asking = { stop: new AbortController(), text: "", begun: performance.now(), usage: null };
  page.asking = asking;
  busy(true);
  question.classList.remove("failed");
  try {
    await admitted(() => stream(message, answer, text, asking));
    about(answer, asking, "");
    page.messages.push(message, { role: "assistant", content: asking.text });
  } catch (problem) {
    if (page.asking !== asking) return; // a new talk has begun
    if (problem.name === "AbortError") stopped(message, question, answer, asking);
    else fault(message, question, answer, problem);
  } finally {
    answer.classList.remove("waits");
    if (page.asking === asking) {
      page.asking = null;
      busy(false);
      at("prompt").focus();
    }
  }
}

async function stream(message, answer, text, asking) {
  const body = {
    messages: [...page.messages, message],
    stream: true,
    stream_options: { include_usage: true },
  };
  const response = await call("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal: asking.stop.signal,
  });
  for await (const event of events(response)) {
    if (event.error) throw new Fault(event.error.message, 500);
    asking.usage = event.usage || asking.usage;
    const choice = (event.choices || [])[0] || {};
    const delta = choice.delta || {};
    asking.finish = choice.finish_reason || asking.finish;
    following(() => {
      if (delta.reasoning_content) thought(answer, text, delta.reasoning_content);
      if (delta.content) {
        asking.text += delta.content;
        text.append(delta.content);
      }
    });
  }
}

function thought(answer, text, more) {
  let box = answer.querySelector("details");
  if (!box) {
    box = element("details", "thought");
    box.append(element("summary", "", "What it thought before"), element("p", "text"));
    answer.insertBefore(box, text);
  }
  box.lastChild.append(more);
}

function about(answer, asking, ended) {
  const seconds = ((performance.now() - asking.begun) / 1000).toFixed(1);
  const n = asking.usage && asking.usage.completion_tokens;
  const tokens = asking.usage ? `${n} token${n === 1 ? "" : "s"}, ` : "";
  const cut = asking.finish === "length" ? ", cut off at the greatest number of tokens" : "";
  const nothing = asking.text ? "" : "the model said nothing, ";
  following(() => answer.append(element("p", "about", `${nothing}${tokens}${seconds} s${cut}${ended}`)));
}

function stopped(message, question, answer, asking) {
  about(answer, { ...asking, text: "-" }, ", stopped");
  if (asking.text) page.messages.push(message, { role: "assistant", content: asking.text });
  else question.classList.add("failed");
}

// What failed is no part of the talk until it is asked again.
function fault(message, question, answer, problem) {
  question.classList.add("failed");
  const box = element("p", "fault", problem.message || String(problem));
  const again = element("button", "", "Ask again");
  again.type = "button";
  again.addEventListener("click", () => {
    if (page.asking) return;
    answer.remove();
    at("talk").append(question);
    ask(message, question);
  });
  box.append(again);
  following(() => answer.append(box));
}

function busy(is) {
  at("send").hidden = is;
  at("stop").hidden = !is;
}

function newTalk() {
  const asking = page.asking;
  page.asking = null;
  if (asking) asking.stop.abort();
  page.messages = [];
  page.shown = [];
  drawShown();
  note("");
  busy(false);
  at("talk").replaceChildren(at("empty"));
  at("empty").hidden = false;
  at("prompt").focus();
}

// ------------------------------------------------------------------ the page

function note(text) {
  at("note").textContent = text;
}

function grow() {
  const box = at("prompt");
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + 2}px`;
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function nameTheme() {
  at("theme").textContent = isDark() ? "Light" : "Dark";
}

function switchTheme() {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  localStorage.setItem("theme", document.documentElement.dataset.theme);
  nameTheme();
}

async function begin() {
  const theme = localStorage.getItem("theme");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
  nameTheme();
  try {
    const answer = await admitted(() => call("v1/models"));
    const name = (await answer.json()).data[0].id;
    at("model").textContent = name;
    document.title = `${name}: ask images`;
    await call("health");
  } catch (problem) {
    note(problem.status === 503 ? "The model's engine does not answer." : problem.message);
  }
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
at("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  }
});
at("prompt").addEventListener("input", grow);
at("stop").addEventListener("click", () => page.asking && page.asking.stop.abort());
at("new").addEventListener("click", newTalk);
at("theme").addEventListener("click", switchTheme);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", nameTheme);
at("door").addEventListener("cancel", (event) => event.preventDefault()); // nothing works without the token
at("choose").addEventListener("click", () => at("files").click());
at("files").addEventListener("change", () => {
  addFiles([...at("files").files]);
  at("files").value = "";
});
document.addEventListener("paste", (event) => {
  if (!event.clipboardData.files.length) return;
  event.preventDefault();
  addFiles([...event.clipboardData.files]);
});
const carries = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  at("drop").hidden = !carries(event);
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) at("drop").hidden = true;
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").hidden = true;
  if (carries(event)) addFiles([...event.dataTransfer.files]);
  else note("Found no picture in what was dropped, need a file.");
});
begin();
