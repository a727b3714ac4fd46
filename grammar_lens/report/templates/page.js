"use strict";

// Figures: each is drawn from the block its element names. Those near the window come first,
// the others when the browser has time, and all at once before printing.
const CONFIG = {responsive: true, displaylogo: false, plotlyServerURL: ""};
const waiting = new Set(document.querySelectorAll(".plot"));
const whenIdle = window.requestIdleCallback || ((work) => setTimeout(work, 0));

// Blocks, as packing.py writes them. Once inflated they are at hand without waiting, as printing needs.
const inflated = new Map();
const canUnpack = "DecompressionStream" in window;

async function inflate(id) {
  const text = atob(document.getElementById(id).textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  inflated.set(id, await new Response(stream).arrayBuffer());
}

// The JSON of a block, and the bytes of the arrays that it points to.
function contents(id) {
  const buffer = inflated.get(id);
  const length = new DataView(buffer).getUint32(0, true);
  const text = new TextDecoder().decode(new Uint8Array(buffer, 4, length));
  return {data: JSON.parse(text), numbers: new Uint8Array(buffer, 4 + length)};
}

// plotly.js is inflated at once, and run when the page itself has been shown.
const plotlyText = canUnpack && inflate("plotly");
let plotly = null;
function loadPlotly() {
  plotly = plotly || plotlyText.then(() => {
    const script = document.createElement("script");
    script.textContent = new TextDecoder().decode(inflated.get("plotly"));
    inflated.delete("plotly");
    document.head.append(script);
  });
  return plotly;
}

// Arrays: the first bytes of all numbers, then all second ones; halves and steps have a scale.
const ARRAYS = {u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i2: Int16Array, f2: Uint16Array,
  f4: Float32Array};
const MISSING = -32768;
let halves = null;

function half(bits) {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const sign = bits >> 15 ? -1 : 1;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent ? sign * (1 + fraction / 1024) * 2 ** (exponent - 15) : sign * fraction * 2 ** -24;
}

function unpack(packed, numbers) {
  const raw = new ARRAYS[packed.dtype](packed.shape.reduce((a, b) => a * b, 1));
  const bytes = new Uint8Array(raw.buffer);
  const width = raw.BYTES_PER_ELEMENT;
  for (let i = 0; i < bytes.length; i++) {
    bytes[(i % raw.length) * width + Math.floor(i / raw.length)] = numbers[packed.at + i];
  }
  if (!packed.scale) return raw;
  if (packed.dtype !== "f2") {
    return Float32Array.from(raw, (x) => (x === MISSING ? NaN : x * packed.scale));
  }
  halves = halves || Float32Array.from({length: 65536}, (_, bits) => half(bits));
  const values = new Float32Array(raw.length);
  for (let i = 0; i < raw.length; i++) values[i] = halves[raw[i]] * packed.scale;
  return values;
}

function unpackRows(packed, numbers) {
  const width = packed.shape[1];
  const flat = unpack(packed, numbers);
  return Array.from({length: flat.length / width}, (_, i) => flat.subarray(i * width, (i + 1) * width));
}

function wrap(text, most) {
  const lines = [];
  for (const part of text.split("<br>")) {
    let line = "";
    for (const word of part.split(" ")) {
      if (line && line.length + 1 + word.length > most) {
        lines.push(line);
        line = word;
      } else {
        line = line ? `${line} ${word}` : word;
      }
    }
    lines.push(line);
  }
  return lines;
}

// Titles of figures and axes do not wrap by themselves and would be cut off on a telephone.
function fit(layout, shown, width) {
  const title = layout.title;
  const first = wrap(title.text, Math.floor((shown - 20) / 9.8));
  const second = wrap(title.subtitle.text, Math.floor((shown - 20) / 6.9));
  const grown = 22 * (first.length - 1) + 17 * (second.length - 1);
  title.text = first.join("<br>");
  title.subtitle.text = second.join("<br>");
  layout.margin = {...layout.margin};
  layout.margin.t = (layout.margin.t || layout.template.layout.margin.t) + grown;
  layout.height += grown;
  for (const [name, axis] of Object.entries(layout)) {
    if (!name.startsWith("xaxis") || !axis.title || !axis.title.text) continue;
    const [from, to] = axis.domain || [0, 1];
    const most = Math.floor(((width - 110) * (to - from)) / 7.6);
    axis.title.text = wrap(axis.title.text, most).join("<br>");
  }
}

// Numbers in the cells of a matrix do not shrink by themselves and would overlap on a telephone.
function fitCells(spec, width) {
  for (const trace of spec.data) {
    if (!trace.texttemplate || !Array.isArray(trace.text) || !Array.isArray(trace.x)) continue;
    if (width < 620) trace.showscale = false;
    const labels = Math.max(...trace.x.map((name) => String(name).length));
    const beside = Math.min(7.5 * labels, 150) + (trace.showscale === false ? 60 : 150);
    const room = (width - beside) / trace.x.length;
    const signs = () => Math.max(...trace.text.flat().map((cell) => String(cell).length), 1);
    const size = () => Math.floor(room / (0.72 * signs()));
    const usual = (trace.textfont && trace.textfont.size) || 12;
    if (size() < usual) {
      trace.text = trace.text.map((row) => row.map((cell) =>
        String(cell).replace(/(^|\u2212|\+)0\./, "$1.").replace(" ", "")));
    }
    if (size() < 7) delete trace.texttemplate; // hovering still tells them
    trace.textfont = {...trace.textfont, size: Math.max(Math.min(size(), usual), 7)};
  }
}

// Panels side by side would run into each other on a telephone: they keep a width, and scroll.
function widthOf(layout, room) {
  const axes = Object.entries(layout).filter(([name]) => name.startsWith("xaxis"));
  const columns = new Set(axes.map(([, axis]) => (axis.domain || [0])[0])).size;
  return columns > 1 ? Math.max(room, 110 + 290 * columns) : room;
}

// Draws at once where the block is inflated, as printing needs.
async function draw(plot, width = null) {
  const id = plot.dataset.figure;
  waiting.delete(plot);
  if (!window.Plotly) await loadPlotly();
  if (!inflated.has(id)) await inflate(id);
  if (plot.dataset.figure !== id) return; // another was chosen meanwhile
  const {data: spec, numbers} = contents(id);
  for (const trace of spec.data) {
    if (trace.z && trace.z.scale) trace.z = unpackRows(trace.z, numbers);
    const within = trace.customdata; // a unit's place in its bin
    if (within && within.width) {
      trace.customdata = unpackRows(within, numbers).map((row) =>
        Array.from(row, (place, bin) => place + bin * within.width));
    }
  }
  const wide = width || widthOf(spec.layout, plot.clientWidth);
  fit(spec.layout, width || plot.clientWidth, wide);
  fitCells(spec, wide);
  if (wide !== plot.clientWidth) spec.layout.width = wide;
  if (wide > plot.clientWidth) plot.tabIndex = 0;
  else plot.removeAttribute("tabindex");
  plot.style.minHeight = spec.layout.height + "px";
  plot.querySelector(":scope > .still")?.remove();
  await Plotly.react(plot, spec.data, spec.layout, CONFIG);
  describe(plot, document.getElementById(id).dataset.description);
  lead(plot);
}

// The words for a figure belong to its picture; the buttons beside that are no part of an image.
function describe(plot, words) {
  plot.removeAttribute("role");
  plot.removeAttribute("aria-label");
  const [picture, ...layers] = plot.querySelectorAll("svg.main-svg");
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", words);
  for (const layer of layers) layer.setAttribute("aria-hidden", "true");
}

// The marked neurons of a heatmap lead to their pages.
function lead(plot) {
  if (!plot.dataset.neurons || plot.dataset.leads) return;
  plot.dataset.leads = "yes";
  const marked = (event) => event.points.find((point) => point.data.mode === "markers");
  plot.on("plotly_click", (event) => {
    const point = marked(event);
    if (point) location.hash = `#neuron-${plot.dataset.neurons}-${point.y}.${point.x}`;
  });
  plot.on("plotly_hover", (event) => {
    plot.classList.toggle("leading", Boolean(marked(event)));
  });
  plot.on("plotly_unhover", () => plot.classList.remove("leading"));
}

// Headings that open: which ones are open stands in the address, ?open=probe,lesions, or "all".
const folds = Array.from(document.querySelectorAll("details.fold"));
const hidden = (element) => Boolean(element.parentElement.closest("details:not([open])"));

function openAround(element) {
  const own = element.querySelector(":scope > details.fold"); // of a section
  if (own) own.open = true;
  for (let up = element.closest("details"); up; up = up.parentElement.closest("details")) up.open = true;
}

function openLinked() {
  const name = decodeURIComponent(location.hash.slice(1));
  const target = document.getElementById(name.startsWith("neuron-") ? "neurons" : name);
  if (target) openAround(target);
  return target;
}

function keepInAddress() {
  const open = folds.filter((fold) => fold.open).map((fold) => fold.dataset.fold);
  const names = open.length === folds.length ? "all" : open.join(",");
  const query = names ? `?open=${names}` : location.pathname;
  try {
    history.replaceState(null, "", query + location.hash);
  } catch {
    // an address that may not change
  }
}

const asked = (new URLSearchParams(location.search).get("open") || "").split(",");
for (const fold of folds) fold.open = asked.includes("all") || asked.includes(fold.dataset.fold);
openLinked();
for (const details of document.querySelectorAll("details")) {
  details.addEventListener("toggle", () => {
    if (details.classList.contains("fold")) keepInAddress();
    if (!details.open) return;
    if (details.querySelector("#neuron")) window.dispatchEvent(new Event("hashchange"));
    begin();
  });
}
window.addEventListener("hashchange", openLinked);
for (const link of document.querySelectorAll("nav a")) {
  link.addEventListener("click", () => {
    openAround(document.getElementById(link.hash.slice(1)));
  });
}

const near = new Set();
const watcher = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) near.add(entry.target);
      else near.delete(entry.target);
    }
  },
  {rootMargin: "400px"},
);
for (const plot of waiting) watcher.observe(plot);

let drawing = false;
function begin() {
  if (drawing || !canUnpack) return;
  drawing = true;
  delete document.documentElement.dataset.drawn;
  drawNext();
}

// what is folded away has no width, and is drawn when it opens
async function drawNext() {
  const can = (plot) => waiting.has(plot) && !hidden(plot);
  const [plot] = [...near].filter(can).concat([...waiting].filter(can));
  if (!plot) {
    drawing = false;
    if (!waiting.size) watcher.disconnect();
    document.documentElement.dataset.drawn = "yes";
    prepare();
    return;
  }
  await draw(plot);
  if ([...near].some(can)) setTimeout(drawNext, 0);
  else whenIdle(drawNext, {timeout: 500});
}

// Inflates what is not yet seen, a block at a time.
let preparing = false;
function prepare() {
  if (preparing) return;
  preparing = true;
  const blocks = document.querySelectorAll("script[type='text/plain']:not(#plotly)");
  const left = Array.from(blocks, (block) => block.id);
  const next = async () => {
    const id = left.shift();
    if (!inflated.has(id)) await inflate(id);
    if (left.length) whenIdle(next);
    else document.documentElement.dataset.prepared = "yes";
  };
  if (left.length) whenIdle(next);
}

// a printed page is narrower than the window, and tells nobody
const PRINTED = 640;
let printed = Promise.resolve();
function drawAll(width) {
  const shown = Array.from(document.querySelectorAll(".plot")).filter((plot) => !hidden(plot));
  return Promise.all(shown.map((plot) => draw(plot, width)));
}
window.addEventListener("beforeprint", () => {
  if (!canUnpack) return;
  for (const details of document.querySelectorAll("details")) details.open = true;
  printed = drawAll(PRINTED);
});
window.addEventListener("afterprint", async () => {
  if (!canUnpack) return;
  await printed; // printing may be over before the last figure is
  for (const plot of document.querySelectorAll(".plot")) {
    Plotly.purge(plot); // it would keep its width, and forgets where its marks lead
    delete plot.dataset.leads;
    await draw(plot);
  }
});

// lines of titles are broken anew when the window's width changes
let shown = window.innerWidth;
let later = 0;
window.addEventListener("resize", () => {
  clearTimeout(later);
  later = setTimeout(() => {
    if (window.innerWidth === shown || !document.documentElement.dataset.drawn) return;
    shown = window.innerWidth;
    drawAll(null);
    for (const plot of document.querySelectorAll(".plot")) if (hidden(plot)) waiting.add(plot);
  }, 200);
});

for (const select of document.querySelectorAll("select[data-plot]")) {
  const plot = document.getElementById(select.dataset.plot);
  plot.dataset.figure = select.value; // a reload keeps what was chosen
  select.addEventListener("change", () => {
    plot.dataset.figure = select.value;
    draw(plot);
  });
}

// Tables: the buttons in the headers sort, the search field filters.
function sortTable(table, column) {
  const head = table.tHead.rows[0].cells[column];
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const numeric = head.classList.contains("number");
  const key = (row) => row.cells[column].dataset.key;
  const size = (row) => (key(row) === "" ? -Number.MAX_VALUE : Number(key(row)));
  const order = (a, b) =>
    numeric ? size(a) - size(b) : key(a).localeCompare(key(b));
  const rows = Array.from(table.tBodies[0].rows);
  rows.sort((a, b) => (down ? order(b, a) : order(a, b)));
  table.tBodies[0].append(...rows);
}

function filterTable(field) {
  const table = document.getElementById(field.dataset.table);
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of table.tBodies[0].rows) {
    const cells = Array.from(row.cells, (cell) => cell.textContent.toLowerCase());
    // a neuron's address is matched from its start, so that 3.1 is not found in 13.1
    row.hidden = !words.every((word) =>
      cells.some((text) => (/^\d/.test(word) ? text.startsWith(word) : text.includes(word))));
    shown += !row.hidden;
  }
  document.getElementById(field.dataset.count).textContent =
    `${shown} of ${table.tBodies[0].rows.length} rows`;
}

function makeSortable(table) {
  for (const head of table.tHead.rows[0].cells) {
    head.querySelector("button").addEventListener("click", () => sortTable(table, head.cellIndex));
  }
}

for (const table of document.querySelectorAll("table.sortable")) makeSortable(table);
for (const field of document.querySelectorAll("input[data-table]")) {
  field.addEventListener("input", () => filterTable(field));
  filterTable(field);
}

// after the first picture of the page itself
requestAnimationFrame(() => setTimeout(begin, 0));
