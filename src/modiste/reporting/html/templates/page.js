document.querySelectorAll("table.sortable th").forEach((head) => {
  head.tabIndex = 0;
  const sort = () => {
    const body = head.closest("table").tBodies[0], at = head.cellIndex, down = head.ariaSort !== "descending";
    const key = (row) => { const c = row.cells[at]; return c.dataset.sort ?? c.textContent.trim(); };
    const compare = (a, b) => {
      const x = key(a), y = key(b), n = Number(x) - Number(y);
      return x !== "" && y !== "" && !Number.isNaN(n) ? n : x.localeCompare(y);
    };
    [...body.rows].sort((a, b) => (down ? compare(b, a) : compare(a, b))).forEach((row) => body.append(row));
    head.parentNode.querySelectorAll("th").forEach((other) => { other.ariaSort = null; });
    head.ariaSort = down ? "descending" : "ascending";
  };
  head.addEventListener("click", (event) => { if (!event.target.closest("a")) sort(); });
  head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
});
const open = () => { const at = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let d = at && at.closest("details"); d; d = d.parentElement.closest("details")) d.open = true;
  if (at) at.scrollIntoView(); };
addEventListener("hashchange", open);
open();
