"use strict";

const study = JSON.parse(document.getElementById("study").textContent);
const $ = (id) => document.getElementById(id);
const element = (name, text = "") => Object.assign(document.createElement(name), { textContent: text });

// Of the annotator at work: number, questions in their order, answers by question, and the place of the one shown.
let annotator = 0;
let questions = [];
let answers = {};
let startedAt = "";
let place = 0;
// When the question came, or came back, before the annotator's eyes; null while it is not.
let visibleSince = null;

/* ------------------------------------------------------------------------------------------- what is kept */

const keyOf = (number) => `clvq-hf-study:${study.study}:${number}`;

function isAnswer(answer) {
  const isChosen = answer?.choice === undefined || study.labels.includes(answer.choice);
  return typeof answer === "object" && Number.isFinite(answer?.seconds) && isChosen;
}

function isState(state) {
  const isTable = typeof state?.answers === "object" && state.answers !== null && !Array.isArray(state.answers);
  return isTable && typeof state.startedAt === "string" && Object.values(state.answers).every(isAnswer);
}

function kept(number) {
  let text = null;
  try {
    text = localStorage.getItem(keyOf(number));
  } catch {
    $("unsaved").hidden = false;
  }
  if (text === null) return null;
  try {
    const state = JSON.parse(text);
    if (!isState(state)) throw new Error("not ours");
    return state;
  } catch {
    $("broken").hidden = false;
    return null;
  }
}

function keep() {
  try {
    localStorage.setItem(keyOf(annotator), JSON.stringify({ startedAt, answers }));
  } catch {
    $("unsaved").hidden = false;
  }
}

addEventListener("beforeunload", (event) => {
  if (annotator && !$("unsaved").hidden) event.preventDefault();
});

// The same annotator in another tab: what was answered there counts here.
addEventListener("storage", (event) => {
  if (annotator && event.key === keyOf(annotator)) ({ answers = {} } = kept(annotator) ?? {});
});

/* ------------------------------------------------------------------------------------------ the order */

function group(number) {
  return study.groups[Math.floor((number - 1) / study.raters) % study.groups.length];
}

// Numbers from 0 to 1 that depend on the seed alone (FNV-1a, then mulberry32).
function randomNumbers(seed) {
  let state = 2166136261;
  for (const character of seed) state = Math.imul(state ^ character.codePointAt(0), 16777619);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

function shuffled(list, seed) {
  const random = randomNumbers(seed);
  const order = [...list];
  for (let last = order.length - 1; last > 0; last--) {
    const other = Math.floor(random() * (last + 1));
    [order[last], order[other]] = [order[other], order[last]];
  }
  return order;
}

const isAnswered = (question) => answers[question.id]?.choice !== undefined;

/* ----------------------------------------------------------------------------------------- time */

function startClock() {
  const isShown = annotator && !$("question").hidden && document.visibilityState === "visible";
  visibleSince = isShown ? performance.now() : null;
}

function stopClock() {
  if (visibleSince === null) return;
  const answer = (answers[questions[place].id] ??= { seconds: 0 });
  answer.seconds += (performance.now() - visibleSince) / 1000;
  visibleSince = null;
  keep();
}

document.addEventListener("visibilitychange", () => {
  stopClock();
  startClock();
});
// While the page is being left, "pagehide" may come after the next page has read what is kept.
addEventListener("beforeunload", () => {
  stopClock();
  startClock();
});
addEventListener("pagehide", stopClock);

/* ---------------------------------------------------------------------------------------- what is shown */

function cloud(words) {
  const list = element("ul");
  list.className = "cloud";
  const most = Math.max(...words.map(([, count]) => count));
  words.forEach(([word, count], rank) => {
    const item = element("li", word);
    item.style.fontSize = `${(0.95 + 1.55 * Math.sqrt(count / most)).toFixed(2)}rem`;
    item.append(Object.assign(element("span", `, ${count}×`), { className: "visually-hidden" }));
    // The most frequent in the middle.
    rank % 2 ? list.prepend(item) : list.append(item);
  });
  return list;
}

function sentenceList(sentences) {
  const list = element("ol");
  list.className = "sentences";
  for (const pieces of sentences) {
    const item = element("li");
    pieces.forEach((piece, number) => piece && item.append(number % 2 ? element("mark", piece) : piece));
    list.append(item);
  }
  return list;
}

function exhibit({ words, sentences }) {
  if (!(words ?? sentences).length) return element("p", "This concept occurs in no other text, so there is nothing to show. Please guess.");
  return words ? cloud(words) : sentenceList(sentences);
}

function show(section) {
  for (const name of ["start", "question", "end"]) $(name).hidden = name !== section;
  scrollTo(0, 0);
}

function ask() {
  $("status").textContent = "";
  if (place === questions.length) {
    show("end");
    $("end").querySelector(".download").focus();
    return;
  }
  const question = questions[place];
  show("question");
  $("place").textContent = `Question ${place + 1} of ${questions.length}`;
  $("progress").max = questions.length;
  $("progress").value = questions.filter(isAnswered).length;
  $("question-title").textContent = question.words ? "Words of the concept" : "Sentences with the concept";
  $("exhibit").replaceChildren(exhibit(question));
  if ($("text")) $("text").textContent = question.text;
  for (const input of document.querySelectorAll("#choices input")) {
    input.checked = input.value === answers[question.id]?.choice;
  }
  $("back").disabled = place === 0;
  $("question-title").focus();
  startClock();
}

function move(to) {
  stopClock();
  place = to;
  ask();
}

/* -------------------------------------------------------------------------------------------- what is done */

function describeKept() {
  const number = $("annotator").valueAsNumber;
  const state = number >= 1 ? kept(number) : null;
  const all = state ? group(number) : [];
  const done = all.filter((question) => state.answers[question.id]?.choice !== undefined).length;
  $("begin").textContent = state ? "Continue" : "Start";
  $("kept").textContent = state ? `Number ${number} has answered ${done} of ${all.length} questions in this browser.` : "";
}

$("annotator").addEventListener("input", describeKept);

$("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  annotator = $("annotator").valueAsNumber;
  ({ answers, startedAt } = kept(annotator) ?? { answers: {}, startedAt: new Date().toISOString() });
  questions = shuffled(group(annotator), `${study.study}:${annotator}`);
  place = questions.findIndex((question) => !isAnswered(question));
  if (place < 0) place = questions.length;
  history.replaceState(null, "", `#annotator=${annotator}`);
  keep();
  ask();
});

$("answer").addEventListener("submit", (event) => {
  event.preventDefault();
  const choice = new FormData($("answer")).get("choice");
  stopClock();
  const answer = (answers[questions[place].id] ??= { seconds: 0 });
  if (answer.choice !== choice) Object.assign(answer, { choice, answered_at: new Date().toISOString() });
  keep();
  move(place + 1);
});

$("back").addEventListener("click", () => move(place - 1));
$("reopen").addEventListener("click", () => move(questions.length - 1));

document.addEventListener("keydown", (event) => {
  if ($("question").hidden || event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
  const input = document.querySelectorAll("#choices input")[Number(event.key) - 1];
  if (/^[1-9]$/.test(event.key) && input) {
    input.checked = true;
    input.focus();
  } else if (event.key === "Enter" && !event.target.closest("button, input")) {
    // Inside the form the browser does it.
    $("answer").requestSubmit();
  }
});

function download() {
  const given = questions.filter(isAnswered);
  const file = {
    format: "clvq-hf study answers",
    format_version: study.format_version,
    clvq_version: study.clvq_version,
    study: study.study,
    annotator,
    complete: given.length === questions.length,
    started_at: startedAt,
    downloaded_at: new Date().toISOString(),
    answers: given.map((question) => ({ item: question.id, ...answers[question.id] })),
  };
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(file, null, 1)], { type: "application/json" }));
  link.download = `answers-${study.study}-${annotator}.json`;
  link.click();
  // Not at once: the browser may not have read it yet.
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  $("status").textContent = `Downloaded ${given.length} of ${questions.length} answers as ${link.download}.`;
}

for (const button of document.querySelectorAll(".download")) button.addEventListener("click", download);

study.labels.forEach((label, number) => {
  const choice = element("label");
  const input = Object.assign(element("input"), { type: "radio", name: "choice", value: label, required: true });
  choice.append(input, element("span", label));
  if (number < 9) choice.append(element("kbd", number + 1));
  $("choices").append(choice);
});
$("example-words")?.append(cloud([["broth", 14], ["simmer", 10], ["ladle", 5], ["chopped", 5], ["leek", 2]]));
$("example-sentences")?.append(
  sentenceList([["A ", "gale", " with ", "heavy showers", " will cross the coast tonight."], ["Expect ", "drizzle", " before noon."]]),
);
// Somebody else's link, in the same tab.
addEventListener("hashchange", () => location.reload());
const number = Number(new URLSearchParams(location.hash.slice(1)).get("annotator"));
if (Number.isInteger(number) && number >= 1) $("annotator").value = number;
describeKept();
