// The page: finds the language while one types, streams two answers, keeps what was asked in this browser.
"use strict";
const $ = (id) => document.getElementById(id);
const KEPT = 50, STORE = "llink-history";
let names = {}, bare = "", asking = null, typed = 0;

const headers = () => ({ "Content-Type": "application/json", ...($("key").value ? { Authorization: `Bearer ${$("key").value}` } : {}) });

async function failure(response) {
  if (response.status === 401 || response.status === 403) $("lock").open = true;
  try { const { error } = await response.json(); return error.message || error; }
  catch { return `The server answers with status ${response.status}.`; }
}

async function load() {
  const response = await fetch("v1/models", { headers: headers() });
  if (!response.ok) throw new Error(await failure(response));
  const { data } = await response.json();
  bare = data[data.length - 1].id;
  names = Object.fromEntries(data.map((model) => [model.id, model.name || model.id]));
  const chosen = $("model").value;
  $("model").replaceChildren(...data.slice(0, -1).map(({ id, name }) => new Option(id === "auto" ? "found by itself" : name || id, id)));
  $("model").value = names[chosen] === undefined ? "auto" : chosen;
  $("error").textContent = "";
}

async function find() {
  const turn = ++typed, q = $("text").value;
  $("found").textContent = "";
  if (!q.trim() || $("model").value !== "auto") return;
  const response = await fetch("detect", { method: "POST", headers: headers(), body: JSON.stringify({ q, api_key: $("key").value }) });
  if (turn !== typed || !response.ok) return;
  const [found] = await response.json();
  $("found").textContent = found ? (found.language === "en" ? "Latin letters: choose its language, or it is read as English." : `This is ${names[found.language] || found.language}.`) : "No installed language is written like this.";
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      if (part === "data: [DONE]") return;
      const event = JSON.parse(part.slice("data: ".length));
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
  throw new Error("The connection broke off before the answer was whole.");
}

async function answer(body, said, cost, signal) {
  const began = performance.now();
  let first = 0, used = null;
  $(said).textContent = $(cost).textContent = "";
  const response = await fetch("v1/chat/completions", { method: "POST", headers: headers(), signal,
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }) });
  if (!response.ok) throw new Error(await failure(response));
  for await (const event of events(response)) {
    const text = event.choices[0]?.delta?.content || "";
    if (text && !first) first = performance.now() - began;
    $(said).textContent += text;
    used = event.usage || used;
  }
  const seconds = (milliseconds) => `${(milliseconds / 1000).toFixed(2)} s`;
  const slots = used && used.slots ? ` (${used.slots} for the text, which raw would be ${used.raw_tokens})` : "";
  $(cost).textContent = used ? `${used.prompt_tokens} prompt tokens${slots}, ${used.completion_tokens} in the answer; first after ${seconds(first)}, all after ${seconds(performance.now() - began)}` : "";
  return $(said).textContent;
}

async function ask(event) {
  event.preventDefault();
  if (!$("text").value.trim() || asking) return;
  const text = $("text").value, task = $("task").value, instruction = $("instruction").value, model = $("model").value;
  const one = (content) => [{ role: "user", content }];
  // With a language chosen, the text is in it whatever its letters are.
  const foreign = model === "auto" ? { type: "text", text } : { type: "text", text, language: model };
  const body = task ? { messages: one(text), task } : { messages: one([{ type: "text", text: instruction, language: "en" }, foreign]) };
  const raw = task ? body : { messages: one(`${instruction}\n${text}`) };
  asking = new AbortController();
  $("ask").disabled = true; $("stop").disabled = false; $("error").textContent = "";
  $("bare").textContent = $("bare-cost").textContent = "";
  try {
    if (!bare) await load();
    const said = await answer({ ...body, model }, "answer", "answer-cost", asking.signal);
    keep({ text, task, instruction, model, said });
    if ($("beside").checked) await answer({ ...raw, model: bare, max_tokens: 64 }, "bare", "bare-cost", asking.signal);
  } catch (error) {
    if (error.name !== "AbortError") $("error").textContent = error instanceof TypeError ? "The server cannot be reached, or the connection broke off." : error.message;
  } finally {
    asking = null;
    $("ask").disabled = false; $("stop").disabled = true;
  }
}

function kept() { try { return JSON.parse(localStorage.getItem(STORE)) || []; } catch { return []; } }

function keep(row) {
  try { localStorage.setItem(STORE, JSON.stringify([row, ...kept()].slice(0, KEPT))); } catch { /* full, or not allowed */ }
  show();
}

function show() {
  $("history").replaceChildren(...kept().map((row) => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button"; button.dir = "auto"; button.textContent = `${row.text.slice(0, 80)} → ${row.said.slice(0, 120)}`;
    button.onclick = () => {
      for (const name of ["text", "task", "instruction", "model"]) $(name).value = row[name];
      choose(); find().catch(() => {}); $("text").focus();
    };
    item.append(button);
    return item;
  }));
}

function choose() { $("own").hidden = $("task").value !== ""; $("raw").hidden = !$("beside").checked; }

const tell = (error) => { $("error").textContent = error instanceof TypeError ? "The server cannot be reached." : error.message; };
let waiting = 0;
$("key").value = sessionStorage.getItem("llink-key") || "";
$("key").onchange = () => { sessionStorage.setItem("llink-key", $("key").value); load().catch(tell); };
$("text").oninput = () => { clearTimeout(waiting); waiting = setTimeout(() => find().catch(() => {}), 250); };
$("model").onchange = () => find().catch(() => {});
$("task").onchange = $("beside").onchange = choose;
$("form").onsubmit = ask;
$("stop").onclick = () => asking?.abort();
$("forget").onclick = () => { localStorage.removeItem(STORE); show(); };
document.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask(event); });
choose(); show(); load().catch(tell);
