// Which page is shown: addresses are #/, #/concepts, #/concepts/WORD, #/concept/12, #/texts, #/text/5.
"use strict";

const THEMES = ["system", "light", "dark"];

function showSection(name, heading) {
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== name;
  const tab = { concept: "concepts", text: "texts" }[name] ?? name;
  for (const tabLink of document.querySelectorAll("header nav a")) {
    const own = tabLink.getAttribute("href").slice(2) || "overview";
    if (own === tab) tabLink.setAttribute("aria-current", "page");
    else tabLink.removeAttribute("aria-current");
  }
  document.title = heading ? `${heading.textContent} – ${document.querySelector("h1").textContent}` : document.title;
}

function showPage(pages, name, id) {
  const section = document.getElementById(name);
  const children = /^\d+$/.test(id) ? pages.page(Number(id)) : null;
  const missing = [
    element("h2", { id: `${name}-title`, tabIndex: -1 }, `There is no ${name} ${id} here`),
    element("p", {}, "It may have been left out of this report; the overview says what is shown."),
  ];
  section.replaceChildren(...(children ?? missing).filter((child) => child !== null));
  return name;
}

// A part of an address; as it is if somebody cut an escape in two.
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function route(concepts, texts) {
  const [name, id = ""] = location.hash.replace(/^#\//, "").split("/").map(decoded);
  if (name === "concepts") {
    concepts.open(id);
    return name;
  }
  if (name === "texts") {
    texts.showList();
    return name;
  }
  if (name === "concept") return showPage(concepts, name, id);
  if (name === "text") return showPage(texts, name, id);
  return "overview";
}

function setUpTheme() {
  const button = document.getElementById("theme");
  button.addEventListener("click", () => {
    const now = document.documentElement.dataset.theme ?? "system";
    const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
    if (next === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    button.textContent = `Theme: ${next}`;
  });
}

// "/" goes to the search of the page, as on many sites.
function setUpKeys() {
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const search = document.querySelector("main > section:not([hidden]) input[type=search]");
    if (!search) return;
    event.preventDefault();
    search.focus();
  });
}

function nameDots(concepts) {
  for (const dot of document.querySelectorAll("#map a")) {
    const code = Number(dot.getAttribute("xlink:href").split("/").pop());
    dot.append(svgElement("title", {}, concepts.title(code)));
  }
}

async function start() {
  setUpTheme();
  setUpKeys();
  const settings = JSON.parse(document.getElementById("settings").textContent);
  const contents = await unpack(document.getElementById("contents").textContent);
  const concepts = new ConceptPages(contents, settings);
  const texts = new TextPages(contents, settings, concepts);
  nameDots(concepts);
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault();
    document.getElementById("main").focus();
  });
  const scrolled = new Map(); // how far down each address was left
  const show = () => {
    const name = route(concepts, texts);
    const heading = document.getElementById(`${name}-title`);
    showSection(name, heading);
    return heading;
  };
  show();
  window.addEventListener("scroll", () => scrolled.set(location.hash, window.scrollY), { passive: true });
  window.addEventListener("hashchange", () => {
    const before = scrolled.get(location.hash) ?? 0;
    const heading = show();
    heading.focus({ preventScroll: true });
    window.scrollTo(0, before);
  });
  document.documentElement.dataset.ready = "true";
}

start().catch((error) => {
  const remedy =
    typeof DecompressionStream === "undefined"
      ? "This browser is too old to unpack the data: use one from 2023 or later."
      : `The file seems to be damaged (${error.message}): copy it again, or write the report again.`;
  document.getElementById("main").prepend(element("p", { className: "note", role: "alert" }, `Concepts and texts cannot be shown. ${remedy}`));
});
