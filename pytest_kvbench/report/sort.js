// A click on a column's head sorts its table; a second click the other way. Empty cells stay last.
const keyOf = (row, column) => {
  const cell = row.cells[column];
  return cell.dataset.key ?? cell.textContent.trim();
};
const compare = (a, b) => {
  if (a === "" || b === "") return 0;
  return isNaN(a) || isNaN(b) ? a.localeCompare(b, "en", { numeric: true }) : a - b;
};
document.querySelectorAll("th button").forEach((button) => button.addEventListener("click", () => {
  const head = button.parentElement, body = head.closest("table").tBodies[0];
  const sign = head.ariaSort === "ascending" ? -1 : 1, column = head.cellIndex;
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.ariaSort = sign > 0 ? "ascending" : "descending";
  const empty = (row) => ["", "–"].includes(keyOf(row, column));
  const rows = [...body.rows].sort((a, b) =>
    empty(a) - empty(b) || sign * compare(keyOf(a, column), keyOf(b, column)));
  body.append(...rows);
}));
