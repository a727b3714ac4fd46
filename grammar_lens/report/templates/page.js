"use strict";

// Figures: each is drawn from the JSON block its element names, one after the other when the
// browser has time, and all at once before printing.
const CONFIG = {responsive: true, displaylogo: false, plotlyServerURL: ""};
const waiting = Array.from(document.querySelectorAll(".plot"));

function draw(plot) {
  const spec = JSON.parse(document.getElementById(plot.dataset.figure).textContent);
  plot.style.minHeight = spec.layout.height + "px";
  plot.setAttribute("aria-label", document.getElementById(plot.dataset.figure).dataset.description);
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
window.addEventListener("beforeprint", () => {
  while (waiting.length) draw(waiting.shift());
  for (const plot of document.querySelectorAll(".plot")) Plotly.relayout(plot, {width: 640});
});
window.addEventListener("afterprint", () => {
  for (const plot of document.querySelectorAll(".plot")) {
    Plotly.relayout(plot, {width: null, autosize: true});
  }
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
