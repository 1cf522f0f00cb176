"use strict";
// Sorting by a click on a column's head, and showing only the rows that contain some words.

function sortValue(cell) {
  const value = cell.dataset.sort;
  if (value === undefined) return null;
  return value !== "" && Number.isFinite(Number(value)) ? Number(value) : value;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}

function sortBy(table, head) {
  const heads = [...head.parentNode.children];
  const column = heads.indexOf(head);
  const rows = [...table.tBodies[0].rows];
  // Numbers are looked at from the highest, names from A.
  const first = head.classList.contains("number") ? "descending" : "ascending";
  const second = first === "descending" ? "ascending" : "descending";
  const direction = head.getAttribute("aria-sort") === first ? second : first;
  heads.forEach((other) => other.setAttribute("aria-sort", other === head ? direction : "none"));
  const sign = direction === "ascending" ? 1 : -1;
  rows.sort((x, y) => {
    const [a, b] = [sortValue(x.cells[column]), sortValue(y.cells[column])];
    if (a === null || b === null) return (a === null) - (b === null); // what is missing stays last
    return sign * compare(a, b);
  });
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const head of table.tHead.rows[0].cells) {
    head.querySelector("button").addEventListener("click", () => sortBy(table, head));
  }
}

for (const input of document.querySelectorAll("input.filter")) {
  const rows = input.parentNode.querySelector("table").tBodies[0].rows;
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
}
