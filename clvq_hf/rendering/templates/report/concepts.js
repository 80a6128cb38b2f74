// The list of concepts, and the page of one.
"use strict";

const SHOWN_WORDS = 8;
const CONCEPTS_AT_ONCE = 100; // a table of many hundred rows is slow to lay out

class ConceptPages {
  constructor(contents, settings) {
    this.labels = contents.labels;
    this.hasLabels = contents.has_labels;
    this.others = contents.others;
    this.protocol = contents.protocol;
    this.numColours = settings.num_colours;
    this.routing = contents.routing;
    this.concepts = contents.concepts;
    this.byCode = new Map(this.concepts.map((concept) => [concept.code, concept]));
    this.textIds = new Set(contents.texts.map((text) => text.id));
    this.order = { key: "tokens", descending: true };
    this.visible = [];
    this.rows = new Map(this.concepts.map((concept) => [concept.code, this.row(concept)]));
    this.form = document.getElementById("concept-filters");
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("input", () => this.open());
    this.form.addEventListener("reset", () => setTimeout(() => this.open()));
    this.list = document.querySelector("#concept-list tbody");
    this.more = document.getElementById("more-concepts");
    this.more.addEventListener("click", () => this.showMore());
    for (const button of document.querySelectorAll("[data-sort]")) {
      button.addEventListener("click", () => this.sortBy(button.dataset.sort));
    }
  }

  // ------------------------------------------------------------------------------------------------------- the list

  row(concept) {
    const cells = [
      element("td", {}, ...this.numbered(concept)),
      element("td", { className: "words-cell" }),
    ];
    if (this.hasLabels) {
      const swatch = element("span", { className: "swatch", ...conceptColour(concept) });
      const name = concept.label === null ? "–" : this.labels[concept.label];
      cells.push(element("td", { className: "label" }, swatch, name));
      const purity = concept.purity === null ? "–" : percent(concept.purity);
      cells.push(element("td", { className: "number", "data-name": "pure" }, purity));
    }
    cells.push(element("td", { className: "number", "data-name": "tokens" }, concept.tokens.toLocaleString("en")));
    cells.push(element("td", { className: "number", "data-name": "texts" }, concept.texts.toLocaleString("en")));
    return element("tr", {}, ...cells);
  }

  // Words that match what is looked for come first, marked.
  fillWords(cell, concept, wanted) {
    const found = wanted ? concept.words.filter(([word]) => word.includes(wanted)) : [];
    const others = concept.words.filter((word) => !found.includes(word)).slice(0, SHOWN_WORDS);
    const pieces = found.slice(0, SHOWN_WORDS).map(([word]) => element("mark", {}, word));
    pieces.push(...others.slice(0, Math.max(SHOWN_WORDS - found.length, 3)).map(([word]) => word));
    cell.replaceChildren(...pieces.flatMap((piece, place) => (place ? [", ", piece] : [piece])));
  }

  matches(concept, filters) {
    if (filters.label && concept.label !== Number(filters.label)) return false;
    if (filters.purity && !(concept.purity >= filters.purity / 100)) return false;
    if (filters.tokens && concept.tokens < filters.tokens) return false;
    if (filters.texts && concept.texts < filters.texts) return false;
    if (!filters.word) return true;
    return (
      String(concept.code) === filters.word ||
      (concept.name || "").toLowerCase().includes(filters.word) ||
      (concept.group || "").toLowerCase().includes(filters.word) ||
      concept.words.some(([word]) => word.includes(filters.word))
    );
  }

  showList() {
    const filters = Object.fromEntries(new FormData(this.form));
    filters.word = filters.word.trim().toLowerCase();
    const { key, descending } = this.order;
    this.visible = this.concepts.filter((concept) => this.matches(concept, filters));
    this.visible.sort((one, other) => (descending ? -1 : 1) * (one[key] - other[key]) || one.code - other.code);
    this.wanted = filters.word;
    this.list.replaceChildren();
    this.showMore();
    const shown = `${this.visible.length} of ${count(this.concepts.length, "concept")}`;
    document.getElementById("concept-count").textContent = shown;
    for (const button of document.querySelectorAll("[data-sort]")) {
      const heading = button.closest("th");
      if (button.dataset.sort !== key) heading.removeAttribute("aria-sort");
      else heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    }
  }

  showMore() {
    const first = this.list.children.length;
    const rows = this.visible.slice(first, first + CONCEPTS_AT_ONCE).map((concept) => {
      const row = this.rows.get(concept.code);
      this.fillWords(row.cells[1], concept, this.wanted);
      return row;
    });
    this.list.append(...rows);
    if (first && rows.length) rows[0].querySelector("a").focus();
    this.more.hidden = this.list.children.length === this.visible.length;
  }

  sortBy(key) {
    const again = this.order.key === key;
    this.order = { key, descending: again ? !this.order.descending : key !== "code" && key !== "label" };
    this.showList();
  }

  // The list, with the word that is looked for in the address. Filters stay, unless another word is asked for.
  open(word = "") {
    const field = this.form.elements.word;
    if (word && word !== field.value.trim()) {
      this.form.reset();
      field.value = word;
    }
    this.showList();
    const shown = field.value.trim();
    history.replaceState(null, "", shown ? `#/concepts/${encodeURIComponent(shown)}` : "#/concepts");
  }

  // ----------------------------------------------------------------------------------------------------- one concept

  // The number of a concept says nothing: its words are beside it wherever it is named.
  heading(code) {
    const concept = this.byCode.get(code);
    const words = concept?.gist ?? this.others[code] ?? [];
    const number = `Concept ${concept?.number ?? code}`;
    return words.length ? `${number}: ${words.join(", ")}` : number;
  }

  reference(code) {
    const concept = this.byCode.get(code);
    if (!concept) return element("span", {}, this.heading(code));
    return element("span", {}, link(`#/concept/${code}`, this.heading(code)), ...this.name(concept));
  }

  // In the list, where the words have a column of their own.
  numbered(concept) {
    const swatch = this.hasLabels ? [] : [element("span", { className: "swatch", ...conceptColour(concept) })];
    return [...swatch, link(`#/concept/${concept.code}`, `Concept ${concept.number}`), ...this.name(concept)];
  }

  name(concept) {
    if (!concept.name) return [];
    return [" ", concept.name, " ", element("span", { className: "made", title: concept.name_note }, concept.named_by)];
  }

  title(code) {
    const concept = this.byCode.get(code);
    const heading = this.heading(code).replace("Concept", "concept");
    if (!concept) return heading;
    const name = concept.name ? ` “${concept.name}” (${concept.named_by})` : "";
    const label = concept.label === null ? "" : ` · ${this.labels[concept.label]} ${percent(concept.purity)}`;
    return heading.replace(/^concept [\d +]*\d/, (number) => number + name) + label;
  }

  page(code) {
    const concept = this.byCode.get(code);
    if (!concept) return null;
    return [
      this.steps(concept),
      element("h2", { id: "concept-title", tabIndex: -1 }, this.heading(code)),
      concept.name ? element("p", { className: "muted" }, `“${concept.name}” (${concept.name_note})`) : null,
      concept.group ? element("p", { className: "muted" }, `Group: ${concept.group}`) : null,
      element("p", {}, `${count(concept.tokens, "token")} in ${count(concept.texts, "text")}.`),
      concept.rare && this.hasLabels ? element("p", { className: "note" }, "It occurs in few texts, so its labels may be due to chance and its tokens have no colour.") : null,
      element(
        "div",
        { className: "columns" },
        element("div", {}, element("h3", {}, "Words"), this.cloud(concept), this.wordList(concept)),
        element("div", {}, ...this.labelPart(concept), ...this.effectPart(concept), ...this.nearPart(concept)),
      ),
      ...this.routingPart(concept),
      ...this.examplePart(concept),
    ];
  }

  steps(concept) {
    if (!this.visible.length) this.showList();
    const place = this.visible.indexOf(concept);
    const steps = [link("#/concepts", "All concepts")];
    if (place > 0) steps.push(link(`#/concept/${this.visible[place - 1].code}`, "← Previous in the list"));
    if (place >= 0 && place + 1 < this.visible.length) steps.push(link(`#/concept/${this.visible[place + 1].code}`, "Next in the list →"));
    steps.forEach((step) => (step.className = "button"));
    return element("nav", { className: "steps", "aria-label": "Concepts" }, ...steps);
  }

  // Its words are a list too, just below: the picture is one image for those who hear the page.
  cloud(concept) {
    const words = concept.cloud.map(([word, size, x, y, width]) =>
      svgElement("text", { x, y, "font-size": size, textLength: width, lengthAdjust: "spacingAndGlyphs" }, word),
    );
    return svgElement("svg", { class: "cloud", viewBox: "0 0 360 220", role: "img", "aria-label": "Word cloud of the words below" }, ...words);
  }

  wordList(concept) {
    const items = concept.words.map(([word, number]) =>
      element("li", {}, link(`#/concepts/${encodeURIComponent(word)}`, word), " ", element("span", { className: "muted" }, String(number))),
    );
    const list = (some) => element("ul", { className: "words" }, ...some);
    if (items.length <= 24) return list(items);
    const rest = element("details", {}, element("summary", {}, `${items.length - 20} more words`), list(items.slice(20)));
    return element("div", {}, list(items.slice(0, 20)), rest);
  }

  labelPart(concept) {
    if (!concept.counts.length) return [];
    const total = concept.counts.reduce((sum, number) => sum + number, 0);
    const say = (share, label) => `${concept.counts[label].toLocaleString("en")} (${percent(share)})`;
    const shares = concept.counts.map((number) => number / total);
    return [element("h3", {}, "Labels of its texts"), ...labelBar(shares, this.labels, this.numColours, say)];
  }

  effectPart(concept) {
    const { effect, salient } = concept;
    if (!effect && !salient) return [];
    const parts = [`It is the salient concept of ${count(effect ? effect.texts : salient, "text")}.`];
    if (effect) {
      parts.push(` Removing it there changes the margin of the prediction by ${signed(effect.margin)} on average, and the`);
      parts.push(` prediction itself in ${count(effect.flips, "text")}. ${this.protocol}.`);
    }
    return [element("h3", {}, "What the model uses it for"), element("p", {}, ...parts)];
  }

  nearPart(concept) {
    if (!concept.near.length) return [];
    const items = concept.near.map(([code, cosine]) => {
      const swatch = element("span", { className: "swatch", ...conceptColour(this.byCode.get(code)) });
      return element("li", {}, swatch, this.reference(code), element("span", { className: "muted" }, ` cosine ${fixed(cosine)}`));
    });
    return [element("h3", {}, "Nearest concepts"), element("ul", { className: "near" }, ...items)];
  }

  routingPart(concept) {
    const rows = this.routing.filter((word) => {
      const here = word.goes.filter((way) => way[2].includes(concept.code));
      return here.length && here.length < word.goes.length;
    });
    if (!rows.length) return [];
    const cells = rows.slice(0, 12).map((word) => [
      link(`#/concepts/${encodeURIComponent(word.word)}`, word.word),
      ...this.labels.map((_, label) => this.destination(word, label)),
    ]);
    return [
      element("h3", {}, "Words that go elsewhere under another label"),
      element("p", { className: "muted" }, "Where most of a word's tokens go in texts of each label. Chosen and counted on the same texts."),
      dataTable(["Word", ...this.labels], cells),
    ];
  }

  destination(word, label) {
    const way = word.goes.find((found) => found[0] === label);
    if (!way) return element("span", { className: "muted" }, "too rare");
    const codes = way[2].flatMap((code, place) => (place ? [" or ", this.reference(code)] : [this.reference(code)]));
    return [...codes, element("span", { className: "muted" }, ` of ${count(way[1], "token")}`)];
  }

  examplePart(concept) {
    const items = concept.examples.map((example) => {
      const pieces = example.pieces.map(([text, marked]) => (marked ? element("mark", { ...conceptColour(concept), ...blankSign(text) }, text) : text));
      const wrong = example.label !== null && example.prediction !== null && example.label !== example.prediction;
      const facts = [];
      if (example.label !== null) facts.push(`label: ${example.label}`);
      if (example.prediction !== null) facts.push(`predicted: ${example.prediction}`);
      const note = element("span", { className: "muted" }, facts.join(" · "));
      const where = this.textIds.has(example.text) ? link(`#/text/${example.text}`, `Text ${example.text}`) : `Text ${example.text}`;
      return element("li", {}, element("span", {}, ...pieces), element("br"), where, " · ", note, ...(wrong ? [" ", element("span", { className: "wrong" }, "wrong")] : []));
    });
    return [element("h3", {}, "Sentences that show it"), element("ol", { className: "examples" }, ...items)];
  }
}
