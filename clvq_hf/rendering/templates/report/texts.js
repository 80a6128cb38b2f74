// The list of texts, and the page of one.
"use strict";

const TEXTS_AT_ONCE = 50;
const EXCERPT_LENGTH = 240;
const CONCEPTS_SHOWN = 10; // of a text, before the others are folded

class TextPages {
  constructor(contents, settings, concepts) {
    this.labels = contents.labels;
    this.hasLabels = contents.has_labels;
    this.protocol = contents.protocol;
    this.ablatesLabels = contents.ablates_labels;
    this.numColours = settings.num_colours;
    this.concepts = concepts;
    this.texts = [...contents.texts].sort((one, other) => one.id - other.id);
    this.byId = new Map(this.texts.map((text) => [text.id, text]));
    this.found = [];
    this.form = document.getElementById("text-filters");
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("input", () => this.showList());
    this.form.addEventListener("reset", () => setTimeout(() => this.showList()));
    this.more = document.getElementById("more-texts");
    this.more.addEventListener("click", () => this.showMore());
  }

  // ------------------------------------------------------------------------------------------------------- the list

  matches(text, filters) {
    if (filters.label && text.label !== Number(filters.label)) return false;
    if (filters.prediction && text.prediction !== Number(filters.prediction)) return false;
    if (filters.wrong && !this.isWrong(text)) return false;
    if (filters.flips && !(text.ablation && text.ablation.before.prediction !== text.ablation.after.prediction)) return false;
    return !filters.words || text.text.toLowerCase().includes(filters.words);
  }

  isWrong(text) {
    return text.label >= 0 && text.prediction >= 0 && text.label !== text.prediction;
  }

  showList() {
    const filters = Object.fromEntries(new FormData(this.form));
    filters.words = filters.words.trim().toLowerCase();
    this.found = this.texts.filter((text) => this.matches(text, filters));
    const shown = `${this.found.length.toLocaleString("en")} of ${count(this.texts.length, "text")}`;
    document.getElementById("text-count").textContent = shown;
    document.getElementById("text-list").replaceChildren();
    this.showMore();
  }

  showMore() {
    const list = document.getElementById("text-list");
    const first = list.children.length;
    list.append(...this.found.slice(first, first + TEXTS_AT_ONCE).map((text) => this.row(text)));
    if (first && list.children[first]) list.children[first].querySelector("a").focus();
    this.more.hidden = list.children.length === this.found.length;
  }

  row(text) {
    const excerpt = text.text.length > EXCERPT_LENGTH ? text.text.slice(0, EXCERPT_LENGTH) + " …" : text.text;
    return element("li", {}, link(`#/text/${text.id}`, `Text ${text.id}`), " ", ...this.verdict(text), element("br"), excerpt);
  }

  verdict(text) {
    const facts = [];
    const name = (label) => this.labels[label] ?? String(label);
    if (text.label >= 0) facts.push(`label: ${name(text.label)}`);
    if (text.prediction >= 0) facts.push(`predicted: ${name(text.prediction)}`);
    const wrong = this.isWrong(text) ? [" ", element("span", { className: "wrong" }, "wrong")] : [];
    return [element("span", { className: "muted" }, facts.join(" · ")), ...wrong];
  }

  // --------------------------------------------------------------------------------------------------------- one text

  page(id) {
    const text = this.byId.get(id);
    if (!text) return null;
    return [
      this.steps(text),
      element("h2", { id: "text-title", tabIndex: -1 }, `Text ${id}`),
      element("p", {}, ...this.verdict(text)),
      this.tokens(text),
      text.unread ? element("p", { className: "muted" }, `Truncated: the model did not read the last ${count(text.unread, "character")}.`) : null,
      this.legend(text),
      ...this.conceptPart(text),
      ...this.ablationPart(text),
    ];
  }

  steps(text) {
    if (!this.found.length) this.showList();
    const place = this.found.indexOf(text);
    const steps = [link("#/texts", "All texts")];
    if (place > 0) steps.push(link(`#/text/${this.found[place - 1].id}`, "← Previous in the list"));
    if (place >= 0 && place + 1 < this.found.length) steps.push(link(`#/text/${this.found[place + 1].id}`, "Next in the list →"));
    steps.forEach((step) => (step.className = "button"));
    return element("nav", { className: "steps", "aria-label": "Texts" }, ...steps);
  }

  // Every token is a link to its concept; the ones of the same concept light up with it.
  tokens(text) {
    const characters = Array.from(text.text); // places count characters, not halves of them
    const shown = element("p", { className: "tokens" });
    let place = 0;
    text.codes.forEach((code, number) => {
      shown.append(characters.slice(place, place + text.gaps[number]).join(""));
      place += text.gaps[number];
      const written = characters.slice(place, place + text.lengths[number]).join("");
      place += text.lengths[number];
      const token = link(`#/concept/${code}`, written);
      setProperties(token, { className: "token", title: this.concepts.title(code), "data-code": code, ...conceptColour(this.concepts.byCode.get(code)) });
      setProperties(token, blankSign(written));
      token.classList.toggle("salient", number === text.salient);
      const spoken = (number === text.salient ? "salient token, " : "") + this.concepts.title(code);
      token.append(element("span", { className: "visually-hidden" }, ` [${spoken}]`));
      shown.append(token);
    });
    shown.append(characters.slice(place).join(""));
    const light = (code) => {
      for (const token of shown.querySelectorAll(".token")) token.classList.toggle("same", token.dataset.code === code);
    };
    for (const kind of ["pointerover", "focusin"]) shown.addEventListener(kind, (event) => light(event.target.closest(".token")?.dataset.code));
    for (const kind of ["pointerleave", "focusout"]) shown.addEventListener(kind, () => light(undefined));
    return shown;
  }

  legend(text) {
    const note = (words) => element("li", { className: "muted" }, words);
    const items = [];
    if (this.hasLabels) {
      for (const [label, name] of this.labels.entries()) {
        items.push(element("li", {}, element("span", { className: "swatch", ...labelColour(label, this.numColours) }), name));
      }
      items.push(note("strong: nearly all tokens of the concept have this label; grey: mixed, or too rare"));
    } else {
      items.push(note("colours and lines only distinguish concepts; they have no meaning"));
    }
    if (text.salient !== null) items.push(note("outlined: the salient token"));
    return element("ul", { className: "legend" }, ...items);
  }

  // What contributes most comes first; bars are relative to the longest.
  conceptPart(text) {
    const scored = text.parts.some((part) => part[2] !== null);
    const longest = Math.max(...text.parts.map((part) => Math.abs(part[2] ?? 0)));
    const items = text.parts.map(([code, tokens, sum]) => {
      const swatch = element("span", { className: "swatch", ...conceptColour(this.concepts.byCode.get(code)) });
      const facts = [count(tokens, "token")];
      const own = text.salient !== null && text.codes[text.salient] === code ? [" ", element("strong", {}, "salient")] : [];
      const score = scored ? [element("span", { className: "score" }, signed(sum)), this.contribution(sum, longest)] : [];
      return element("li", {}, swatch, this.concepts.reference(code), " ", element("span", { className: "muted" }, facts.join(" · ")), ...own, ...score);
    });
    const shown = items.slice(0, CONCEPTS_SHOWN);
    const rest = items.slice(CONCEPTS_SHOWN);
    const list = (some) => element("ol", { className: "parts" }, ...some);
    const more = rest.length ? element("details", {}, element("summary", {}, count(rest.length, "more concept")), list(rest)) : null;
    if (more) more.querySelector("ol").start = CONCEPTS_SHOWN + 1;
    const caption = scored
      ? "In order of contribution, which is the sum of the salience of a concept's tokens in this text. Below 0, the concept counts against the prediction."
      : "The most frequent first; without salience, their contributions are unknown.";
    return [element("h3", {}, "Concepts of this text"), element("p", { className: "muted" }, caption), list(shown), ...(more ? [more] : [])];
  }

  contribution(sum, longest) {
    const share = longest ? Math.abs(sum) / longest : 0;
    const bar = element("span", { className: sum < 0 ? "fill against" : "fill", "--share": (100 * share).toFixed(1) + "%" });
    return element("span", { className: "contribution", "aria-hidden": "true" }, bar);
  }

  ablationPart(text) {
    const { ablation } = text;
    if (!ablation) return [];
    const { before, after } = ablation;
    const flips = before.prediction !== after.prediction;
    const name = (prediction) => (this.ablatesLabels ? (this.labels[prediction] ?? String(prediction)) : `token ${prediction}`);
    const change = after.margin - before.margin;
    const verdict = flips ? `changes the prediction from ${name(before.prediction)} to ${name(after.prediction)}.` : `does not change the prediction (${name(before.prediction)}).`;
    const parts = [
      element("h3", {}, "Without its salient concept"),
      element("p", { className: "muted" }, `${this.protocol}.`),
      element("p", {}, "Removing ", this.concepts.reference(ablation.code), ` at ${count(ablation.positions, "position")} `, element("strong", {}, verdict)),
      dataTable(
        ["", "before", "after"],
        [
          ["prediction", name(before.prediction), name(after.prediction)],
          ...(before.probability === null ? [] : [[`probability of ${name(before.prediction)}`, fixed(before.probability), fixed(after.probability)]]),
          [before.probability === null ? "distance from the centre" : "margin (logits)", fixed(before.margin), fixed(after.margin)],
        ],
      ),
    ];
    const control = ablation.control === null ? "" : ` Removing another concept of this text instead: ${signed(ablation.control)} on average.`;
    parts.push(element("p", {}, `Change of the margin: ${signed(change)}.${control}`));
    if (before.probabilities.length === this.labels.length && this.labels.length) {
      const bars = Object.entries({ before, after }).map(([when, state]) =>
        element("div", {}, element("h4", {}, `Probabilities ${when}`), ...labelBar(state.probabilities, this.labels, this.numColours, percent)),
      );
      parts.push(element("div", { className: "columns" }, ...bars));
    }
    return parts;
  }
}
