"use strict";

// Figures: each is drawn from the JSON block its element names, one after the other when the
// browser has time, and all at once before printing.
const CONFIG = {responsive: true, displaylogo: false, plotlyServerURL: ""};
const waiting = Array.from(document.querySelectorAll(".plot"));

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
function fit(layout, width) {
  const title = layout.title;
  const first = wrap(title.text, Math.floor((width - 20) / 9.8));
  const second = wrap(title.subtitle.text, Math.floor((width - 20) / 6.9));
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

function draw(plot, width = null) {
  const block = document.getElementById(plot.dataset.figure);
  const spec = JSON.parse(block.textContent);
  fit(spec.layout, width || plot.clientWidth);
  if (width) spec.layout.width = width;
  plot.style.minHeight = spec.layout.height + "px";
  plot.setAttribute("aria-label", block.dataset.description);
  return Plotly.react(plot, spec.data, spec.layout, CONFIG);
}

async function drawNext() {
  const plot = waiting.shift();
  if (!plot) {
    document.documentElement.dataset.drawn = "yes";
    return;
  }
  await draw(plot);
  setTimeout(drawNext, 0);
}

// a printed page is narrower than the window, and tells nobody
const PRINTED = 640;
function drawAll(width) {
  for (const plot of document.querySelectorAll(".plot")) draw(plot, width);
}
window.addEventListener("beforeprint", () => {
  waiting.length = 0;
  drawAll(PRINTED);
});
window.addEventListener("afterprint", () => {
  for (const plot of document.querySelectorAll(".plot")) {
    Plotly.relayout(plot, {width: null, autosize: true});
    draw(plot);
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

for (const table of document.querySelectorAll("table.sortable")) {
  for (const head of table.tHead.rows[0].cells) {
    head.querySelector("button").addEventListener("click", () => sortTable(table, head.cellIndex));
  }
}
for (const field of document.querySelectorAll("input[data-table]")) {
  field.addEventListener("input", () => filterTable(field));
  filterTable(field);
}

drawNext();
