"use strict";
// Draws the plots of a page, sorts its tables and lays both out for paper.

const PAPER_WIDTH = 680; // CSS pixels between the margins of A4
const plots = () => [...document.querySelectorAll(".plotly-graph-div")];
const read = (id) => JSON.parse(document.getElementById(id).textContent);

// Figures that show candidates name them by number: each text stands in the page once.
function withTexts(data) {
  const numbered = data.filter((trace) => trace.meta === "candidates");
  if (numbered.length === 0) return data;
  const texts = read("candidates");
  numbered.forEach((trace) => { trace.text = trace.customdata.map((number) => texts[number]); });
  return data;
}

function draw(plot) {
  const figure = read(`${plot.id}-data`);
  const config = { displaylogo: false, displayModeBar: false, responsive: true };
  return Plotly.newPlot(plot, withTexts(figure.data), figure.layout, config);
}

function compare(left, right) {
  const numbers = [Number(left), Number(right)];
  return numbers.some(Number.isNaN) ? left.localeCompare(right) : numbers[0] - numbers[1];
}

function sortBy(button) {
  const head = button.closest("th");
  const body = button.closest("table").tBodies[0];
  const key = (row) => row.cells[head.cellIndex].dataset.sort;
  const order = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  const sign = order === "ascending" ? 1 : -1;
  const known = [...body.rows].filter((row) => key(row) !== "");
  const unknown = [...body.rows].filter((row) => key(row) === ""); // last in either order
  known.sort((one, other) => sign * compare(key(one), key(other)));
  body.append(...known, ...unknown);
  head.parentElement.querySelectorAll("th").forEach((each) => each.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", order);
}

let closed = [];

function layOutForPaper() {
  closed = [...document.querySelectorAll("details:not([open])")];
  closed.forEach((each) => { each.open = true; });
  plots().forEach((plot) => {
    const columns = plot.closest(".trio") ? 3 : plot.closest(".pair") ? 2 : 1;
    Plotly.relayout(plot, { autosize: false, width: (PAPER_WIDTH - 12 * (columns - 1)) / columns });
  });
}

function layOutForScreen() {
  closed.forEach((each) => { each.open = false; });
  plots().forEach((plot) => Plotly.relayout(plot, { autosize: true, width: null }));
}

document.querySelectorAll("th button").forEach((button) => {
  button.addEventListener("click", () => sortBy(button));
});
addEventListener("beforeprint", layOutForPaper);
addEventListener("afterprint", layOutForScreen);
// The mark is for programs that make pictures of the page.
addEventListener("load", () => Promise.all(plots().map(draw)).then(() => { document.body.dataset.drawn = ""; }));
