// Keeps the first page up to date: asks for its parts every two seconds and replaces those that changed.
"use strict";

const EVERY = 2000;
const source = document.currentScript.dataset.source;
const gone = document.currentScript.dataset.gone;
const link = document.getElementById("link");
const lost = document.getElementById("lost");
const seen = {};

function openDetails(part) {
  return [...part.querySelectorAll("details")].map((one) => one.open);
}

function replace(part, html) {
  const open = openDetails(part);
  part.innerHTML = html;
  part.querySelectorAll("details").forEach((one, index) => { one.open = Boolean(open[index]); });
}

function show(sections) {
  for (const part of document.querySelectorAll("[data-live]")) {
    const html = sections[part.dataset.live];
    if (html !== undefined && html !== seen[part.dataset.live]) {
      if (part.dataset.live in seen || html.trim() !== part.innerHTML.trim()) replace(part, html);
      seen[part.dataset.live] = html;
    }
  }
}

function tell(live, sentence) {
  link.textContent = live ? "Live" : "Not live";
  link.classList.toggle("on", live);
  lost.hidden = live;
  if (!live) lost.textContent = sentence;
}

async function refresh() {
  if (document.hidden) return;
  try {
    const answer = await fetch(source, { cache: "no-store" });
    if (!answer.ok) throw new Error(String(answer.status));
    show(await answer.json());
    tell(true, "");
  } catch {
    tell(false, `${gone} What you see was so at ${new Date().toLocaleTimeString()} or before.`);
  }
}

async function follow() {
  await refresh();
  setTimeout(follow, EVERY);
}

document.addEventListener("visibilitychange", refresh);
follow();
