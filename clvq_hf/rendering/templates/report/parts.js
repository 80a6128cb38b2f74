// What every page of the report is made of. Text from data becomes text nodes only, never markup.
"use strict";

// An element with properties and children. A property that begins with "--" is a style, "data-" and "aria-" attributes.
function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  setProperties(made, properties);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function svgElement(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function setProperties(made, properties) {
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("--") || key === "flex") made.style.setProperty(key, value);
    else if (key.includes("-") || key === "role" || key === "scope") made.setAttribute(key, value);
    else made[key] = value;
  }
}

function link(address, ...children) {
  return element("a", { href: address }, ...children);
}

// For text that cannot be seen: what stands for it, which the style sheet shows before it.
function blankSign(text) {
  if (text.trim()) return {};
  return { "data-sign": text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replace(/\s/g, "␣") || "·" };
}

function percent(share) {
  return fixed(100 * share, 0) + " %";
}

// With a real minus sign, and none before a number that rounds to zero.
function fixed(number, digits = 2) {
  const written = Math.abs(number).toFixed(digits);
  return number < 0 && Number(written) !== 0 ? "−" + written : written;
}

function signed(number) {
  const written = fixed(number);
  return number > 0 && Number(written) !== 0 ? "+" + written : written;
}

function count(number, one, many = one + "s") {
  return number.toLocaleString("en") + " " + (number === 1 ? one : many);
}

// Of a label: its colour as a style, or none.
function labelColour(label, numColours) {
  return label === null || label < 0 ? {} : { "--colour": `var(--label-${label % numColours})` };
}

// Of a concept: the colour of its majority label, the stronger the purer; without labels a colour and a line.
function conceptColour(concept) {
  if (!concept || concept.colour === null) return {};
  return { "--colour": `var(--label-${concept.colour})`, "--strength": concept.strength + "%", "data-line": String(concept.line) };
}

// A bar of shares that add up to one, with a legend that says the same in words.
function labelBar(shares, names, numColours, say) {
  const bar = element("div", { className: "bar", "aria-hidden": "true" });
  const legend = element("ul", { className: "legend" });
  shares.forEach((share, label) => {
    if (share > 0) bar.append(element("span", { ...labelColour(label, numColours), flex: String(share) }));
    const swatch = element("span", { className: "swatch", ...labelColour(label, numColours) });
    legend.append(element("li", {}, swatch, `${names[label]}: ${say(share, label)}`));
  });
  return [bar, legend];
}

function dataTable(header, rows) {
  const head = element("tr", {}, ...header.map((name) => element("th", { scope: "col" }, name)));
  const body = rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, ...[cell].flat()))));
  return element("div", { className: "scroll" }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...body)));
}

// Contents that were packed with zlib, and written in base64.
async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}
